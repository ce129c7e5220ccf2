"""A folder with one image and one sound."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one image and one sound."""
    pixels = np.arange(8 * 6 * 3, dtype=np.uint8).reshape(6, 8, 3)
    Image.fromarray(pixels).save(tmp_path / "seven.png")
    tone = np.sin(np.arange(800) / 10).astype(np.float32) / 2
    soundfile.write(tmp_path / "three.wav", np.stack([tone, tone], axis=1), 8000)
    return tmp_path
