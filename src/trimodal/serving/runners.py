"""What computes: exported files in a runtime, or the model in PyTorch where nothing was exported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from trimodal.benching.choice import read_choice
from trimodal.benching.torch_session import TorchSession, shapes_of, use_torch_threads
from trimodal.benching.variants import TORCH, USUAL_RUNTIMES, read_source
from trimodal.errors import InputError
from trimodal.exporting.component import Component
from trimodal.exporting.components import split_components
from trimodal.formats import open_model
from trimodal.layers import set_dequantize_policy_
from trimodal.runtimes.exported_model import ExportedModel, open_export
from trimodal.runtimes.generation import generate_stepwise
from trimodal.runtimes.recorded_answers import check_answers
from trimodal.runtimes.shape_checks import check_ids
from trimodal.serving.requests import ComponentCard, TensorSpec, Wording

Arrays = Mapping[str, NDArray[Any]]
_BATCH = "batch_size"
LIKELIEST = Wording()


class Runner(Protocol):
    """An open model: `runtime` names what runs it, `cards` its components; those in `rows` take and give (batch, …) throughout."""

    runtime: str
    cards: Mapping[str, ComponentCard]
    rows: frozenset[str]

    def run(self, component: str, arrays: Arrays) -> dict[str, NDArray[Any]]:
        """Arrays (batch, …) by input -> arrays (batch, …) by output.

        Raises:
            InputError: they are not what the component takes.
        """
        ...

    def generate(self, arrays: Arrays, most: int, language: str | None = None, wording: Wording = LIKELIEST) -> Iterator[int]:
        """The tokens that follow one sample (1, …), at most `most`, one after the other.

        Raises:
            InputError: the model does not generate, or does not take the arrays.
        """
        ...

    def close(self) -> None:
        """Let go of memory and threads."""
        ...


class ExportedRunner:
    """The files that `trimodal export` wrote, in ONNX Runtime or OpenVINO. They are asked what was recorded when they were written.

    Raises:
        IntegrityError: they answer something else.
    """

    def __init__(self, model: ExportedModel, runtime: str) -> None:
        self._model, self.runtime = model, runtime
        shapes = {name: (part.inputs, part.outputs) for name, part in model.exported.components.items()}
        self.cards: Mapping[str, ComponentCard] = {
            name: _make_card(name, inputs, outputs, model.sessions[name].input_types) for name, (inputs, outputs) in shapes.items()
        }
        answers = model.exported.answers
        for name, recorded in answers.get("components", {}).items():
            check_answers(f"{model.exported.folder.name}, {name}", model.sessions[name], shapes[name][0], recorded, answers["words"])
        self.rows = frozenset(name for name, both in shapes.items() if all(s and s[0] == _BATCH for part in both for s in part.values()))

    def run(self, component: str, arrays: Arrays) -> dict[str, NDArray[Any]]:
        """As `Runner.run`: (batch, …) by name."""
        return self._model.run(component, arrays)

    def generate(self, arrays: Arrays, most: int, language: str | None = None, wording: Wording = LIKELIEST) -> Iterator[int]:
        """As `Runner.generate`."""
        settings = self._model.settings.with_changes(
            max_new_tokens=most, language=language, temperature=wording.temperature, top_p=wording.top_p, seed=wording.seed
        )
        check_ids(arrays, self._model.words)
        for chosen in generate_stepwise(self._model.parts, arrays, settings):
            if int(chosen[0]) in settings.end:
                return
            yield int(chosen[0])

    def close(self) -> None:
        """As `Runner.close`."""
        self._model.close()


class TorchRunner:
    """The model in PyTorch, eager: what was compressed, as it was verified."""

    runtime = TORCH

    def __init__(self, folder: Path, threads: int) -> None:
        use_torch_threads(threads)
        self._whole = open_model(str(folder), None)
        set_dequantize_policy_(self._whole.module.eval().requires_grad_(False), "speed")
        parts = {part.name: part for part in split_components(self._whole)}
        self._sessions = {name: TorchSession(part) for name, part in parts.items()}
        self.cards: Mapping[str, ComponentCard] = {
            name: _make_card(name, shapes_of(part), _measure_outputs(part), self._sessions[name].input_types)
            for name, part in parts.items()
        }  # fmt: skip
        self.rows = frozenset(name for name, part in parts.items() if not part.switches)

    def run(self, component: str, arrays: Arrays) -> dict[str, NDArray[Any]]:
        """As `Runner.run`: (batch, …) by name."""
        return self._sessions[component].run(arrays)

    def generate(self, arrays: Arrays, most: int, language: str | None = None, wording: Wording = LIKELIEST) -> Iterator[int]:
        """As `Runner.generate`; all tokens are said before the first is given."""
        module: Any = self._whole.module
        given = {name: torch.from_numpy(np.asarray(value)) for name, value in arrays.items()}
        spoken = {} if language is None else {"language": language}
        drawn: dict[str, Any] = {"do_sample": False}
        if wording.temperature:
            drawn = {"do_sample": True, "temperature": wording.temperature, "top_p": wording.top_p, "top_k": 0}
        with torch.inference_mode(), torch.random.fork_rng(enabled=wording.seed is not None):
            if wording.seed is not None:
                torch.manual_seed(wording.seed)
            found = module.generate(**given, max_new_tokens=most, **drawn, **spoken)
        begin = given["input_ids"].shape[1] if "input_ids" in given else 0
        ends = _list_ends(module)
        for token in found[0, begin:].tolist():
            if token in ends:
                return
            yield token

    def close(self) -> None:
        """As `Runner.close`."""
        del self._whole, self._sessions


@dataclass(frozen=True)
class Chosen:
    """The exported folder and the runtime that open a model; the folder itself for PyTorch. `measured`: it was the fastest here."""

    folder: Path
    runtime: str
    measured: bool = False


def choose_runner(folder: Path, runtime: str = "") -> Chosen:
    """What runs the model in `folder`: what was measured to be fastest on this machine, else what was exported and can be opened here,
    else PyTorch. `runtime` asks for another.

    Raises:
        InputError: nothing that was exported can be opened in `runtime`.
    """
    source = read_source(folder)
    remembered = read_choice(folder) if source.module and not source.plain else None
    if remembered is not None and runtime in ("", remembered.runtime):
        if remembered.runtime == TORCH:
            return Chosen(folder, TORCH, True)
        first = Path(next(iter(remembered.files.values()))).parts[0]
        return Chosen(folder / first, remembered.runtime, True)
    if runtime == TORCH or (not runtime and not source.exports):
        return Chosen(folder, TORCH)
    asked = (runtime,) if runtime else USUAL_RUNTIMES
    for name in asked:
        form = {"onnxruntime": "onnx"}.get(name, name)
        for made in (form, "onnx") if name == "openvino" else (form,):
            if made in source.exports and find_spec(name) is not None:
                return Chosen(source.exports[made], name)
    if runtime:
        raise InputError(f"{folder} holds nothing that {runtime} can open here; export it first: trimodal export {folder} --to onnx")
    return Chosen(folder, TORCH)


def open_runner(chosen: Chosen, threads: int) -> Runner:
    """What `choose_runner` chose, opened with so many threads.

    Raises:
        InputError: the runtime's package is missing.
        IntegrityError: a file is missing, has changed, or cannot be opened.
    """
    if chosen.runtime == TORCH:
        return TorchRunner(chosen.folder, threads)
    return ExportedRunner(open_export(chosen.folder, threads, chosen.runtime), chosen.runtime)


def _make_card(
    name: str, inputs: Mapping[str, Sequence[int | str]], outputs: Mapping[str, Sequence[int | str]], types: Mapping[str, str]
) -> ComponentCard:
    return ComponentCard(
        name, tuple(TensorSpec(key, types.get(key, "float32"), _fix(shape)) for key, shape in inputs.items()),
        tuple(TensorSpec(key, "float32", _fix(shape)) for key, shape in outputs.items()),
    )  # fmt: skip


def _fix(shape: Sequence[int | str]) -> tuple[int, ...]:
    return tuple(length if isinstance(length, int) else -1 for length in shape)


def _measure_outputs(part: Component) -> dict[str, list[int | str]]:
    """The outputs' shapes, every length but the last one that may vary."""
    with torch.inference_mode():
        found = part.call(part.module, part.inputs)
    return {name: [*([_BATCH] * (value.dim() - 1)), int(value.shape[-1])] for name, value in found.items()}


def _list_ends(module: Any) -> tuple[int, ...]:
    end = module.generation_config.eos_token_id
    return () if end is None else (end,) if isinstance(end, int) else tuple(end)
