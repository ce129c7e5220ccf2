"""What there is to time: what the user named, in each runtime that can open it.

A source is an artifact, the folder of a model as it was published, or a folder that `trimodal export` wrote. One that nothing was exported
from is exported to a scratch folder first, as ONNX, which both ONNX Runtime and OpenVINO read.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trimodal.benching.torch_session import TorchSession, open_torch_components, shapes_of
from trimodal.errors import InputError, ModelError, suggest_names
from trimodal.exporting import EXPORTERS
from trimodal.exporting.export import export
from trimodal.formats import is_artifact, measure_folder_size
from trimodal.loading.load import locate_source
from trimodal.runtimes import RUNTIMES, Session
from trimodal.runtimes.example_inputs import Shape
from trimodal.runtimes.exported_folder import EXPORT_FILE, ExportedFolder, is_exported, read_exported

TORCH = "torch"
USUAL_RUNTIMES = ("onnxruntime", "openvino")
_ALSO_READS = {"openvino": ("onnx",)}


@dataclass(frozen=True)
class Source:
    """What the user named. `exports` are the folders with files of a format; `module` says whether PyTorch can open it; `plain` whether it
    is a model as it was published."""

    path: Path
    name: str
    exports: Mapping[str, Path]
    module: bool
    plain: bool


@dataclass(frozen=True)
class Variant:
    """One source in one runtime. By component: the file that is opened (in PyTorch the source itself), its inputs' shapes, its bytes on
    disk (in PyTorch those of all weights)."""

    name: str
    source: Source
    runtime: str
    files: Mapping[str, Path]
    shapes: Mapping[str, Mapping[str, Shape]]
    sizes: Mapping[str, int]
    folder: Path

    def open_session(self, component: str, threads: int) -> Session:
        """The component, opened in the variant's runtime."""
        if self.runtime == TORCH:
            return TorchSession(open_torch_components(self.files[component])[component])
        return RUNTIMES[self.runtime](self.files[component], threads)


def read_source(named: str | Path) -> Source:
    """Look at what the user named.

    Raises:
        InputError: it is no folder of ours and no model.
    """
    found = Path(named) if is_exported(Path(named)) else locate_source(str(named))
    if not isinstance(found, Path):
        raise InputError(f"{named} is a function; only folders can be timed: export it, and name the folder that it was exported to")
    path, name = found, found.resolve().name
    if is_exported(path):
        return Source(path, name, {read_exported(path, check=False).to: path}, False, False)
    inner = {read_exported(folder, check=False).to: folder for folder in sorted(path.iterdir()) if is_exported(folder)}
    artifact = is_artifact(path)
    if not artifact and not (path / "config.json").is_file():
        raise ModelError(f"{path} is no model, no artifact and no exported folder: it has no config.json, trimodal.json or {EXPORT_FILE}")
    return Source(path, name, inner, True, not artifact)


def list_runtimes(asked: str | Sequence[str] | None) -> tuple[str, ...]:
    """The runtimes in `asked`, names apart by commas; by default ONNX Runtime and OpenVINO, as far as they are installed; for `auto`
    these after PyTorch, in which a model is what it was published or verified as.

    Raises:
        InputError: one is not known, or none is installed.
    """
    names = list(dict.fromkeys(asked.replace(" ", "").split(",") if isinstance(asked, str) else asked or ()))
    known = (*RUNTIMES, TORCH)
    for name in names:
        if name not in (*known, "auto"):
            raise InputError(f"there is no runtime {name!r}; {suggest_names(name, (*known, 'auto'))}")
    if names and "auto" not in names:
        return tuple(names)
    found = [name for name in USUAL_RUNTIMES if importlib.util.find_spec(name) is not None]
    if "auto" in names:
        return tuple(dict.fromkeys([TORCH, *found, *(name for name in names if name != "auto")]))
    if not found:
        raise InputError("neither onnxruntime nor openvino is installed; run pip install 'trimodal[onnx]', or give --runtime torch")
    return tuple(found)


def list_variants(sources: Sequence[Source], runtimes: Sequence[str], scratch: Path) -> tuple[Variant, ...]:
    """Every source in every runtime that opens it, sources in order. What has no exported files gets them in `scratch`.

    Raises:
        InputError: a source can be opened in none of the runtimes.
    """
    made: list[Variant] = []
    for number, source in enumerate(sources):
        found = [variant for runtime in runtimes if (variant := _make_variant(source, runtime, scratch / str(number))) is not None]
        if not found:
            there = ", ".join(source.exports) or "no"
            raise InputError(f"{source.path} holds {there} files, which {' and '.join(runtimes)} cannot open; give another --runtime")
        made += found
    return tuple(made)


def _make_variant(source: Source, runtime: str, scratch: Path) -> Variant | None:
    name = f"{source.name}, {runtime}"
    if runtime == TORCH:
        return _make_torch_variant(source, name) if source.module else None
    formats = [*(form for form, exporter in EXPORTERS.items() if exporter.runtime == runtime), *_ALSO_READS.get(runtime, ())]
    folder = next((source.exports[form] for form in formats if form in source.exports), None)
    if folder is None:
        if not source.module or "onnx" not in formats:
            return None
        folder = scratch
        if not is_exported(scratch):
            export(str(source.path), "onnx", scratch)
    return _make_exported_variant(read_exported(folder), source, runtime, name)


def _make_exported_variant(exported: ExportedFolder, source: Source, runtime: str, name: str) -> Variant:
    parts = exported.components
    return Variant(
        name, source, runtime, {part: exported.path_of(part) for part in parts}, {part: known.inputs for part, known in parts.items()},
        {part: sum((exported.folder / file).stat().st_size for file in known.files) for part, known in parts.items()}, exported.folder,
    )  # fmt: skip


def _make_torch_variant(source: Source, name: str) -> Variant:
    parts = open_torch_components(source.path)
    _, size = measure_folder_size(source.path)
    return Variant(
        name, source, TORCH, dict.fromkeys(parts, source.path), {part: shapes_of(component) for part, component in parts.items()},
        dict.fromkeys(parts, size), source.path,
    )  # fmt: skip
