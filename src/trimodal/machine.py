"""What this machine has: processor, memory, disk, versions, optional parts. Read without importing torch."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from functools import cache
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PACKAGES = ("trimodal", "torch", "transformers", "safetensors", "numpy", "huggingface_hub")
VECTORS = ("avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "asimd", "asimddp", "i8mm", "sve")
PARTS = {
    "audio": ("sound files", ("soundfile", "scipy")),
    "train": ("training, distillation", ("accelerate", "tensorboard", "peft")),
    "pack": ("--pack entropy", ("constriction",)),
    "onnx": ("export to ONNX", ("onnx", "onnxscript", "onnxruntime")),
    "openvino": ("export to OpenVINO", ("onnx", "onnxscript", "onnxruntime", "openvino")),
    "data": ("Parquet files, datasets on disk and on the hub", ("pyarrow", "datasets")),
    "demo": ("trimodal demo", ("soundfile", "scipy", "accelerate", "peft", "sklearn", "onnx", "onnxscript", "onnxruntime", "openvino")),
}
_MAC_NAMES = {
    "avx2": ("hw.optional.avx2_0",), "avx512f": ("hw.optional.avx512f",), "avx512_vnni": ("hw.optional.avx512vnni",),
    "asimd": ("hw.optional.neon", "hw.optional.advsimd"), "asimddp": ("hw.optional.arm.feat_dotprod",),
    "i8mm": ("hw.optional.arm.feat_i8mm",),
}  # fmt: skip
_TORCH_SETS = {"AVX2": ("avx2", "fma"), "AVX512": ("avx2", "fma", "avx512f")}
_LIMIT_AND_USE = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))
_GROUPS = Path("/sys/fs/cgroup")
_UNLIMITED = 1 << 60


@dataclass(frozen=True)
class OptionalPart:
    """An optional part: what it is for, whether it is there, the packages that it lacks, and the line that installs it."""

    name: str
    what: str
    missing: tuple[str, ...]
    install: str

    @property
    def is_installed(self) -> bool:
        """Whether nothing is missing."""
        return not self.missing


@dataclass(frozen=True)
class Environment:
    """What a run depends on: machine, versions, optional parts. Bytes are those that are free now; memory is None where the
    system does not tell."""

    python: str
    system: str
    processor: str
    cores: int
    threads: int
    vectors: tuple[str, ...]
    memory_bytes: int | None
    disk_bytes: int
    disk: str
    versions: dict[str, str]
    parts: tuple[OptionalPart, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "parts": [{**asdict(part), "there": part.is_installed} for part in self.parts]}


def describe_environment(folder: Path = Path()) -> Environment:
    """What is here, with the free room on the disk that `folder` is on."""
    name, vectors = detect_processor()
    return Environment(
        python=platform.python_version(), system=f"{platform.system()} {platform.release()} {platform.machine()}",
        processor=name, cores=count_cores(), threads=count_threads(), vectors=vectors, memory_bytes=free_memory_bytes(),
        disk_bytes=free_disk_bytes(folder), disk=str(folder.resolve()), versions={name: version_of(name) for name in PACKAGES},
        parts=tuple(_make_part(name) for name in PARTS),
    )  # fmt: skip


def version_of(package: str) -> str:
    """The installed version, or `not installed`."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def count_cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def count_threads() -> int:
    """Threads that torch will compute with: OMP_NUM_THREADS, else as many as there are processors."""
    wanted = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    return int(wanted) if wanted.isdecimal() and int(wanted) else count_cores()


def detect_processor(info: Path = Path("/proc/cpuinfo")) -> tuple[str, tuple[str, ...]]:
    """The processor's name and which of the vector instructions that matter here it has."""
    text = _read_text(info)
    name = re.search(r"^(?:model name|Processor)\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    have = set(flags[1].split()) if flags else set()
    return name[1].strip() if name else platform.processor() or platform.machine(), tuple(v for v in VECTORS if v in have)


@cache
def instruction_sets() -> tuple[str, ...]:
    """Which of `VECTORS` this processor has, as far as the system tells: Linux in /proc/cpuinfo, macOS through sysctl, others by
    what torch found out, which knows AVX2 and AVX-512 but not VNNI. Empty where nobody tells."""
    found = detect_processor()[1]
    if not found and sys.platform == "darwin":
        found = parse_sysctl(_ask_sysctl())
    return found or _ask_torch()


def parse_sysctl(text: str) -> tuple[str, ...]:
    """The vector instructions that `sysctl hw.optional machdep.cpu` tells of, on either kind of Mac."""
    pairs = (line.partition(":")[::2] for line in text.lower().splitlines())
    words = {word for name, value in pairs for word in (value.split() if name.startswith("machdep") else [name] * (value.strip() == "1"))}
    return tuple(name for name in VECTORS if words & {name, *_MAC_NAMES.get(name, ())})


def _ask_sysctl() -> str:
    try:
        done = subprocess.run(["sysctl", "hw.optional", "machdep.cpu"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout


def _ask_torch() -> tuple[str, ...]:
    """What torch computes with, where it is installed."""
    try:
        backend = import_module("torch.backends.cpu")
    except ImportError:
        return ()
    return _TORCH_SETS.get(backend.get_cpu_capability(), ())


def free_memory_bytes(
    info: Path = Path("/proc/meminfo"), own: Path = Path("/proc/self/cgroup"), groups: Path = _GROUPS
) -> int | None:
    """Bytes that a process can still get: what the system has to spare, or what its container may still use if that is less."""
    found = re.search(r"^MemAvailable:\s*(\d+) kB", _read_text(info), re.MULTILINE)
    pairs = ((folder / limit, folder / used) for folder in _list_cgroup_folders(own, groups) for limit, used in _LIMIT_AND_USE)
    limits = [left for pair in pairs if (left := _read_bytes_left(*pair)) is not None]
    if found:
        limits.append(int(found[1]) * 1024)
    return min(limits, default=None)


def _list_cgroup_folders(own: Path, groups: Path) -> list[Path]:
    """The folders in which a limit on this process's memory would stand, for both kinds of control groups, up to their roots."""
    found = [groups, groups / "memory"]
    for line in _read_text(own).splitlines():
        _, _, rest = line.partition(":")
        kinds, _, path = rest.partition(":")
        if kinds == "" or "memory" in kinds.split(","):
            root = groups / "memory" if kinds else groups
            inner = root / path.strip("/")
            found += [folder for folder in (inner, *inner.parents) if folder.is_relative_to(root)]
    return list(dict.fromkeys(found))


def _read_bytes_left(limit: Path, used: Path) -> int | None:
    """Bytes left of a container's limit; page cache counts as free. None where there is no limit."""
    most, now = _read_text(limit).strip(), _read_text(used).strip()
    if not most.isdecimal() or not now.isdecimal() or int(most) >= _UNLIMITED:
        return None
    cache = re.search(r"^(?:total_)?inactive_file (\d+)", _read_text(limit.with_name("memory.stat")), re.MULTILINE)
    return max(0, int(most) - int(now) + (int(cache[1]) if cache else 0))


def free_disk_bytes(folder: Path) -> int:
    """Bytes free on the disk where `folder` is or will be."""
    there = next(path for path in (folder.resolve(), *folder.resolve().parents) if path.exists())
    return shutil.disk_usage(there).free


def _make_part(name: str) -> OptionalPart:
    what, modules = PARTS[name]
    return OptionalPart(name, what, tuple(m for m in modules if not _is_importable(m)), f'pip install "{_pip_source()}[{name}]"')


def _is_importable(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _pip_source() -> str:
    """What pip installs trimodal from: the checkout that it stands in, else its name."""
    root = Path(__file__).resolve().parents[2]
    return str(root) if (root / "pyproject.toml").is_file() else "trimodal"


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def warnings_of(found: Environment) -> list[str]:
    """What a user should know before the first run."""
    said = []
    if found.versions["torch"] == "not installed":
        said.append("torch is not installed; nothing but lists will work")
    if found.memory_bytes is not None and found.memory_bytes < 1 << 30:
        said.append("less than 1 GB of memory is free; torch and Transformers alone take half of that")
    if found.threads > found.cores:
        said.append(f"OMP_NUM_THREADS is {found.threads}, but there are {found.cores} processors; fewer threads are faster")
    if sys.platform.startswith("linux") and platform.machine() == "x86_64" and "avx2" not in found.vectors:
        said.append("the processor has no AVX2; all computations will be several times slower")
    return said
