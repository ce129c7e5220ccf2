"""What a run depended on and took: versions, the machine, and the most memory that it held."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata

import torch

from trimodal import machine
from trimodal.core import Machine

_VERSIONS_OF = ("trimodal", "torch", "transformers", "numpy", "safetensors")
_TOLD = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512_vnni": "AVX-512 VNNI", "avx_vnni": "AVX VNNI", "amx_int8": "AMX"}


def collect_versions() -> dict[str, str]:
    """Versions of what decides the numbers, and the machine's own part in them."""
    found = {name: metadata.version(name) for name in _VERSIONS_OF}
    return {**found, "python": platform.python_version(), "threads": str(torch.get_num_threads())}


def detect_machine() -> Machine:
    """What this process runs on."""
    name, vectors = machine.detect_processor()
    return Machine(
        processor=name, instructions=_list_instructions(vectors), cores=machine.count_cores(), threads=torch.get_num_threads(),
        memory_bytes=_total_memory_bytes(),
    )  # fmt: skip


def peak_memory_bytes() -> int | None:
    """The most memory that this process has held at once; None where the system does not count it."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


def _list_instructions(vectors: tuple[str, ...]) -> str:
    """The vector instructions that the processor has; where it does not tell, those that PyTorch found."""
    return ", ".join(_TOLD[flag] for flag in vectors if flag in _TOLD) or str(torch.backends.cpu.get_cpu_capability())


def _total_memory_bytes() -> int | None:
    """Bytes of memory of the machine."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
