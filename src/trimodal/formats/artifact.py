"""The artifact: a folder that explains itself, and reloads.

config.json, tokenizer*, …      what the model's own loader needs; where that is not enough `quant_method: trimodal`, and for
                                those who have not imported trimodal a sentence in the place of a file name
model.safetensors               every tensor once, where stock Transformers alone can load it; else
trimodal.safetensors            the same, with the steps that config.json does not say in its metadata; or
model.trimodal                  where the weights are entropy-coded, see `formats/packed.py`
trimodal.json checks.sha256     what is what, and sha256 of every file, see `manifest.py`
plan.json record.jsonl verdict.json report.html
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedConfig

from trimodal import errors
from trimodal.core import Packing, Plan, StockLoad, json_text
from trimodal.core.record import PackName
from trimodal.edits import steps
from trimodal.edits.alignment import write_alignment_heads
from trimodal.edits.apply import dequantize_module_
from trimodal.formats import packed
from trimodal.formats.archive import is_archive, open_archive
from trimodal.formats.folder_files import (
    is_artifact,
    list_running_files,
    pack_name_of,
)
from trimodal.formats.native_config import NativeConfig, find_native_config
from trimodal.formats.plain_config import NO_CONFIG, set_plain_config_, strip_config
from trimodal.formats.stored_sites import check_stored_sites, describe_stored_sites
from trimodal.formats.tensors import write_tensors
from trimodal.formats.training_files import carry_training_files
from trimodal.layers import (
    DEQUANTIZE_POLICIES,
    DequantizePolicy,
    close_layers_,
    close_tensors,
    open_layers_,
    set_dequantize_policy_,
)
from trimodal.loading.load import (
    find_model_class,
    load_from_factory,
    load_from_folder,
    load_pretrained,
    load_source,
    locate_source,
    model_name_of,
    read_config,
)
from trimodal.manifest import (
    MANIFEST,
    PLAN,
    RECORD,
    VERDICT,
    Manifest,
    check_listed_files,
    check_not_orphaned,
    find_changed_side_files,
    read_manifest,
    read_manifest_content,
    weights_name_of,
    write_checksums,
    write_manifest,
)
from trimodal.models.families import family_of
from trimodal.models.files import (
    NAMED,
    OURS,
    PACKED,
    find_companion_files,
    find_licence_files,
)
from trimodal.models.files import SINGLE as MODEL
from trimodal.models.finite import check_finite
from trimodal.models.model import Model
from trimodal.models.process import leaves_process_unchanged
from trimodal.models.processors import find_processors
from trimodal.models.quiet import hide_progress_bars
from trimodal.models.tensors import unique_tensors
from trimodal.stock import quantizer
from trimodal.stock.replaying import replay_steps_
from trimodal.writing.sums import sha256

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_TYPE = ("dtype", "torch_dtype")
_IMPORT = (
    "this model was compressed by trimodal, and its weights are in a form of its own: put the line `import trimodal` before "
    "the one that loads it, or use trimodal.load(FOLDER)"
)

__all__ = [
    "MANIFEST", "MODEL", "PLAN", "RECORD", "VERDICT", "Factory", "Manifest", "check_listed_files",
    "find_changed_side_files", "find_companion_files", "copy_artifact", "load",
    "open_model", "pack_weights_", "read_manifest",
    "stock_support_of", "unpack_weights_", "write_artifact", "write_checksums",
]  # fmt: skip

Factory = str | Callable[[], nn.Module]


def write_artifact(model: Model, plan: Plan, folder: Path, factory: str | None) -> StockLoad:
    """Write everything that is needed to run `model`, and the manifest, into the empty `folder`. Returns who can load it."""
    taken, stock = model.steps, StockLoad(False, NO_CONFIG)
    if model.folder is not None:
        _copy_files(model.folder, folder, [*find_companion_files(model.folder), *find_licence_files(model.folder)])
        carry_training_files(model.folder, folder)
        write_alignment_heads(model.module, folder)
        kind = cast("type[PreTrainedModel]", type(model.module))
        said = strip_config(read_config(model.folder))
        absorbed = find_native_config(said, model.steps, kind)
        dtype = _dtype_of(said, str(model.module.dtype).removeprefix("torch."))
        config = {**absorbed.config, "architectures": [kind.__name__], "dtype": dtype}
        written = _to_json_text(_mark_config(config, "plain", kind) if absorbed.reason else config)
        (folder / "config.json").write_text(written, encoding="utf-8")
        taken, stock = absorbed.steps, StockLoad(not absorbed.reason, absorbed.reason)
    (folder / PLAN).write_text(_to_json_text(plan.to_json()), encoding="utf-8")
    own = unique_tensors(model.module)
    own = close_tensors(model.module, own) if stock.alone else own
    tensors = {name: t.detach().cpu().contiguous() for name, t in own.items()}
    metadata = {"format": "pt", steps.STEPS: steps.write_steps(taken)}
    write_tensors(tensors, metadata, folder / (MODEL if stock.alone else OURS))
    write_manifest(folder, {
        "trimodal": plan.trimodal, "factory": factory, "files": _compute_checksums(folder),
        "source": plan.to_json()["source"], **model.layout.to_json(),
        "stored": [site.to_json() for site in describe_stored_sites(model.module, model.layout)],
    })  # fmt: skip
    return stock


def _copy_files(source: Path, folder: Path, paths: Iterable[Path]) -> None:
    """Copy files of `source` to the same places in `folder`."""
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / path, folder / path)


def _compute_checksums(folder: Path) -> dict[str, str]:
    """sha256 of every file that is needed to run, but for the manifest."""
    return {str(path): sha256(folder / path) for path in list_running_files(folder) if path != Path(MANIFEST)}


def pack_weights_(folder: Path) -> Packing:
    """Entropy-code the weights of the plain artifact in `folder`, which is being written.

    Raises:
        IntegrityError: what was coded does not decode to the same bytes.
    """
    plain = folder / weights_name_of(folder)
    found = packed.pack_file(plain, folder / PACKED, read_manifest(folder).layout)
    plain.unlink()
    _record_pack_(folder, "entropy")
    return found


def unpack_weights_(folder: Path) -> None:
    """Decode the weights of the entropy-coded artifact in `folder`, which is being written."""
    packed.unpack_file(folder / PACKED, folder / OURS)
    (folder / PACKED).unlink()
    _record_pack_(folder, "plain")


def _record_pack_(folder: Path, how: PackName) -> None:
    """Let config.json, the manifest and the name of the weights say how these are stored."""
    if (folder / "config.json").is_file():
        config = strip_config(read_config(folder))
        kind = find_model_class(config, folder)
        alone = how == "plain" and not _native_config_of(folder).reason
        (folder / "config.json").write_text(_to_json_text(config if alone else _mark_config(config, how, kind)), encoding="utf-8")
        if alone:
            (folder / OURS).rename(folder / MODEL)
    write_manifest(folder, {**read_manifest_content(folder), "files": _compute_checksums(folder)})


def _native_config_of(folder: Path) -> NativeConfig:
    """What the configuration of the plain artifact in `folder` could say beyond what it says."""
    config = strip_config(read_config(folder))
    return find_native_config(config, steps.read_steps(folder / weights_name_of(folder)), find_model_class(config, folder))


def stock_support_of(folder: Path) -> StockLoad:
    """Whether stock Transformers alone loads the artifact in `folder`, by what its files say."""
    if not (folder / "config.json").is_file():
        return StockLoad(False, NO_CONFIG)
    if pack_name_of(folder) == "entropy":
        return StockLoad(False, "its weights are entropy-coded")
    if "quantization_config" in read_config(folder):
        return StockLoad(False, _native_config_of(folder).reason)
    return StockLoad(True)


def _mark_config(config: Mapping[str, Any], how: PackName, kind: type[PreTrainedModel]) -> dict[str, Any]:
    """A configuration that brings stock Transformers to our quantizer, or without it to a sentence that says what to do: a
    file name that it cannot take. It stands in every part, since the class of one tower reads that part alone."""
    note = {"quant_method": quantizer.NAME, **({"pack": how} if how != "plain" else {})}
    parts = getattr(getattr(kind, "config_class", None), "sub_configs", {})
    whole = _dtype_of(config)

    def mark(part: Mapping[str, Any]) -> dict[str, Any]:
        inner = {
            key: mark(value) if isinstance(value, dict) and ("model_type" in value or key in parts) else value
            for key, value in part.items()
        }
        typed = {} if part.keys() & _TYPE or not whole else {"dtype": whole}  # or it would be that of any tensor in the file
        return {**inner, **typed, "quantization_config": note, NAMED: _IMPORT}

    return mark(config)


def _dtype_of(config: Mapping[str, Any], missing: str | None = None) -> Any:
    """The type of numbers that a configuration names, by the key of today or the one of old; `missing` where it names none."""
    return next((config[key] for key in _TYPE if key in config), missing)


def copy_artifact(source: Path, folder: Path) -> None:
    """Copy what a whole artifact consists of into the empty `folder`."""
    tellers = [path for path in map(Path, (PLAN, RECORD, VERDICT)) if (source / path).is_file()]
    _copy_files(source, folder, [*list_running_files(source), *find_licence_files(source), *tellers])
    carry_training_files(source, folder)


def _to_json_text(data: Any) -> str:
    return json_text(data, indent=1, ensure_ascii=False) + "\n"


@hide_progress_bars()
def open_model(source: Factory | Path, factory: Factory | None = None) -> Model:
    """Any model that the user can name: an artifact of ours, or what `loading/load.py` knows.

    `factory` makes the bare module of an artifact that came from a function; nothing that a folder names is imported.

    Raises:
        ModelError: it cannot be found or loaded.
        IntegrityError: a file of the artifact is missing or has changed.
    """
    if not callable(source) and is_archive(source):
        raise errors.ModelError(f"{source} is an archive; write its folder first: trimodal unpack {source} -o FOLDER")
    found = source if callable(source) else locate_source(source)
    if isinstance(found, Path) and is_artifact(found):
        return _open_artifact(found, factory)
    if isinstance(found, Path):
        check_not_orphaned(found)
    model = load_from_folder(found, model_name_of(source)) if isinstance(found, Path) else load_from_factory(found, model_name_of(source))
    check_finite(model.module, model.name)
    return model


def _open_artifact(folder: Path, factory: Factory | None) -> Model:
    manifest = read_manifest(folder)
    check_listed_files(folder, manifest)
    model = _open_checked(folder, manifest, factory)
    if read_manifest(folder) != manifest:
        raise errors.IntegrityError(f"{folder} was replaced while it was read; load it again")
    return model


def _open_checked(folder: Path, manifest: Manifest, factory: Factory | None) -> Model:
    if pack_name_of(folder) == "plain":
        return _open_plain(folder, folder, manifest, factory)
    with packed.weights_scratch_folder() as plain:
        packed.unpack_file(folder / PACKED, plain / OURS)
        if (folder / "config.json").is_file():
            _copy_files(folder, plain, find_companion_files(folder))
            config = strip_config(read_config(folder))
            if steps.read_steps(plain / OURS):
                config = _mark_config(config, "plain", find_model_class(config, folder))
            else:
                (plain / OURS).rename(plain / MODEL)
            (plain / "config.json").write_text(_to_json_text(config), encoding="utf-8")
        return _open_plain(plain, folder, manifest, factory)


def _open_plain(plain: Path, folder: Path, manifest: Manifest, factory: Factory | None) -> Model:
    """The model of the artifact in `folder` whose plain weights lie in `plain`, the same or a temporary folder."""
    file = plain / weights_name_of(plain)
    taken = steps.read_steps(file)
    if (folder / "config.json").is_file():
        quantizer.register()
        with quantizer.skip_file_checks(plain):
            module, missing, _ = load_pretrained(plain)
        if missing:
            raise errors.IntegrityError(
                f"{folder / file.name} lacks {missing[0]}, which {type(module).__name__} needs; copy the folder again"
            )
        open_layers_(module)  # where the configuration says all, nothing was replayed
        set_dequantize_policy_(module, "memory")  # who only wants to run it says so: `load`, and Transformers' door
        module.name_or_path = module.config._name_or_path = str(folder)  # type: ignore[assignment, union-attr]
        model = Model(
            module, manifest.layout, family_of(module), folder.resolve().name, folder, find_processors(folder), taken
        )
    elif factory is None:
        made_by = f"the function {manifest.factory}" if manifest.factory else "a function without a name"
        raise errors.ModelError(
            f"{folder} came from {made_by}, which makes the bare module; "
            "give it as factory=..., or on the command line as the model to compare against"
        )
    else:
        made = load_source(factory)
        replay_steps_(made.module, taken)
        _fill_tensors_(made.module, load_file(file), folder / file.name)
        model = Model(made.module.eval(), manifest.layout, made.family, folder.resolve().name, steps=taken)
    _check_layout(model, folder)
    check_stored_sites(model.module, manifest, folder)
    return model


def _fill_tensors_(module: nn.Module, tensors: Mapping[str, Tensor], file: Path) -> None:
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


@leaves_process_unchanged
def load(
    source: str | Path, *, dequantize: DequantizePolicy | bool = "speed", device: str = "cpu", factory: Factory | None = None
) -> nn.Module:
    """Load a compressed model (or any other) as a module in eval mode.

    Args:
        source: an artifact folder or archive, a Hugging Face folder or hub id, or `package.module:function`.
        dequantize: what becomes of packed layers. `speed`: each is decoded when it first runs, and kept; as fast as the original,
            in its memory and that of the codes; products with quantized inputs are made in integers where this machine's are
            quick and exact. `memory`: decoded at every call, which is slower and takes the memory of the codes alone (`False` says
            the same). `True`: plain float layers in their place, with the original's memory; inputs are no longer quantized.
            `set_dequantize_policy_` of `trimodal.layers` changes from one of the first two to the other.
        device: where to put it.
        factory: for an artifact that came from a function: that function, or its `package.module:name`.

    Raises:
        ModelError: it cannot be found or loaded.
        IntegrityError: a file of the artifact is missing or has changed.
        InputError: there is no such `dequantize`.
    """
    policy = _policy_of(dequantize)
    if not is_archive(source):
        return _load_module(str(source), policy, factory).to(device)
    with open_archive(Path(source)) as folder:
        module = _load_module(str(folder), policy, factory)
    if isinstance(getattr(module, "config", None), PreTrainedConfig):
        module.name_or_path = module.config._name_or_path = str(source)  # type: ignore[assignment, union-attr]
    return module.to(device)


def _load_module(source: str, policy: DequantizePolicy | None, factory: Factory | None) -> nn.Module:
    """The module of `source`, its packed layers as `policy` says, plain ones where that is None."""
    model = open_model(source, factory)
    if policy is not None:
        set_dequantize_policy_(model.module, policy)
        return model.module if model.steps else close_layers_(model.module)
    dequantize_module_(model.module)
    model.module = close_layers_(model.module)
    reason = set_plain_config_(model)
    quantizer.forget_quantization_(model.module, reason)
    return model.module


def _policy_of(dequantize: DequantizePolicy | bool) -> DequantizePolicy | None:
    """The policy that `dequantize` names; None where plain layers are asked for."""
    if isinstance(dequantize, bool):
        return None if dequantize else "memory"
    if dequantize not in DEQUANTIZE_POLICIES:
        wanted = ", ".join(DEQUANTIZE_POLICIES)
        raise errors.InputError(f"dequantize is {dequantize!r:.40}; expected {wanted}, or True for plain float layers")
    return dequantize
