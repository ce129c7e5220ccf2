"""Pictures for the tests of `train`."""

from __future__ import annotations

from pathlib import Path

import pytest

from trimodal.networks.tiny import write_miniature_data


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_miniature_data(tmp_path_factory.mktemp("pictures"), 48, ["image"])
