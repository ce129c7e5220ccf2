"""A model's own input processors, out of its folder: which there are is seen at once, they are loaded when they are needed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import transformers

from trimodal import networks
from trimodal.errors import ModelError
from trimodal.models.foreign import last_line_of, run_foreign
from trimodal.models.model import Processors

_TEXT_FILES = {
    "tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model",
}  # fmt: skip
_KINDS = {"image": "image_processor", "audio": "feature_extractor", "text": "tokenizer"}
_WORDS = {"image": "image processor", "audio": "feature extractor", "text": "tokenizer", "whole": "processor"}
_AUTO = {"image": "AutoImageProcessor", "audio": "AutoFeatureExtractor", "text": "AutoTokenizer", "whole": "AutoProcessor"}
_NEEDED = (
    re.compile(r"[Mm]issing (?:optional )?dependenc(?:y|ies): (\w[\w-]*)"),
    re.compile(r"requires the (\w[\w.-]*) library", re.IGNORECASE),
    re.compile(r"pip install (?:-U |--upgrade )?[`'\"]?(\w[\w.-]*)"),
    re.compile(r"[Nn]o module named '(\w+)"),
    re.compile(r"(?:need to have|requires|install) [`'\"]?(\w[\w.-]*)[`'\"]? (?:or tiktoken )?(?:to be )?installed"),
)
_PACKAGES = {"pil": "pillow", "pytorch": "torch", "google": "protobuf", "cv2": "opencv-python", "sklearn": "scikit-learn"}


def find_processors(folder: Path) -> Processors:
    """The input processors that `folder` has the files for.

    Raises:
        ModelError: one of these files is no JSON. A processor that cannot be loaded says so when it is asked for.
    """
    have = {file.name: file for file in folder.iterdir()}
    nested = _read_json_object(have.get("processor_config.json"))
    flat = _read_json_object(have.get("preprocessor_config.json"))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        _read_json_object(have.get(name))
    parts = []
    if "image_processor" in nested or "image_processor_type" in flat:
        parts.append("image")
    if "feature_extractor" in nested or _has_flat_extractor(flat, "image" in parts):
        parts.append("audio")
    if _TEXT_FILES & have.keys():
        parts.append("text")
    if "processor_class" not in nested:
        alone = {part: partial(_load_processor, part, folder) for part in parts}
        combined = "processor_class" in flat and {"image", "text"} <= set(parts)  # PaliGemma's folders say it there
        return Processors(later={**alone, "whole": partial(_load_processor, "whole", folder)} if combined else alone)
    whole = cache(partial(_load_processor, "whole", folder))
    return Processors(later={"whole": whole, **{part: partial(_load_combined_part, whole, part, folder) for part in parts}})


def _has_flat_extractor(flat: Mapping[str, Any], images: bool) -> bool:
    """Whether `flat` tells of a feature extractor for audio. Old files of vision models name theirs so, beside the image processor;
    models that see and hear have the fields of both in one file."""
    return "feature_extractor_type" in flat and (not images or "sampling_rate" in flat)


def _load_combined_part(whole: Callable[[], Any], part: str, folder: Path) -> Any:
    """One part of a combined processor; where that cannot be loaded or lacks it, the part by itself."""
    try:
        found = getattr(whole(), _KINDS[part], None)
    except ModelError:  # what another part needs is missing
        found = None
    return _load_processor(part, folder) if found is None else found


def _read_json_object(file: Path | None) -> dict[str, Any]:
    """The content of a processor's file; empty where there is none."""
    try:
        content = {} if file is None else json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{file} is not valid JSON ({error}); copy or download it again") from error
    if not isinstance(content, dict):
        raise ModelError(f"{file} holds a JSON {type(content).__name__}, expected an object; copy or download it again")
    return content


def _load_processor(part: str, folder: Path) -> Any:
    """The processor for `part`.

    Raises:
        ModelError: it cannot be loaded; the message names the package that is missing, if that is why.
    """
    networks.register()
    kind: Any = getattr(transformers, _AUTO[part])
    load = partial(kind.from_pretrained, folder, local_files_only=True, trust_remote_code=False)
    try:
        return run_foreign("loading it", load)
    except ModelError as failure:
        error = failure.__cause__ or failure
        what, package = f"{folder}: its {_WORDS[part]}", find_missing_package(error)
        if package == "tiktoken" and any(folder.glob("*.model")) and find_spec("sentencepiece") is None:
            package = "sentencepiece"  # whose file is read as one of tiktoken's where it is missing
        if package is None:
            raise ModelError(f"{what} cannot be loaded: {last_line_of(error)}") from error
        raise ModelError(
            f"{what} needs the package {package}, which is not installed: run `pip install {package}`, or use --data none with a "
            "recipe that needs no data"
        ) from error


def find_missing_package(error: BaseException | None) -> str | None:
    """The package that is not installed, if that is what `error` or what caused it says."""
    while error is not None:
        if isinstance(error, ModuleNotFoundError) and error.name:
            return _to_package_name(error.name.partition(".")[0])
        said = str(error)
        if isinstance(error, ImportError) or "install" in said:
            for pattern in _NEEDED:
                if found := pattern.search(said):
                    return _to_package_name(found.group(1))
        error = error.__cause__ or error.__context__
    return None


def _to_package_name(name: str) -> str:
    """What `pip install` calls the library `name`."""
    return _PACKAGES.get(name.lower(), name.lower())
