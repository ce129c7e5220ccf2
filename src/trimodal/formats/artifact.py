"""The artifact: a folder that explains itself, and reloads.

    config.json, tokenizer*, …      what the model's own loader needs, with `quant_method: trimodal`
    model.safetensors               every tensor once; in its metadata the steps that rebuild the architecture
    trimodal.json                   manifest: where it came from, every site as it is stored, sha256 per file
    plan.json record.jsonl verdict.json report.html
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import nn

from trimodal import errors
from trimodal.core import Layout, Plan
from trimodal.formats import steps
from trimodal.formats.folder import sha256
from trimodal.models.apply import dequantize_
from trimodal.models.families import family_of
from trimodal.models.load import (
    WEIGHTS,
    check_weights,
    from_factory,
    load_source,
    model_class,
    processors_in,
    read_config,
    unique_tensors,
)
from trimodal.models.model import Model
from trimodal.stock import quantizer

MANIFEST = "trimodal.json"
MODEL = "model.safetensors"
PLAN, RECORD, VERDICT = "plan.json", "record.jsonl", "verdict.json"
FORMAT = 1
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
    weights = [path.relative_to(folder) for path in sorted(folder.glob(WEIGHTS))]
    manifest = [Path(MANIFEST)] if is_artifact(folder) else []
    return [*weights, *companions(folder), *manifest]


def size_of(folder: Path) -> tuple[int, int]:
    """Bytes on disk of all files needed to run, and of the weights alone."""
    weights = sum(path.stat().st_size for path in folder.glob(WEIGHTS))
    return sum((folder / path).stat().st_size for path in running_files(folder)), weights


def write(model: Model, plan: Plan, folder: Path, factory: str | None) -> None:
    """Write everything that is needed to run `model`, and the manifest, into the empty `folder`."""
    if model.folder is not None:
        for path in companions(model.folder):
            (folder / path).parent.mkdir(exist_ok=True)
            shutil.copyfile(model.folder / path, folder / path)
        config = {**read_config(model.folder), "quantization_config": {"quant_method": quantizer.NAME}}
        config["architectures"] = [_architecture(model.module)]
        (folder / "config.json").write_text(_json(config))
    tensors = {name: t.detach().cpu().contiguous() for name, t in unique_tensors(model.module).items()}
    save_file(tensors, folder / MODEL, {"format": "pt", steps.STEPS: json.dumps(model.steps, sort_keys=True)})
    (folder / PLAN).write_text(_json(plan.to_json()))
    files = {str(path): sha256(folder / path) for path in running_files(folder)}
    manifest = {
        "format": FORMAT, "trimodal": plan.trimodal, "factory": factory, "files": files,
        "source": plan.to_json()["source"], **model.layout.to_json(),
    }  # fmt: skip
    (folder / MANIFEST).write_text(json.dumps(manifest, separators=(",", ":")))


def _architecture(module: nn.Module) -> str:
    return type(module).__name__


def _json(data: Any) -> str:
    return json.dumps(data, indent=1, ensure_ascii=False) + "\n"


def read_manifest(folder: Path) -> Manifest:
    """The manifest of an artifact.

    Raises:
        IntegrityError: it is missing, unreadable or of a later format.
    """
    try:
        data = json.loads((folder / MANIFEST).read_text())
        if data["format"] > FORMAT:
            raise errors.IntegrityError(
                f"{folder / MANIFEST} has format {data['format']}, this version reads up to {FORMAT}; update trimodal"
            )
        return Manifest(data["source"], Layout.from_json(data), data["files"], data["factory"], data["trimodal"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise errors.IntegrityError(f"{folder / MANIFEST} cannot be read ({error}); the folder is no whole artifact") from error


def check_files(folder: Path, manifest: Manifest) -> None:
    """Compare every file with its sha256 in the manifest.

    Raises:
        IntegrityError: a file is missing or has changed.
    """
    for name, expected in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise errors.IntegrityError(f"{folder} lacks {name}, which its manifest lists; copy the folder again")
        if sha256(path) != expected:
            raise errors.IntegrityError(f"{path} has changed since it was written (sha256 differs); copy the folder again")


def open_model(source: Factory | Path, factory: Factory | None = None) -> Model:
    """Any model that the user can name: an artifact of ours, or what `models.load` knows.

    `factory` makes the bare module of an artifact that came from a function; nothing that a folder names is imported.
    """
    if not callable(source) and is_artifact(Path(str(source))):
        return _open_artifact(Path(str(source)), factory)
    return load_source(source)


def _open_artifact(folder: Path, factory: Factory | None) -> Model:
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    if (folder / "config.json").is_file():
        quantizer.register()
        config = read_config(folder)
        check_weights(folder)
        module = model_class(config, folder).from_pretrained(
            folder, use_safetensors=True, local_files_only=True, dtype="auto", trust_remote_code=False
        )
        return Model(
            module.eval(), manifest.layout, family_of(module), folder.resolve().name, folder, processors_in(folder),
            steps.read_steps(folder / MODEL),
        )  # fmt: skip
    if factory is None:
        raise errors.ModelError(
            f"{folder} came from the function {manifest.factory}, which makes the bare module; "
            "give it as factory=..., or on the command line as the model to compare against"
        )
    bare = load_source(factory) if isinstance(factory, str) else from_factory(factory, "factory")
    taken = steps.read_steps(folder / MODEL)
    steps.replay_steps_(bare.module, taken)
    tensors = load_file(folder / MODEL)
    aliases = set(bare.module.state_dict()) - set(tensors)
    missing, unexpected = bare.module.load_state_dict(tensors, strict=False, assign=True)
    if unexpected or set(missing) - aliases:
        raise errors.IntegrityError(f"{folder / MODEL} does not fit what {manifest.factory} returns: {[*missing, *unexpected][:3]}")
    return Model(bare.module.eval(), manifest.layout, bare.family, folder.resolve().name, steps=taken)


def load(source: str | Path, *, dequantize: bool = False, device: str = "cpu", factory: Factory | None = None) -> nn.Module:
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


