"""One model that is served: what it can be asked, and how an answer is made of what it computes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from trimodal.benching.variants import TORCH
from trimodal.errors import ModelError
from trimodal.formats import measure_folder_size
from trimodal.models.model import LoadedSample, Output
from trimodal.models.pooling import pool_embedding
from trimodal.runtimes.exported_folder import read_exported
from trimodal.runtimes.model_limits import limit_tokens
from trimodal.serving.asking import TAKEN_ALONE, Asking, read_asking, read_scale
from trimodal.serving.refusals import refuse_bad
from trimodal.serving.requests import Boxes, Classes, Embedding, ModelCard, Task, Text
from trimodal.serving.runners import Chosen, Runner, choose_runner, open_runner
from trimodal.serving.trust import check_accounted
from trimodal.serving.windows import split_sound

Arrays = Mapping[str, NDArray[Any]]
_SURE = 0.3  # boxes that are less likely are not told
_NOT_SAID = ("labels", "decoder_input_ids", "decoder_attention_mask")


@dataclass(frozen=True)
class Job:
    """What is computed for one sample: a component's arrays (1, …)."""

    component: str
    arrays: Arrays


@dataclass(frozen=True)
class ServedModel:
    """A model under the name and version that clients know. `asking` is None where the folder has no configuration: tensors alone are
    taken then."""

    name: str
    version: str
    folder: Path
    chosen: Chosen
    runner: Runner
    asking: Asking | None

    @cached_property
    def tasks(self) -> tuple[Task, ...]:
        """What it can be asked besides tensors."""
        asking, found = self.asking, list[Task]()
        if asking is None:
            return ()
        kinds = {output.kind for output in asking.outputs if self._find_component(output) is not None}
        says = asking.generates and self._has_decoder
        spoken = "audio" in asking.modalities and "text" not in asking.modalities
        if "embedding" in kinds and not says:
            found.append("embed")
        if ("logits" in kinds or self._matches_texts) and not says:
            found.append("classify")
        if "boxes" in kinds:
            found.append("detect")
        spells = asking.processors.text is not None
        if (says and "audio" in asking.modalities) or ("tokens" in kinds and spoken and spells):
            found.append("transcribe")
        if says and "audio" not in asking.modalities:
            found.append("ask")
        return tuple(found)

    @cached_property
    def card(self) -> ModelCard:
        """What is told of it."""
        asking = self.asking
        labels = asking.list_labels() if asking is not None and {"classify", "detect"} & set(self.tasks) and not self._matches_texts else ()
        scored = [output for output in asking.outputs if output.kind == "logits"] if asking is not None and labels else []
        return ModelCard(
            self.name, self.version, "" if asking is None else asking.family.name, self.runner.runtime, self.tasks,
            self.takes, tuple(self.runner.cards.values()), labels,
            tuple(output.field for output in scored if self._find_component(output) is not None), self._width,
            bytes=_measure_bytes(self.chosen), extra={"measured": self.chosen.measured},
        )  # fmt: skip

    @cached_property
    def _width(self) -> int | None:
        """How many numbers a vector has; None where none is made, they are of several lengths, or it depends on the sample."""
        if "embed" not in self.tasks:
            return None
        found = {self._measure_width(output) for output in self._list_vectors() if self._find_component(output) is not None}
        return found.pop() if len(found) == 1 else None

    def _measure_width(self, output: Output) -> int | None:
        component = self._find_component(output)
        specs = self.runner.cards[component].outputs if component is not None else ()
        shape = next((spec.shape for spec in specs if spec.name == output.field), specs[0].shape if specs else ())
        counted = shape[-1:] if output.pool else shape[1:]  # what is not pooled is one vector with all its numbers
        return math.prod(counted) if counted and min(counted) > 0 else None

    @cached_property
    def takes(self) -> tuple[str, ...]:
        """The modalities that a client can give; what a decoder has said before is none of them."""
        if self.asking is None:
            return ()
        return ("audio",) if self.tasks == ("transcribe",) else self.asking.modalities

    @property
    def _has_decoder(self) -> bool:
        return any("past_key_values" in spec.name for card in self.runner.cards.values() for spec in card.inputs)

    @property
    def _matches_texts(self) -> bool:
        """Whether images or sounds are measured by texts, whose vectors lie in one space."""
        found = {output.modality for output in self._list_vectors()}
        return "text" in found and len(found) > 1

    def _list_vectors(self) -> list[Output]:
        return [] if self.asking is None else [output for output in self.asking.outputs if output.kind == "embedding"]

    def _find_component(self, output: Output) -> str | None:
        """The component that gives `output`: under its name, or as the one thing that the tower of its modality gives."""
        given = {name: [spec.name for spec in card.outputs] for name, card in self.runner.cards.items()}
        alone = [name for name, outputs in given.items() if TAKEN_ALONE.get(name) == (output.modality,) and len(outputs) == 1]
        return next((name for name, outputs in given.items() if output.field in outputs), alone[0] if alone else None)

    def _select(self, output: Output, found: Arrays) -> NDArray[Any]:
        return np.asarray(found[output.field] if output.field in found else next(iter(found.values())))

    # What is computed

    def make_jobs(self, loaded: LoadedSample, task: Task) -> list[Job]:
        """What is computed for one sample, one after the other: a long sound that is transcribed goes in windows.

        Raises:
            RefusedError: as `make_job`.
        """
        heard = self._heard_seconds if task == "transcribe" else None
        if heard is None or loaded.audio is None or len(loaded.audio) <= heard * loaded.sampling_rate:
            return [self.make_job(loaded, task)]
        windows = split_sound(loaded.audio, loaded.sampling_rate, heard)
        return [self.make_job(replace(loaded, audio=window), task) for window in windows]

    @cached_property
    def _heard_seconds(self) -> float | None:
        """How many seconds of sound a model that speaks hears at once; None where there is no such limit."""
        asking = self.asking
        if asking is None or not asking.generates:
            return None
        length = getattr(asking.processors.audio, "chunk_length", None)
        return float(length) if length else None

    def make_job(self, loaded: LoadedSample, task: Task) -> Job:
        """What is computed for one sample of a `task`.

        Raises:
            RefusedError: 400, the sample lacks what the model needs, or holds what it does not take.
        """
        asking = self._require_asking()
        if task == "embed" or (task == "classify" and self._matches_texts):
            component = self._choose_embedder(loaded)
        else:
            component = next(iter(self.runner.cards))
        if task == "ask":
            self._check_prompt(loaded.text or "")
        wanted = ("audio",) if task == "transcribe" else asking.modalities if task == "ask" else asking.modalities_of(component)
        if task == "ask" and loaded.image is None and "image" in wanted:
            return Job(component, self._encode_text_alone(loaded))
        arrays = asking.encode(loaded, wanted)
        if task in ("ask", "transcribe"):
            return Job(component, {name: value for name, value in arrays.items() if name not in _NOT_SAID})
        return Job(component, self._complete(component, arrays))

    def _check_prompt(self, text: str) -> None:
        """A question is never cut, since what is asked stands at its end; a text of which a vector is made is."""
        tokenizer, most = self._require_asking().processors.text, self._most_tokens
        if tokenizer is None or most is None:
            return
        count = len(tokenizer(text)["input_ids"])
        if count >= most:
            raise refuse_bad(f"the text has {count:,} tokens; {self.name} takes {most:,}, its answer among them", "text")

    @cached_property
    def _most_tokens(self) -> int | None:
        return limit_tokens(self.folder)

    def count_room(self, job: Job) -> int | None:
        """How many tokens an answer may have behind the prompt of `job`; None where the model has no length that it was made for.

        Raises:
            RefusedError: 400, there is no room.
        """
        ids, most = job.arrays.get("input_ids"), self._most_tokens
        if ids is None or most is None:
            return None
        if (room := most - int(ids.shape[-1])) < 1:
            raise refuse_bad(f"the prompt has {ids.shape[-1]:,} tokens; {self.name} takes {most:,}, its answer among them", "text")
        return room

    def _choose_embedder(self, loaded: LoadedSample) -> str:
        """The component that makes the vector of what the sample holds."""
        held = [m for m in ("image", "audio", "text") if getattr(loaded, m) is not None]
        outputs = self._list_vectors()
        fitting = [o for o in outputs if o.modality in held] or [o for o in outputs if o.modality not in ("image", "audio", "text")]
        if len(held) > 1 and len(fitting) > 1:
            raise refuse_bad("one vector is of one image, sound or text; give them as items of their own")
        component = self._find_component(fitting[0]) if fitting else None
        if component is None:
            known = ", ".join(sorted({output.modality for output in outputs}))
            raise refuse_bad(f"this model makes vectors of {known}, not of {', '.join(held)}")
        return component

    def _encode_text_alone(self, loaded: LoadedSample) -> dict[str, NDArray[Any]]:
        tokenizer = self._require_asking().processors.text
        if tokenizer is None or loaded.text is None:
            raise refuse_bad("this model needs an image and a text")
        ids = tokenizer(loaded.text)["input_ids"]
        return {"input_ids": np.array([ids], np.int64), "attention_mask": np.ones((1, len(ids)), np.int64)}

    def _complete(self, component: str, arrays: Arrays) -> dict[str, NDArray[Any]]:
        """Those of `arrays` that the component takes; of streams that the sample lacks zeros, with the mark that they are not there."""
        made: dict[str, NDArray[Any]] = {}
        for spec in self.runner.cards[component].inputs:
            if spec.name in arrays:
                made[spec.name] = arrays[spec.name]
            elif spec.name.endswith("attention_mask") and "input_ids" in arrays:
                made[spec.name] = np.ones_like(arrays["input_ids"])
            elif spec.name == "token_type_ids" and "input_ids" in arrays:  # one text is one segment
                made[spec.name] = np.zeros_like(arrays["input_ids"])
            elif spec.name == "audio_mask" and "input_features" in arrays:
                made[spec.name] = np.ones((1, arrays["input_features"].shape[-1]), np.int64)
            else:
                made[spec.name] = np.zeros([1 if length < 0 else length for length in (1, *spec.shape[1:])], spec.type)
        return made

    def _require_asking(self) -> Asking:
        if self.asking is None:
            raise ModelError(f"{self.name} has no configuration; only tensors can be given to it")
        return self.asking

    # What is answered

    def read_vector(self, job: Job, found: Arrays) -> Embedding:
        """The vector, of length 1, in a component's outputs (1, …)."""
        output = next(output for output in self._list_vectors() if self._find_component(output) == job.component)
        mask = job.arrays.get(output.mask)
        value = torch.from_numpy(self._select(output, found))
        pooled = pool_embedding(output, value, None if mask is None else torch.from_numpy(mask))
        vector = pooled[0].float().numpy()
        length = float(np.linalg.norm(vector))
        tokens = int(np.size(job.arrays["input_ids"])) if "input_ids" in job.arrays else 0
        return Embedding((vector / (length or 1.0)).astype(np.float32), output.modality, tokens)

    def read_classes(self, found: Arrays, top: int) -> Classes:
        """The likeliest classes of each output of scores (1, classes)."""
        asking, told = self._require_asking(), dict[str, list[tuple[str, float]]]()
        for output in asking.outputs:
            if output.kind == "logits" and output.field in found:
                scores = np.asarray(found[output.field], np.float64)[0]
                told[output.field] = _rank(_to_shares(scores), asking.list_labels(len(scores)), top)
        return Classes(told)

    def match_texts(self, vector: Embedding, labels: Sequence[str], vectors: Sequence[Embedding], top: int) -> Classes:
        """Which of the texts fits best: probabilities as the model was trained to give them."""
        scale, bias = self._scale
        cosines = np.array([float(vector.vector @ other.vector) for other in vectors])
        scores = scale * cosines + bias
        alone = self._require_asking().family.name == "siglip"
        return Classes({"match": _rank(1 / (1 + np.exp(-scores)) if alone else _to_shares(scores), tuple(labels), top)})

    @cached_property
    def _scale(self) -> tuple[float, float]:
        return read_scale(self.folder)

    def read_boxes(self, found: Arrays, top: int) -> Boxes:
        """The boxes in a detector's outputs (1, …)."""
        asking = self._require_asking()
        output = next(output for output in asking.outputs if output.kind == "boxes")
        boxes = output.select_tensor({name: torch.from_numpy(np.asarray(value)) for name, value in found.items()})
        assert boxes is not None
        labels = asking.list_labels()
        best = sorted((row for row in boxes[0].tolist() if row[4] >= _SURE), key=lambda row: -row[4])[:top]
        return Boxes([(_name_class(labels, int(kind)), sure, _to_corners(x, y, w, h)) for x, y, w, h, sure, kind in best])

    def read_frames(self, found: Arrays) -> Text:
        """The text of scores per frame (1, frames, characters), as CTC has them."""
        asking = self._require_asking()
        output = next(output for output in asking.outputs if output.kind == "tokens" and output.field in found)
        ids = np.asarray(found[output.field])[0].argmax(-1)
        return Text(asking.processors.text.decode(ids).strip(), "stop", len(ids))

    def spell(self, tokens: Sequence[int]) -> str:
        """The text of tokens."""
        return str(self._require_asking().processors.text.decode(list(tokens), skip_special_tokens=True))

    def write_prompt(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """The text that a chat becomes: by the tokenizer's own template; without one, the text of the one message as it is.

        Raises:
            RefusedError: 400, there is no template, and more than one message.
        """
        asking = self._require_asking()
        for source in (asking.processors.whole, asking.processors.text):
            if getattr(source, "chat_template", None):
                return str(source.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True))
        if len(messages) != 1:
            raise refuse_bad(f"{self.name} has no chat template; send one message", "messages")
        return _find_text(messages[0].get("content", ""))


def open_served(folder: str | Path, name: str = "", version: str = "1", *, threads: int = 1, runtime: str = "") -> ServedModel:
    """The model in `folder` (an artifact, an exported folder, or a model as it was published), open.

    Raises:
        InputError: it is none of these, or nothing here can run it.
        IntegrityError: a file is missing or has changed.
    """
    place = Path(folder)
    chosen = choose_runner(place, runtime)
    check_accounted(chosen.folder)
    asking = read_asking(place) if (place / "config.json").is_file() else None
    return ServedModel(name or place.resolve().name, version, place, chosen, open_runner(chosen, threads), asking)


def _measure_bytes(chosen: Chosen) -> int:
    """What lies on disk of the model that runs: its exported files, or its weights."""
    if chosen.runtime == TORCH:
        return measure_folder_size(chosen.folder)[1]
    parts = read_exported(chosen.folder, check=False).components.values()
    return sum((chosen.folder / file).stat().st_size for file in {file for part in parts for file in part.files})


def _to_shares(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    weights = np.exp(scores - scores.max())
    return np.asarray(weights / weights.sum())


def _rank(shares: NDArray[np.float64], labels: Sequence[str], top: int) -> list[tuple[str, float]]:
    return [(labels[number], float(shares[number])) for number in np.argsort(-shares, kind="stable")[:top].tolist()]


def _name_class(labels: Sequence[str], number: int) -> str:
    return labels[number] if number < len(labels) else str(number)


def _to_corners(x: float, y: float, width: float, height: float) -> tuple[float, float, float, float]:
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _find_text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(part.get("text", "") for part in content if isinstance(part, Mapping) and part.get("type") == "text")
