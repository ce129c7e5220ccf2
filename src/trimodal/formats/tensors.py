"""Tensors in a safetensors file whose bytes follow from its content alone."""

from __future__ import annotations

import json
import stat
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from trimodal.errors import IntegrityError


def write_tensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], file: Path) -> None:
    """Write `tensors`, contiguous and on the CPU, in their own dtypes, and `metadata`; permissions as of any file made here."""
    file.touch()
    permissions = stat.S_IMODE(file.stat().st_mode)
    save_file(dict(tensors), file, dict(metadata))
    _settle_header_(file)
    file.chmod(permissions)  # safetensors ignores the umask


def _settle_header_(file: Path) -> None:
    """Put the header's metadata in order: safetensors writes it in an order that differs from run to run."""
    with file.open("r+b") as opened:
        length = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) > length:
            raise IntegrityError(f"the header of {file} is not written as safetensors writes it; report this")
        opened.seek(8)
        opened.write(text.ljust(length))
