"""From what the user names to a `Model`: a Hugging Face folder or hub id, or a function that returns a module.

Never unpickles, never runs code from a model folder.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, StrictDataclassError
from safetensors import SafetensorError, safe_open
from torch import nn

from trimodal import networks
from trimodal.errors import ModelError
from trimodal.graph.layout import describe_layout
from trimodal.layers import open_layers_
from trimodal.models.factory import make_module
from trimodal.models.families import family_of, find_own_class
from trimodal.models.files import PICKLES, check_no_adapter, weight_files
from trimodal.models.model import Model, Processors
from trimodal.models.processors import find_processors
from trimodal.writing import open_scratch_folder

HUB_FILES = [
    "*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "*.spm", "*.tiktoken", "*.codes", "*.bpe", "*_*/pytorch_model.bin",
    "model.trimodal", "LICEN*", "NOTICE*", "README.md",
]  # fmt: skip
HUB_COPIES = ["*consolidated*", "original/*", "onnx/*", "openvino/*"]  # other forms of the same weights
_FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_UNREADABLE = (
    OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ImportError, IndexError, ArithmeticError,
    AssertionError, SafetensorError, StrictDataclassError,
)  # fmt: skip
_NAMELESS = ("<lambda>", "function")
_PATIENCE_SECONDS = 10.0
_HUB_ID = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?")


def load_source(source: str | Path | Callable[[], nn.Module]) -> Model:
    """Load a model, in eval mode, on the CPU.

    Args:
        source: a folder, a hub id such as `openai/clip-vit-base-patch32`, `package.module:function`, or the
            function itself.

    Raises:
        ModelError: there is no such model, its files are incomplete or damaged, or it is only there as a pickle.
    """
    found = source if callable(source) else locate_source(source)
    return load_from_folder(found, model_name_of(source)) if isinstance(found, Path) else load_from_factory(found, model_name_of(source))


def model_name_of(source: str | Path | Callable[[], nn.Module]) -> str:
    """What a model that was named so is called: the folder's name, the hub id, or the function's name."""
    if callable(source):
        return getattr(source, "__name__", "function")
    return Path(source).resolve().name if Path(source).is_dir() else str(source)


def locate_source(source: str | Path) -> Path | Callable[[], nn.Module]:
    """The folder or the function that `source` names; a hub model is downloaded.

    Raises:
        ModelError: there is no such folder, hub model or function.
    """
    text = str(source)
    if _is_folder(Path(text)):
        return Path(text)
    if _FACTORY.fullmatch(text):
        return _import_factory(text)
    return _download_snapshot(text)


def _is_folder(path: Path) -> bool:
    try:
        if path.is_file():
            raise ModelError(f"{path} is a file; expected a model folder, a hub id or package.module:function")
        return path.is_dir()
    except OSError:  # a name that is too long for the file system
        return False


def load_from_factory(factory: Callable[[], nn.Module], name: str) -> Model:
    """A copy of the module that `factory` returns, which stays as it is. Without a name of its own it is called like its class."""
    nameless = name in _NAMELESS
    module = make_module(factory, "the function" if nameless else name)
    return build_model(module, type(module).__name__ if nameless else name)


def build_model(module: nn.Module, name: str, folder: Path | None = None) -> Model:
    """A `Model` around `module` with the layout that its family declares. Recurrent layers are opened up."""
    module = open_layers_(module)
    family = family_of(module)
    source = folder or _find_origin(module)
    processors = find_processors(source) if source else Processors()
    return Model(module, describe_layout(module), family, name, folder, processors)


def _find_origin(module: nn.Module) -> Path | None:
    """The folder that a module in memory was loaded from with `from_pretrained`, if it is still there: it has the processors."""
    origin = getattr(getattr(module, "config", None), "_name_or_path", None)
    return Path(origin) if isinstance(origin, str) and origin and _is_folder(Path(origin)) else None


def load_from_folder(folder: Path, name: str) -> Model:
    """The model in a Hugging Face folder.

    Raises:
        ModelError: it is none, or its checkpoint lacks tensors.
    """
    module, missing, unexpected = load_pretrained(folder)
    if missing:
        raise ModelError(
            f"{folder}: the checkpoint lacks {len(missing)} tensors that {type(module).__name__} needs, first '{missing[0]}'; "
            "name a class that fits the checkpoint under 'architectures' in config.json"
        )
    return replace(build_model(module, name, folder), unused=_find_unused_tensors(module, folder, unexpected))


def _find_unused_tensors(module: nn.Module, folder: Path, unexpected: Iterable[str]) -> Mapping[str, int]:
    """Bytes of the checkpoint's tensors that the class does not take, by name: heads of others, towers that it lacks."""
    ignored = [re.compile(pattern) for pattern in getattr(module, "_keys_to_ignore_on_load_unexpected", None) or ()]
    wanted, known, found = set(unexpected), set(module.state_dict()), {}
    for file in weight_files(folder):
        with safe_open(folder / file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118
                if name in wanted or (name not in known and any(pattern.search(name) for pattern in ignored)):
                    found[name] = opened.get_tensor(name).nbytes
    return found


def load_pretrained(folder: Path) -> tuple[nn.Module, list[str], list[str]]:
    """The module in a Hugging Face folder, in eval mode, the tensors that it needs and the checkpoint lacks, and those that
    the checkpoint has and it does not take.

    Raises:
        ModelError: a file is missing or damaged, or names what is not known here.
    """
    check_no_adapter(folder)
    config = read_config(folder)
    check_weight_files(folder)
    kind = find_model_class(config, folder)
    _check_not_quantized(config, folder, kind)
    try:
        loaded: Any = kind.from_pretrained(
            folder, output_loading_info=True, use_safetensors=True, local_files_only=True, dtype="auto",
            trust_remote_code=False,
        )  # fmt: skip
    except _UNREADABLE as error:
        raise ModelError(f"{folder} cannot be loaded as {kind.__name__}: {_first_line_of(error)}") from error
    module, info = loaded
    return module.eval(), sorted(info["missing_keys"]), sorted(info["unexpected_keys"])


def _check_not_quantized(config: Mapping[str, Any], folder: Path, kind: type[nn.Module]) -> None:
    said = config.get("quantization_config") or config.get("compression_config")
    how = said.get("quant_method", "unknown") if isinstance(said, dict) else None
    if how not in (None, "trimodal"):
        raise ModelError(
            f"{folder} cannot be loaded as {kind.__name__}: it is quantized already (config.json names the method {how!r:.40}); "
            "give the model as it was before that"
        )


def _first_line_of(error: BaseException) -> str:
    """The first line that says something, short enough to read."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:240]}" if lines else type(error).__name__


def read_config(folder: Path) -> dict[str, Any]:
    """The content of `config.json`.

    Raises:
        ModelError: there is none, or it names no model type.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise ModelError(f"{folder} has no config.json; expected a model folder in Hugging Face format")
    config = _read_json(file)
    if not isinstance(config, dict) or "model_type" not in config:
        raise ModelError(f"{file} names no model_type; expected a Hugging Face configuration")
    return config


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{file} is not valid JSON ({error}); copy or download it again") from error


def check_weight_files(folder: Path) -> list[Path]:
    """The weight files of `folder` that are read, each whole.

    Raises:
        ModelError: there are none but pickles, or one is damaged.
    """
    files = [folder / path for path in weight_files(folder)]
    if not files:
        pickles = [path.name for suffix in PICKLES for path in sorted(folder.glob(f"*{suffix}"))]
        if pickles:
            raise ModelError(
                f"{folder} has its weights only as a pickle ({pickles[0]}), which can run code when it is read and is "
                "not loaded; convert it with save_pretrained(..., safe_serialization=True) where you trust it"
            )
        raise ModelError(f"{folder} holds no weights; expected model.safetensors")
    for file in files:
        try:
            with safe_open(file, framework="pt") as opened:
                opened.keys()
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{file} is damaged or cut short ({error}); copy or download it again") from error
        if doubled := _find_doubled_name(file):
            raise ModelError(f"{file} names the tensor {doubled!r:.80} twice, and readers differ in which they take; do not use it")
    return files


def _find_doubled_name(file: Path) -> str | None:
    """A key that a head of a safetensors file has twice, which the library passes over in silence."""
    doubled: list[str] = []

    def count(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            doubled.extend(name for name in found if names.count(name) > 1)
        return found

    with file.open("rb") as opened:
        json.loads(opened.read(int.from_bytes(opened.read(8), "little")), object_pairs_hook=count)
    return doubled[0] if doubled else None


def find_model_class(config: dict[str, Any], folder: Path) -> type[transformers.PreTrainedModel]:
    """The class that `config` names, out of Transformers or those that families bring along.

    Raises:
        ModelError: neither has it.
        InputError: a package declares as a family what is none.
    """
    networks.register()
    names = config.get("architectures") or ["AutoModel"]
    name = names[0] if isinstance(names, list) else names
    found: Any = find_own_class(str(name)) or getattr(transformers, str(name), None)
    if found is transformers.AutoModel or (isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)):
        return cast("type[transformers.PreTrainedModel]", found)
    raise ModelError(
        f"{folder / 'config.json'} names the class {name!r:.80}, which is no model in Transformers "
        f"{transformers.__version__} nor in trimodal, nor of an installed family; code from a model folder is never run"
    )


def build_meta_model(config: Mapping[str, Any], kind: type[transformers.PreTrainedModel]) -> transformers.PreTrainedModel:
    """What `kind` builds from the content of a config.json, as from a folder: the architecture without values.

    Raises:
        ModelError: the class cannot be built from it.
    """
    try:
        with open_scratch_folder("a configuration") as folder, torch.device("meta"):
            Path(folder, "config.json").write_text(json.dumps(config), encoding="utf-8")
            found = cast("Any", kind).config_class.from_pretrained(folder, local_files_only=True)
            return cast("transformers.PreTrainedModel", cast("Any", kind)._from_config(found).eval())
    except _UNREADABLE as error:
        raise ModelError(f"{kind.__name__} cannot be built from this config.json: {_first_line_of(error)}") from error


def _import_factory(text: str) -> Callable[[], nn.Module]:
    module_name, _, function = text.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # behind all that is installed, so that it hides nothing
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ModelError(f"{text}: cannot import {module_name} ({error}); expected package.module:function") from error
    found = getattr(module, function, None)
    if not callable(found):
        raise ModelError(f"{text}: {module_name} has no function '{function}'; expected one that returns an nn.Module")
    factory: Callable[[], nn.Module] = found
    return factory


def _download_snapshot(text: str) -> Path:
    """The local copy of a hub repository's configuration, processors and safetensors."""
    http_error: Any = HfHubHTTPError.__bases__[0]  # of the HTTP client, whichever the hub uses
    if not _HUB_ID.fullmatch(text) or (Path(text).parent.is_dir() and "/" in text):
        raise ModelError(f"there is no folder {text}; expected a model folder, a hub id or package.module:function")
    try:
        silent = not constants.HF_HUB_OFFLINE and not _is_reachable(constants.ENDPOINT)
        return Path(snapshot_download(text, allow_patterns=HUB_FILES, ignore_patterns=HUB_COPIES, local_files_only=silent))
    except (http_error, HFValidationError, OSError) as error:
        reason = _first_line_of(error)[:160]
        raise ModelError(f"there is no folder {text}, and no hub model of that name could be had ({reason})") from error


def _is_reachable(address: str) -> bool:
    """Whether anybody answers at `address` in time: the hub's own client waits without end."""
    try:
        urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=_PATIENCE_SECONDS).close()
    except TimeoutError:
        return False
    except OSError as error:  # refused, unknown, forbidden: whatever it is, the client will say it at once
        return not isinstance(getattr(error, "reason", None), TimeoutError)
    return True
