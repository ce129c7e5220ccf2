"""A folder that `trimodal export` wrote, opened in a runtime: what it was made of, its files as sessions, and a way to run them.

    model = open_export("clip-int8/onnx")
    model.run("vision_model", {"pixel_values": pixels})["image_embeds"]
    model = open_export("whisper-int8/onnx")
    model.generate({"input_features": sound}, max_new_tokens=50)

Nothing here needs torch or Transformers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimodal.errors import InputError, IntegrityError, suggest_names
from trimodal.runtimes import RUNTIMES
from trimodal.runtimes.generation import generate
from trimodal.runtimes.generation_settings import GenerationSettings, read_settings
from trimodal.runtimes.part import Part
from trimodal.runtimes.session import Arrays, Session

EXPORT_FILE = "export.json"
_BY_SUFFIX = {".onnx": "onnxruntime", ".xml": "openvino"}


@dataclass(frozen=True)
class ExportedModel:
    """An open folder.

    `said` is what `export.json` says, `config` the model's own configuration, `parts` the files by the component's name.
    """

    folder: Path
    said: Mapping[str, Any]
    config: Mapping[str, Any]
    parts: Mapping[str, Part]
    settings: GenerationSettings

    @property
    def sessions(self) -> Mapping[str, Session]:
        """The open files by the component's name."""
        return {name: part.session for name, part in self.parts.items()}

    def run(self, component: str, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Arrays of any shape by the names of the component's inputs -> its outputs by name.

        Raises:
            InputError: there is no such component.
        """
        if component not in self.parts:
            raise InputError(f"{self.folder} has no component {component!r}; it has {', '.join(self.parts)}")
        return self.parts[component].session.run(inputs)

    def generate(self, inputs: Arrays, max_new_tokens: int | None = None, **changed: Any) -> NDArray[np.int64]:
        """What the model says, greedily, after `inputs`: see `generation.generate`.

        Raises:
            InputError: the folder holds no model that generates, or an input or setting cannot be used.
        """
        return generate(self.parts, inputs, self.settings.with_changes(max_new_tokens=max_new_tokens, **changed))

    def close(self) -> None:
        """Let go of memory and threads."""
        for part in self.parts.values():
            part.session.close()


def open_export(folder: str | Path, threads: int = 1, runtime: str = "", only: Sequence[str] = ()) -> ExportedModel:
    """The folder that an export wrote, every file of it opened with `threads` threads.

    Args:
        folder: what has `export.json` in it.
        threads: how many each file may use.
        runtime: one of `RUNTIMES`; by default the one that the files are for.
        only: the components to open; by default all.

    Raises:
        InputError: it is no such folder, the runtime's package is missing, or no runtime opens its files.
        IntegrityError: a file is missing or cannot be opened.
    """
    place = Path(folder)
    said = _read_json(place / EXPORT_FILE)
    if said is None:
        raise InputError(f"{place} has no {EXPORT_FILE}; expected a folder that trimodal export wrote")
    parts: dict[str, Part] = {}
    for component in said.get("components", []):
        if not only or component["name"] in only:
            parts[component["name"]] = _open_part(place, component, threads, runtime)
    return ExportedModel(place, said, _read_json(place / "config.json") or {}, parts, read_settings(place))


def _open_part(place: Path, component: Mapping[str, Any], threads: int, runtime: str) -> Part:
    file = place / component["files"][0]
    missing = [name for name in component["files"] if not (place / name).is_file()]
    if missing:
        raise IntegrityError(f"{missing[0]}, which {place / EXPORT_FILE} names, is not there; export again")
    chosen = runtime or _BY_SUFFIX.get(file.suffix, "")
    if chosen not in RUNTIMES:
        raise InputError(f"no runtime {chosen or f'for {file.name}'} is known here; {suggest_names(chosen, RUNTIMES)}")
    return Part(RUNTIMES[chosen](file, threads), {name: tuple(shape) for name, shape in component["inputs"].items()})


def _read_json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
