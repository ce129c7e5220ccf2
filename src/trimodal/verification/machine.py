"""The machine of a run, and the most memory that the run held."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

import torch

from trimodal.core import Machine

_CPU_INFO = Path("/proc/cpuinfo")
_TOLD = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512_vnni": "AVX-512 VNNI", "avx_vnni": "AVX VNNI", "amx_int8": "AMX"}


def this_machine() -> Machine:
    """What this process runs on."""
    told = _cpu_info()
    return Machine(
        processor=told.get("model name", "") or platform.processor() or platform.machine(),
        instructions=_instructions(told.get("flags", "")),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        memory_bytes=_memory(),
    )


def peak_bytes() -> int | None:
    """The most memory that this process has held at once; None where the system does not count it."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


def _cpu_info() -> dict[str, str]:
    """What the system tells about the first processor."""
    try:
        lines = _CPU_INFO.read_text(encoding="utf-8", errors="replace").partition("\n\n")[0].splitlines()
    except OSError:
        return {}
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _instructions(flags: str) -> str:
    """The vector instructions that the processor has; where it does not tell, those that PyTorch found."""
    found = [name for flag, name in _TOLD.items() if flag in flags.split()]
    return ", ".join(found) or str(torch.backends.cpu.get_cpu_capability())


def _memory() -> int | None:
    """Bytes of memory of the machine."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
