"""What a file is called in errors."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO


def name_file(file: Path | BinaryIO) -> str:
    """Its path, or that it lies in memory."""
    return str(file) if isinstance(file, Path) else "in memory"
