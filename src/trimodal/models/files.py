"""Which files of a model folder its loaders read, which travel with it, and which are left where they are.

Three kinds of loader read a folder: Transformers (model, tokenizer, processors, chat templates), sentence-transformers
(`modules.json` and what it names), and people (licences). Each says which files it looks for, and those files name more:

    weights      `model.safetensors` where it is there, else the shards that `model.safetensors.index.json` names;
                 `trimodal.safetensors` where config.json says in a sentence that trimodal is needed
    companions   what the loaders look for by name or kind; every file that one of these names; the folders of the modules
                 that `modules.json` lists, with their weights
    left out     all else: second copies of the weights, logs, states of training, exports for other runtimes

A link is followed to a file in the same folder, or to the hub cache's own blobs, and nowhere else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any

import transformers

from trimodal.errors import ModelError
from trimodal.models.foreign import run_foreign

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
TRAINING = ("training.json", "curves.jsonl")  # what `train` tells of itself, carried over for the report
OURS = "trimodal.safetensors"  # a name that no other loader looks for
PACKED = "model.trimodal"  # the same, entropy-coded
NAMED = "transformers_weights"  # the key of config.json that names another file, or says why there is none to name
MODULES, ROUTER = "modules.json", "router_config.json"
ADAPTER = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_TENSORS = (".safetensors", *PICKLES, ".h5", ".msgpack", ".gguf", ".onnx", ".onnx_data", ".ot", ".npz", ".tflite", ".trimodal")
_TRANSFORMERS = (
    "config.json", "generation_config.json", "processor_config.json", "preprocessor_config.json",
    "video_preprocessor_config.json", "image_processor_config.json", "feature_extractor_config.json", "tokenizer_config.json",
    "tokenizer.json", "special_tokens_map.json", "added_tokens.json", "chat_template.json", "speaker_embeddings_path.json",
)  # fmt: skip
_SENTENCE = (MODULES, ROUTER, "config_sentence_transformers.json", "similarity_evaluation_config.json")
_KINDS = re.compile(
    r".*\.(jinja|model|spm|tiktoken|bpe|codes)"  # templates, and vocabularies of every tokenizer
    r"|[^/]*(token|vocab|merges|spiece|sentencepiece|normalizer|tekken)[^/]*\.(json|jsonl|txt|model)"
    r"|[^/]*(label|classes|class_names)[^/]*\.(json|txt)"
    r"|[^/]*processor[^/]*_config\.json|sentence_[^/]*_config\.json|dict\.txt",
    re.IGNORECASE,
)
_TEMPLATES = "additional_chat_templates"
_LICENCES = re.compile(r"(licen[cs]e|notice|copying|use_policy|acceptable_use)[^/]*", re.IGNORECASE)
_LARGEST_INDEX = 1 << 20  # bytes of a JSON file that may name others; vocabularies are larger


def weight_files(folder: Path) -> list[Path]:
    """The files, relative to `folder`, that Transformers reads the weights from; empty if there are none.

    Raises:
        ModelError: an index cannot be read, or names a file that is not there.
    """
    named = _load_json_object(folder / "config.json").get(NAMED)
    index = INDEX
    if isinstance(named, str):
        single = named if named.endswith((".safetensors", ".index.json")) else OURS
        index = single if single.endswith(".index.json") else ""
    else:
        single = SINGLE
    if single != index and (folder / _check_inside(folder, single, "config.json")).is_file():
        return [Path(single)]
    if not index or not (folder / _check_inside(folder, index, "config.json")).is_file():
        return []
    shards = _load_json_object(folder / index).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
        raise ModelError(f"{folder / index} holds no weight_map from tensors to files; copy or download it again")
    found = [_check_inside(folder, name, index) for name in sorted(set(shards.values()))]
    for path in found:
        if not (folder / path).is_file():
            raise ModelError(f"{folder / index} names {path}, which is not there; copy or download it again")
    return found


def index_files(folder: Path) -> list[Path]:
    """The index that says in which of several files the weights are, where it is read."""
    named = _load_json_object(folder / "config.json").get(NAMED, INDEX)
    files = weight_files(folder)
    return [Path(named)] if files and str(files[0]) not in (SINGLE, OURS, named) else []


def find_companion_files(folder: Path) -> list[Path]:
    """The files beside the weights, relative to `folder`, that its loaders read, in order.

    Raises:
        ModelError: one of them is a link out of the folder, or a module is a whole model of its own.
    """
    have = {str(path): path for path in _list_files(folder)}
    found: dict[str, Path] = {name: path for name, path in have.items() if _is_known_file(name, _vocabulary_files(folder))}
    for module in _list_module_folders(folder):
        found.update((name, path) for name, path in have.items() if name.startswith(f"{module}/"))
    waiting = list(found)
    while waiting:
        for name in _find_named_files(folder / waiting.pop(), have):
            if name not in found and not _is_weight_file(name):
                found[name] = have[name]
                waiting.append(name)
    kept = [path for name, path in found.items() if not _is_weight_file(name) or _is_module_weight(folder, path)]
    for path in kept:
        _check_link(folder, path)
    return sorted(kept)


def module_weight_files(folder: Path) -> list[Path]:
    """Those of the companions that hold weights: of sentence-transformers' modules behind the model, such as `2_Dense`."""
    return [path for path in find_companion_files(folder) if _is_weight_file(str(path))]


def find_licence_files(folder: Path) -> list[Path]:
    """The licence files; without one the README, where its head names the licence."""
    names = [path for path in _list_files(folder) if len(path.parts) == 1]
    found = [path for path in names if _LICENCES.fullmatch(path.name) and not _is_link_out(folder, path)]
    if found:
        return found
    return [path for path in names if path.name == "README.md" and not _is_link_out(folder, path) and _has_licence_line(folder / path)]


def find_unread_files(folder: Path) -> tuple[str, ...]:
    """What no loader reads and so is neither counted nor carried over: files, and whole folders with a `/` behind."""
    used = {*weight_files(folder), *index_files(folder), *find_companion_files(folder), *find_licence_files(folder), *map(Path, TRAINING)}
    used_folders = {parent for path in used for parent in path.parents}
    found = set()
    for path in _list_files(folder):
        if path not in used:
            outermost = next((p for p in reversed(path.parents) if p not in used_folders), None)
            found.add(f"{outermost}/" if outermost else str(path))
    return tuple(sorted(found))


def check_no_adapter(folder: Path) -> None:
    """Refuse a folder with an adapter (LoRA) beside or in place of the model.

    Raises:
        ModelError: there is one.
    """
    for name in ADAPTER:
        if (folder / name).is_file():
            raise ModelError(
                f"{folder} holds an adapter ({name}), which would be lost; merge it first: "
                "PeftModel.from_pretrained(base, adapter).merge_and_unload().save_pretrained(...)"
            )


def walk_files(folder: Path) -> Iterator[Path]:
    """All files below `folder`, relative to it, and links to folders; nothing whose name begins with a dot."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir() and not path.is_symlink():
            yield from (Path(path.name) / below for below in walk_files(path))
        else:
            yield Path(path.name)


def _list_files(folder: Path) -> list[Path]:
    """All files below `folder`, also those in a folder that a link of the right kind leads to."""
    found: list[Path] = []
    for path in walk_files(folder):
        if (folder / path).is_dir():
            if not _is_link_out(folder, path):
                found += [path / below for below in walk_files(folder / path)]
            elif path.name in _list_module_folders(folder):
                _check_link(folder, path)
        elif (folder / path).is_file():
            found.append(path)
    return found


def _is_known_file(name: str, vocabulary: Iterable[str]) -> bool:
    """Whether a loader looks for a file of that name or kind."""
    if name.startswith(f"{_TEMPLATES}/"):
        return name.endswith(".jinja")
    if "/" in name or name.endswith(".index.json") or name in ADAPTER:
        return False
    return name in (*_TRANSFORMERS, *_SENTENCE) or name in vocabulary or _KINDS.fullmatch(name) is not None


def _vocabulary_files(folder: Path) -> tuple[str, ...]:
    """The files that the folder's tokenizer class says it reads."""
    name = _load_json_object(folder / "tokenizer_config.json").get("tokenizer_class")
    return _tokenizer_files_of(name) if isinstance(name, str) else ()


@cache
def _tokenizer_files_of(name: str) -> tuple[str, ...]:
    found: list[str] = []
    for one in dict.fromkeys((name, name.removesuffix("Fast"))):
        with suppress(ModelError):  # a class may need a package that is not there
            names = run_foreign(one, partial(getattr, getattr(transformers, one, None), "vocab_files_names", None))
            found += map(str, names.values()) if isinstance(names, dict) else ()
    return tuple(found)


def _list_module_folders(folder: Path) -> list[str]:
    """The folders of the modules that sentence-transformers puts behind the model, as its index files name them."""
    listed = _load_json(folder / MODULES)
    names = [entry.get("path") for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    types = _load_json_object(folder / ROUTER).get("types")
    names += list(types) if isinstance(types, dict) else []
    found = [name.strip("/") for name in names if isinstance(name, str) and name.strip("/")]
    for name in found:
        _check_inside(folder, name, MODULES)
        if "model_type" in _load_json_object(folder / name / "config.json"):
            raise ModelError(
                f"{folder / MODULES} names {name}, a whole model of its own beside the one in {folder}; compress {folder / name} itself"
            )
    return found


def _find_named_files(file: Path, have: Iterable[str]) -> set[str]:
    """Which of the files `have` are named by a small JSON file."""
    if file.suffix != ".json" or file.name.endswith(".index.json"):
        return set()
    try:
        content = file.read_bytes() if file.stat().st_size <= _LARGEST_INDEX else b""
    except OSError:
        return set()
    return set(_parse_json_strings(content)) & set(have)


@lru_cache(maxsize=64)
def _parse_json_strings(content: bytes) -> frozenset[str]:
    """All strings in a JSON file: one run asks ten times, of the original and its copies, and a tokenizer's has thirty thousand."""
    try:
        return frozenset(_iter_strings(json.loads(content)))
    except (ValueError, RecursionError):
        return frozenset()


def _iter_strings(content: Any) -> Iterator[str]:
    """All strings in a JSON value. One that names a class in a Python file (`auto_map`) names the file."""
    waiting = [content]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
            yield f"{value.rpartition('--')[2].partition('.')[0]}.py"
        elif isinstance(value, dict):
            waiting += [*value, *value.values()]
        elif isinstance(value, list):
            waiting += value


def _is_weight_file(name: str) -> bool:
    return name.lower().endswith(_TENSORS)


def _is_module_weight(folder: Path, path: Path) -> bool:
    """Whether weights in the folder of a module are those that are read: safetensors where there are any, else a pickle."""
    if len(path.parts) == 1 or path.parts[0] not in {Path(name).parts[0] for name in _list_module_folders(folder)}:
        return False
    beside = any((folder / path.parent).glob("*.safetensors"))
    return path.suffix == ".safetensors" or (not beside and path.suffix in PICKLES)


def _has_licence_line(readme: Path) -> bool:
    """Whether the head of a model card, between its first two lines of dashes, has a line `license:`."""
    _, _, rest = readme.read_text(encoding="utf-8", errors="replace").partition("---\n")
    return re.search(r"^licen[cs]e:", rest.partition("\n---")[0], re.MULTILINE) is not None


def _check_inside(folder: Path, name: str, where: str) -> Path:
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ModelError(f"{folder / where} names {name:.80}, which lies outside of the folder; do not use it")
    return Path(name)


def _is_link_out(folder: Path, path: Path) -> bool:
    """Whether the file is elsewhere: neither in the folder nor, for a snapshot of the hub, among that cache's blobs."""
    real, home = (folder / path).resolve(), folder.resolve()
    blobs = home.parent.parent / "blobs"
    return not real.is_relative_to(home) and not (home.parent.name == "snapshots" and real.is_relative_to(blobs))


def _check_link(folder: Path, path: Path) -> None:
    if _is_link_out(folder, path):
        raise ModelError(f"{folder / path} is a link out of the folder, which is not followed; put the file itself there")


def _load_json(file: Path) -> Any:
    """The content of a JSON file; None where there is none that can be read."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def _load_json_object(file: Path) -> dict[str, Any]:
    """The content of a JSON file that holds an object; else empty."""
    found = _load_json(file)
    return found if isinstance(found, dict) else {}
