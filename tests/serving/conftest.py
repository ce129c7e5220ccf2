"""Miniatures exported once for all tests of serving, files as clients send them, and the app on a real port without models."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_service import FakeService
from loopback import Served
from media_files import make_png, make_wav

from trimodal.exporting.export import export
from trimodal.networks.tiny import write_miniature
from trimodal.serving.http.app import make_app
from trimodal.serving.http.settings import Settings
from trimodal.serving.limits import Limits
from trimodal.serving.served_model import open_served
from trimodal.serving.service import Service


@pytest.fixture(scope="session")
def served_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder per miniature with ONNX files in it: one that embeds two modalities, one that embeds texts, one that says what it hears."""
    found = {}
    for name in ("clip", "bert", "whisper"):
        folder = write_miniature(name, tmp_path_factory.mktemp("served") / name)
        if name == "bert":
            number_segments(folder)
        export(str(folder), "onnx", folder / "onnx")
        found[name] = folder
    return found


def number_segments(folder: Path) -> None:
    """Let the tokenizer make `token_type_ids` too, as those of published BERTs do, so that the exported file takes them."""
    file = folder / "tokenizer_config.json"
    names = ["input_ids", "token_type_ids", "attention_mask"]
    file.write_text(json.dumps({**json.loads(file.read_text()), "model_input_names": names}))


@pytest.fixture(scope="module")
def real(served_folders: dict[str, Path]) -> Iterator[Served]:
    """The app with all of `served_folders`."""
    service = Service([open_served(folder, name) for name, folder in served_folders.items()], Limits(), decoders=1)
    one = Served(make_app(service, Settings()), service=service)
    yield one
    one.close()


@pytest.fixture(scope="session")
def png() -> bytes:
    return make_png()


@pytest.fixture(scope="session")
def wav() -> bytes:
    return make_wav()


@pytest.fixture(scope="module")
def fake() -> FakeService:
    return FakeService()


@pytest.fixture(scope="module")
def served(fake: FakeService) -> Iterator[Served]:
    one = Served(make_app(fake, Settings()))
    yield one
    one.close()
