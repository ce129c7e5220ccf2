"""The artifact: a folder that explains itself, and reloads.

config.json, tokenizer*, …      what the model's own loader needs; `quant_method: trimodal` where that is not enough
model.safetensors               every tensor once; in its metadata the steps that config.json does not say
model.trimodal                  in its place where the weights are entropy-coded, see `formats/packed.py`
trimodal.json                   manifest: where it came from, every site as it is stored, sha256 per file
plan.json record.jsonl verdict.json report.html
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from safetensors.torch import load_file
from torch import Tensor, nn

from trimodal import errors
from trimodal.core import Layout, Packing, Plan, Stock, json_text
from trimodal.core.record import PackName
from trimodal.formats import packed, steps
from trimodal.formats.absorb import Absorbed, absorb
from trimodal.formats.folder import sha256
from trimodal.formats.packed import PACKED
from trimodal.formats.tensors import write_tensors
from trimodal.models.alignment import write_heads
from trimodal.models.apply import dequantize_
from trimodal.models.families import family_of
from trimodal.models.finite import check_finite
from trimodal.models.load import (
    WEIGHTS,
    from_factory,
    from_folder,
    load_source,
    locate,
    model_class,
    name_of,
    pretrained,
    read_config,
    unique_tensors,
)
from trimodal.models.model import Model
from trimodal.models.process import keeps_process
from trimodal.models.processors import processors_in
from trimodal.models.quiet import without_bars
from trimodal.stock import quantizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MANIFEST = "trimodal.json"
MODEL = "model.safetensors"
PLAN, RECORD, VERDICT = "plan.json", "record.jsonl", "verdict.json"
FORMAT = 1
_NO_CONFIG = "it came from a function, not from a model folder"
_ABOUT = (PLAN, RECORD, VERDICT, MANIFEST)
_COMPANIONS = ("*.json", "*.txt", "*.model", "*.jinja", "*.spm", "*_Pooling/config.json")

Factory = str | Callable[[], nn.Module]


@dataclass(frozen=True)
class Manifest:
    """What `trimodal.json` says. `factory` names the function that made the bare module, where there is no config."""

    source: dict[str, Any]
    layout: Layout
    files: dict[str, str]
    factory: str | None
    trimodal: str
    format: int = FORMAT


def is_artifact(folder: Path) -> bool:
    """Whether `folder` was written by trimodal."""
    return (folder / MANIFEST).is_file()


def companions(folder: Path) -> list[Path]:
    """The files beside the weights that a model's own loader and processors read, relative to `folder`."""
    found = {path.relative_to(folder) for pattern in _COMPANIONS for path in folder.glob(pattern)}
    return sorted(p for p in found if p.name not in _ABOUT and not p.name.endswith(".index.json"))


def running_files(folder: Path) -> list[Path]:
    """All files that are needed to run the model in `folder`: weights, companions, and the manifest if there is one."""
    weights = [path.relative_to(folder) for path in _weights(folder)]
    manifest = [Path(MANIFEST)] if is_artifact(folder) else []
    return [*weights, *companions(folder), *manifest]


def size_of(folder: Path) -> tuple[int, int]:
    """Bytes on disk of all files needed to run, and of the weights alone."""
    weights = sum(path.stat().st_size for path in _weights(folder))
    return sum((folder / path).stat().st_size for path in running_files(folder)), weights


def _weights(folder: Path) -> list[Path]:
    """The weight files in `folder`."""
    return sorted([*folder.glob(WEIGHTS), *folder.glob(PACKED)])


def pack_name(folder: Path) -> PackName:
    """How the weights in `folder` are stored."""
    return "entropy" if (folder / PACKED).is_file() else "plain"


def write(model: Model, plan: Plan, folder: Path, factory: str | None) -> Stock:
    """Write everything that is needed to run `model`, and the manifest, into the empty `folder`. Returns who can load it."""
    taken, stock = model.steps, Stock(False, _NO_CONFIG)
    if model.folder is not None:
        for path in companions(model.folder):
            (folder / path).parent.mkdir(exist_ok=True)
            shutil.copyfile(model.folder / path, folder / path)
        write_heads(model.module, folder)
        kind = cast("type[PreTrainedModel]", type(model.module))
        absorbed = absorb(read_config(model.folder), model.steps, kind)
        config = {**absorbed.config, "architectures": [kind.__name__]}
        (folder / "config.json").write_text(_json(_marked(config, "plain") if absorbed.reason else config), encoding="utf-8")
        taken, stock = absorbed.steps, Stock(not absorbed.reason, absorbed.reason)
    (folder / PLAN).write_text(_json(plan.to_json()), encoding="utf-8")
    tensors = {name: t.detach().cpu().contiguous() for name, t in unique_tensors(model.module).items()}
    write_tensors(tensors, {"format": "pt", steps.STEPS: json_text(taken, sort_keys=True)}, folder / MODEL)
    manifest = {
        "format": FORMAT, "trimodal": plan.trimodal, "factory": factory, "files": _sums(folder),
        "source": plan.to_json()["source"], **model.layout.to_json(),
    }  # fmt: skip
    (folder / MANIFEST).write_text(json_text(manifest, separators=(",", ":")), encoding="utf-8")
    return stock


def _sums(folder: Path) -> dict[str, str]:
    """sha256 of every file that is needed to run, but for the manifest."""
    return {str(path): sha256(folder / path) for path in running_files(folder) if path != Path(MANIFEST)}


def pack_(folder: Path) -> Packing:
    """Entropy-code the weights of the plain artifact in `folder`, which is being written.

    Raises:
        IntegrityError: what was coded does not decode to the same bytes.
    """
    found = packed.pack_file(folder / MODEL, folder / PACKED)
    (folder / MODEL).unlink()
    _settle_(folder, "entropy")
    return found


def unpack_(folder: Path) -> None:
    """Decode the weights of the entropy-coded artifact in `folder`, which is being written."""
    packed.unpack_file(folder / PACKED, folder / MODEL)
    (folder / PACKED).unlink()
    _settle_(folder, "plain")


def _settle_(folder: Path, how: PackName) -> None:
    """Let config.json and the manifest say how the weights are stored."""
    if (folder / "config.json").is_file():
        config = read_config(folder)
        alone = how == "plain" and not _absorbed(folder).reason
        (folder / "config.json").write_text(_json(_bare(config) if alone else _marked(config, how)), encoding="utf-8")
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    (folder / MANIFEST).write_text(json_text({**manifest, "files": _sums(folder)}, separators=(",", ":")), encoding="utf-8")


def _absorbed(folder: Path) -> Absorbed:
    """What the configuration of the plain artifact in `folder` could say beyond what it says."""
    config = read_config(folder)
    return absorb(config, steps.read_steps(folder / MODEL), model_class(config, folder))


def stock_of(folder: Path) -> Stock:
    """Whether stock Transformers alone loads the artifact in `folder`, by what its files say."""
    if not (folder / "config.json").is_file():
        return Stock(False, _NO_CONFIG)
    if pack_name(folder) == "entropy":
        return Stock(False, "its weights are entropy-coded")
    if "quantization_config" in read_config(folder):
        return Stock(False, _absorbed(folder).reason)
    return Stock(True)


def _marked(config: Mapping[str, Any], how: PackName) -> dict[str, Any]:
    """A configuration that tells stock Transformers whether it can read the weights."""
    note = {"quant_method": quantizer.NAME, **({"pack": how} if how != "plain" else {})}
    return {**config, "quantization_config": note}


def _bare(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration that says nothing of us."""
    return {key: value for key, value in config.items() if key != "quantization_config"}


def copy_artifact(source: Path, folder: Path) -> None:
    """Copy what a whole artifact consists of into the empty `folder`."""
    for path in [*running_files(source), *map(Path, (PLAN, RECORD, VERDICT))]:
        if (source / path).is_file():
            (folder / path).parent.mkdir(exist_ok=True)
            shutil.copyfile(source / path, folder / path)


def _json(data: Any) -> str:
    return json_text(data, indent=1, ensure_ascii=False) + "\n"


def read_manifest(folder: Path) -> Manifest:
    """The manifest of an artifact.

    Raises:
        IntegrityError: it is missing, unreadable or of a later format.
    """
    try:
        data = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if data["format"] > FORMAT:
            raise errors.IntegrityError(
                f"{folder / MANIFEST} has format {data['format']}, this version reads up to {FORMAT}; update trimodal"
            )
        files = {str(name): str(digest) for name, digest in data["files"].items()}
        return Manifest(data["source"], Layout.from_json(data), files, data["factory"], data["trimodal"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise errors.IntegrityError(
            f"{folder / MANIFEST} cannot be read ({type(error).__name__}: {error}); the folder is no whole artifact"
        ) from error


def check_files(folder: Path, manifest: Manifest) -> None:
    """Compare every file with its sha256 in the manifest.

    Raises:
        IntegrityError: a file is missing or has changed, or the manifest does not list what is loaded.
    """
    weights = PACKED if (folder / PACKED).exists() else MODEL
    for name in (weights, *(path.name for path in [folder / "config.json"] if path.exists())):
        if name not in manifest.files:
            raise errors.IntegrityError(f"{folder / MANIFEST} does not list {name}; the folder is no whole artifact")
    for name, expected in manifest.files.items():
        path = folder / name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise errors.IntegrityError(
                f"{folder / MANIFEST} lists {name}, which lies outside of the folder; do not use it"
            )
        if not path.is_file():
            raise errors.IntegrityError(f"{folder} lacks {name}, which its manifest lists; copy the folder again")
        if sha256(path) != expected:
            raise errors.IntegrityError(
                f"{path} has changed since it was written (sha256 differs); copy the folder again"
            )


@without_bars()
def open_model(source: Factory | Path, factory: Factory | None = None) -> Model:
    """Any model that the user can name: an artifact of ours, or what `models.load` knows.

    `factory` makes the bare module of an artifact that came from a function; nothing that a folder names is imported.
    """
    found = source if callable(source) else locate(source)
    if isinstance(found, Path) and is_artifact(found):
        return _open_artifact(found, factory)
    model = from_folder(found, name_of(source)) if isinstance(found, Path) else from_factory(found, name_of(source))
    check_finite(model.module, model.name)
    return model


def _open_artifact(folder: Path, factory: Factory | None) -> Model:
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    if pack_name(folder) == "plain":
        return _open_plain(folder, folder, manifest, factory)
    with packed.scratch() as plain:
        packed.unpack_file(folder / PACKED, plain / MODEL)
        if (folder / "config.json").is_file():
            for path in companions(folder):
                (plain / path).parent.mkdir(exist_ok=True)
                shutil.copyfile(folder / path, plain / path)
            config = _marked(read_config(folder), "plain") if steps.read_steps(plain / MODEL) else _bare(read_config(folder))
            (plain / "config.json").write_text(_json(config), encoding="utf-8")
        return _open_plain(plain, folder, manifest, factory)


def _open_plain(plain: Path, folder: Path, manifest: Manifest, factory: Factory | None) -> Model:
    """The model of the artifact in `folder` whose plain weights lie in `plain`, the same or a temporary folder."""
    taken = steps.read_steps(plain / MODEL)
    if (folder / "config.json").is_file():
        quantizer.register()
        module, missing = pretrained(plain)
        if missing:
            raise errors.IntegrityError(
                f"{folder / MODEL} lacks {missing[0]}, which {type(module).__name__} needs; copy the folder again"
            )
        module.name_or_path = module.config._name_or_path = str(folder)  # type: ignore[assignment, union-attr]
        model = Model(
            module, manifest.layout, family_of(module), folder.resolve().name, folder, processors_in(folder), taken
        )
    elif factory is None:
        made_by = f"the function {manifest.factory}" if manifest.factory else "a function without a name"
        raise errors.ModelError(
            f"{folder} came from {made_by}, which makes the bare module; "
            "give it as factory=..., or on the command line as the model to compare against"
        )
    else:
        bare = load_source(factory)
        steps.replay_steps_(bare.module, taken)
        _fill_(bare.module, load_file(plain / MODEL), folder / MODEL)
        model = Model(bare.module.eval(), manifest.layout, bare.family, folder.resolve().name, steps=taken)
    _check_layout(model, folder)
    return model


def _fill_(module: nn.Module, tensors: Mapping[str, Tensor], file: Path) -> None:
    """Put the `tensors` of `file` into `module`; names that share a tensor go on sharing it."""
    own = module.state_dict(keep_vars=True)
    names: dict[int, list[str]] = {}
    for name, tensor in own.items():
        names.setdefault(id(tensor), []).append(name)
    whole = dict(tensors)
    for alike in names.values():
        found = next((tensors[name] for name in alike if name in tensors), None)
        if found is not None and len(alike) > 1:
            if isinstance(own[alike[0]], nn.Parameter):
                found = nn.Parameter(found, requires_grad=found.is_floating_point())
            whole.update(dict.fromkeys(alike, found))
    try:
        missing, unexpected = module.load_state_dict(whole, strict=False, assign=True)
    except RuntimeError as error:
        raise errors.IntegrityError(
            f"{file} does not fit what the function returns ({str(error).splitlines()[-1].strip()})"
        ) from error
    if missing or unexpected:
        raise errors.IntegrityError(
            f"{file} does not fit what the function returns: {', '.join([*missing, *unexpected][:3])}"
        )


def _check_layout(model: Model, folder: Path) -> None:
    """Refuse a manifest that tells of layers that are not there."""
    modules = dict(model.module.named_modules())
    for site in model.layout.sites:
        if site.path not in modules:
            raise errors.IntegrityError(
                f"{folder / MANIFEST} tells of {site.path:.80}, which the model has not; do not use it"
            )


@keeps_process
def load(
    source: str | Path, *, dequantize: bool = False, device: str = "cpu", factory: Factory | None = None
) -> nn.Module:
    """Load a compressed model (or any other) as a module in eval mode.

    Args:
        source: an artifact folder, a Hugging Face folder or hub id, or `package.module:function`.
        dequantize: give plain float layers instead of packed ones: same outputs, original memory.
        device: where to put it.
        factory: for an artifact that came from a function: that function, or its `package.module:name`.

    Raises:
        ModelError: it cannot be found or loaded.
        IntegrityError: a file of the artifact is missing or has changed.
    """
    model = open_model(source if isinstance(source, str) else str(source), factory)
    if dequantize:
        dequantize_(model.module)
        quantizer.forget_(model.module)
    return model.module.to(device)
