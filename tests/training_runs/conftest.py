"""Pictures for the tests of `train`."""

from __future__ import annotations

from pathlib import Path

import pytest

from trimodal.networks.tiny import write_miniature, write_miniature_data


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_miniature_data(tmp_path_factory.mktemp("pictures"), 48, ["image"])


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_miniature("vit", tmp_path_factory.mktemp("vit") / "vit")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_miniature_data(tmp_path_factory.mktemp("pairs"), 24, ["image", "text"])


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_miniature("clip", tmp_path_factory.mktemp("clip") / "clip")
