"""A folder that `trimodal export` wrote, opened in a runtime: what it was made of, its files as sessions, and a way to run them.

    model = open_export("clip-int8/onnx")
    model.run("vision_model", {"pixel_values": pixels})["image_embeds"]
    model = open_export("whisper-int8/onnx")
    model.generate({"input_features": sound}, max_new_tokens=50)

Nothing here needs torch or Transformers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimodal.errors import InputError, suggest_names
from trimodal.runtimes import RUNTIMES
from trimodal.runtimes.exported_folder import ExportedFolder, read_exported
from trimodal.runtimes.generation import generate
from trimodal.runtimes.generation_settings import GenerationSettings, read_settings
from trimodal.runtimes.model_limits import count_words, read_most_tokens
from trimodal.runtimes.part import Part
from trimodal.runtimes.session import Arrays, Session
from trimodal.runtimes.shape_checks import check_ids, check_inputs, check_outputs


@dataclass(frozen=True)
class ExportedModel:
    """An open folder: what is in it, the open files by the component's name, how it generates, if it does, how many tokens a text may
    have, where there is a limit, and how many words the model knows, where it is known."""

    exported: ExportedFolder
    parts: Mapping[str, Part]
    settings: GenerationSettings
    most_tokens: int | None = None
    words: int | None = None

    @property
    def sessions(self) -> Mapping[str, Session]:
        """The open files by the component's name."""
        return {name: part.session for name, part in self.parts.items()}

    def run(self, component: str, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Arrays of any shape by the names of the component's inputs -> its outputs by name.

        Raises:
            InputError: there is no such component, or an input has another shape than it takes, or holds unknown words.
            IntegrityError: the runtime gave what is no answer to these inputs.
        """
        if component not in self.parts:
            raise InputError(f"{self.exported.folder} has no component {component!r}; it has {', '.join(self.parts)}")
        part = self.parts[component]
        check_ids(inputs, self.words)
        lengths = check_inputs(component, part.shapes, inputs, self.most_tokens)
        found = part.session.run(inputs)
        check_outputs(component, self.exported.components[component].outputs, found, lengths)
        return found

    def generate(self, inputs: Arrays, max_new_tokens: int | None = None, **changed: Any) -> NDArray[np.int64]:
        """What the model says after `inputs`, the likeliest unless a `temperature` is given: int64 (batch, new), see `generation.generate`.

        Raises:
            InputError: the folder holds no model that generates, or an input or setting cannot be used.
        """
        check_ids(inputs, self.words)
        return generate(self.parts, inputs, self.settings.with_changes(max_new_tokens=max_new_tokens, **changed))

    def close(self) -> None:
        """Let go of memory and threads."""
        for part in self.parts.values():
            part.session.close()


def open_export(
    folder: str | Path, threads: int = 1, runtime: str = "", only: Sequence[str] = (), exact: bool = False
) -> ExportedModel:
    """The folder that an export wrote, its files opened with `threads` threads each.

    Args:
        folder: what has `export.json` in it.
        threads: how many each file may use.
        runtime: one of `RUNTIMES`; by default the one that the export was tried in.
        only: the components to open; by default all.
        exact: without what a runtime rounds of its own accord, as ONNX Runtime does with what meets weight-only codes.

    Raises:
        InputError: it is no such folder, `threads` is no number from 1, the runtime's package is missing, or no runtime opens its files.
        IntegrityError: a file is missing, has changed, or cannot be opened.
    """
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise InputError(f"threads is {threads!r}; expected a whole number from 1")
    found = read_exported(Path(folder))
    if unknown := sorted({only} if isinstance(only, str) and only else set(only) - found.components.keys()):
        raise InputError(f"{found.folder} has no component {unknown[0]!r}, or only= is no list; it has {', '.join(found.components)}")
    chosen = runtime or found.runtime
    if chosen not in RUNTIMES:
        raise InputError(f"no runtime {chosen!r} is known here for {found.to} files; {suggest_names(chosen, RUNTIMES)}")
    parts = {
        name: Part(RUNTIMES[chosen](found.path_of(name), threads, exact=exact), part.inputs, name)
        for name, part in found.components.items() if not only or name in only
    }  # fmt: skip
    return ExportedModel(found, parts, read_settings(found.folder), read_most_tokens(found.folder), count_words(found.folder))
