"""Miniatures exported once for all tests of serving, and files as clients send them."""

from __future__ import annotations

from pathlib import Path

import pytest
from media_files import make_png, make_wav

from trimodal.exporting.export import export
from trimodal.networks.tiny import write_miniature


@pytest.fixture(scope="session")
def served_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder per miniature with ONNX files in it: one that embeds two modalities, one that embeds texts, one that says what it hears."""
    found = {}
    for name in ("clip", "bert", "whisper"):
        folder = write_miniature(name, tmp_path_factory.mktemp("served") / name)
        export(str(folder), "onnx", folder / "onnx")
        found[name] = folder
    return found


@pytest.fixture(scope="session")
def png() -> bytes:
    return make_png()


@pytest.fixture(scope="session")
def wav() -> bytes:
    return make_wav()
