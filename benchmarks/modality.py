"""Whose tokens calibrate? GPTQ on the see-hear-read model with its statistics mixed in different ways, at equal bytes.

`python -m benchmarks.modality --part quantization` takes the packaged model and measures on questions with writers,
voices and wordings that neither training nor calibration has seen. Two variants: only the fusion with its projectors and
the answer's head, where the modalities' tokens share layers; and everything. The calibrations:

    no data      rounding with the MSE clip, no statistics at all
    tokens       all tokens count alike, so the modality with most tokens dominates
    modality     every modality counts alike (the default)
    gradient     every modality counts by the mean size of the loss's gradient at its tokens
    text only    the question's words with a black image and a silent clip: what is left of the usual text-only
                 calibration here, since this model answers only where all three inputs are there

Accuracy by modality. The towers' own heads (digit seen, digit heard, operation asked) sit before the fusion: they say
nothing about what happens in it. Therefore the answer is also read one modality at a time: among the answers that are
possible if everything but the image is known, is the right one the likeliest? So for the sound and for the words.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.memory import Row, bits_per_weight, compressed
from benchmarks.passlines import PassLine, finish, table

if TYPE_CHECKING:
    from torch import Tensor

    from trimodal.core import Sample
    from trimodal.models.model import Batch, Model

SEEDS = (0, 1, 2)
SAMPLES, TEST, GROUP = 256, 2000, 64
MODALITIES = ("image", "audio", "text")
NO_DATA, TEXT_ONLY = "no data", "text only"
CALIBRATIONS = (NO_DATA, "tokens", "modality", "gradient", TEXT_ONLY)
FUSION, EVERYTHING = "fusion only", "everything"
EMBEDDINGS = {"quantize.rtn": {"where": "*embedding*", "bits": 8, "clip": "max"}}


@dataclass(frozen=True)
class Scores:
    """Right or wrong per question (questions,): the answer, the answer read one modality at a time, the towers' heads."""

    right: Mapping[str, Tensor]

    def percent(self, what: str) -> float:
        return 100 * float(self.right[what].float().mean())

    @property
    def worst(self) -> float:
        """Of the modalities as the answer reads them, percent."""
        return min(self.percent(f"answer by {m}") for m in MODALITIES)

    @property
    def worst_tower(self) -> float:
        return min(self.percent(f"{m} tower") for m in MODALITIES)


@dataclass(frozen=True)
class Run:
    """One compression and what it scored."""

    variant: str
    bits: int
    calibration: str
    seed: int
    row: Row
    scores: Scores

    @property
    def bytes(self) -> int:
        return sum(site.stored_bytes for site in self.row.model.layout.sites)


@dataclass(frozen=True)
class Questions:
    """Test inputs, ready to run, and what is right."""

    batches: list[Batch]
    labels: Mapping[str, Tensor]


def questions(model: Model, samples: Sequence[Sample]) -> Questions:
    """All of `samples` as batches."""
    import torch

    from trimodal.data import encode_samples

    batches = [encode_samples(model, samples[start : start + 250]) for start in range(0, len(samples), 250)]
    labels = {m: torch.tensor([sample.labels[m] for sample in samples]) for m in MODALITIES}
    return Questions(batches, labels)


def measured(model: Model, asked: Questions) -> Scores:
    """Scores of `model`."""
    import torch

    from trimodal.demo.training import ANSWER_TABLE

    with torch.inference_mode():
        outputs = [model.module(**batch) for batch in asked.batches]
    answer = torch.cat([output.logits for output in outputs])
    image, audio, text = (asked.labels[m] for m in MODALITIES)
    truth = ANSWER_TABLE[text, image, audio]
    possible = {
        "image": ANSWER_TABLE[text, :, audio],
        "audio": ANSWER_TABLE[text, image],
        "text": ANSWER_TABLE[:, image, audio].T,
    }
    right = {"answer": answer.argmax(1) == truth}
    for name, classes in possible.items():
        allowed = torch.full_like(answer, float("-inf")).scatter(1, classes, 0.0)
        right[f"answer by {name}"] = (answer + allowed).argmax(1) == truth
    for name in MODALITIES:
        found = torch.cat([getattr(output, f"{name}_logits") for output in outputs])
        right[f"{name} tower"] = found.argmax(1) == asked.labels[name]
    return Scores(right)


def steps(variant: str, bits: int, calibration: str) -> list[Mapping[str, Any]]:
    """The recipe's steps."""
    name = "quantize.rtn" if calibration == NO_DATA else "quantize.gptq"
    where = "fusion.*" if variant == FUSION else "*"
    main = {name: {"where": where, "bits": bits, "group": GROUP, "clip": "mse"}}
    return [main] if variant == FUSION else [EMBEDDINGS, main]


def blanked(samples: Sequence[Sample], folder: Path) -> list[Sample]:
    """The same questions with a black image and a silent clip."""
    import numpy as np
    import soundfile
    from PIL import Image

    from trimodal.demo.seehearread.speech import RATE

    image, audio = folder / "black.png", folder / "silence.wav"
    Image.fromarray(np.zeros((8, 8), dtype=np.uint8)).save(image)
    soundfile.write(audio, np.zeros(RATE // 2, dtype=np.float32), RATE, subtype="PCM_16")
    return [replace(sample, image=image, audio=audio) for sample in samples]


def quantization(bits: Sequence[int], seeds: Sequence[int], test: int) -> None:
    """The part `quantization`."""
    import torch

    from trimodal.data import choose_samples, read_samples
    from trimodal.demo.seehearread import write_dataset
    from trimodal.demo.training import unpack_demo_model
    from trimodal.loading.load import load_from_folder

    with tempfile.TemporaryDirectory() as scratch:
        here = Path(scratch)
        original = load_from_folder(unpack_demo_model(here / "model"), "seehearread")
        samples = read_samples(write_dataset(here / "data", train=4000, test=test, seed=0))
        train = [sample for sample in samples if sample.split == "train"]
        asked = questions(original, [sample for sample in samples if sample.split == "test"])
        plain = measured(original, asked)
        runs: list[Run] = []
        for variant in (FUSION, EVERYTHING):
            for width in bits:
                for calibration in CALIBRATIONS:
                    for seed in seeds[:1] if calibration == NO_DATA else seeds:
                        chosen = choose_samples(train, SAMPLES, seed)
                        if calibration == TEXT_ONLY:
                            chosen = blanked(chosen, here)
                        balance = calibration if calibration in ("tokens", "gradient") else "modality"
                        row = compressed(original, steps(variant, width, calibration), chosen, seed=seed,
                                         balance=balance, teacher=calibration == "gradient")  # fmt: skip
                        run = Run(variant, width, calibration, seed, row, measured(row.model, asked))
                        runs.append(run)
                        print(f"{variant}  {width} bit  {calibration}  seed {seed}  answer {run.scores.percent('answer'):.2f}  "
                              f"worst modality in the answer {run.scores.worst:.2f}  {row.seconds:.1f} s", flush=True)  # fmt: skip
    print()
    print(accuracies(runs, plain))
    print(f"{test} test questions; mean over calibration seeds {', '.join(map(str, seeds))} ({SAMPLES} questions each) and "
          f"their range; groups of {GROUP} columns; {torch.get_num_threads()} threads")  # fmt: skip
    print()
    print(explanations(runs))
    finish(lines(runs))


def _same(runs: Sequence[Run], variant: str, bits: int, calibration: str) -> list[Run]:
    return [run for run in runs if (run.variant, run.bits, run.calibration) == (variant, bits, calibration)]


def _over(values: Sequence[float]) -> str:
    mean = sum(values) / len(values)
    return f"{mean:.2f}" + (f" ({min(values):.2f}–{max(values):.2f})" if len(values) > 1 else "")


def accuracies(runs: Sequence[Run], plain: Scores) -> str:
    """Percent right per variant, bits and calibration."""
    shown = ("answer", *(f"answer by {m}" for m in MODALITIES), *(f"{m} tower" for m in MODALITIES))
    rows = [("as trained", "32", "", *(f"{plain.percent(what):.2f}" for what in shown), f"{plain.worst:.2f}")]
    for variant, bits, calibration in dict.fromkeys((r.variant, r.bits, r.calibration) for r in runs):
        same = _same(runs, variant, bits, calibration)
        layout = same[0].row.model.layout
        towers = ("fusion",) if variant == FUSION else ()
        rows.append((variant, f"{bits} ({bits_per_weight(layout, layout, towers, blocks=False):.2f})", calibration,
                     *(_over([run.scores.percent(what) for run in same]) for what in shown),
                     _over([run.scores.worst for run in same])))  # fmt: skip
    return table(("what", "bits (all-in)", "calibration", *shown, "worst in the answer"), rows)


def explanations(runs: Sequence[Run]) -> str:
    """What is behind the table: who has how many tokens in the fusion, and whose error each calibration leaves."""
    found = [table(("tokens of the fusion's blocks", "share"), _token_shares(runs)), ""]
    names = ("image", "audio", "text", "fusion")
    rows = []
    for variant, bits, calibration in dict.fromkeys((r.variant, r.bits, r.calibration) for r in runs):
        if variant == FUSION:
            errors = [_errors(run) for run in _same(runs, variant, bits, calibration)]
            rows.append((str(bits), calibration, *(_over_errors([e[name] for e in errors]) for name in names)))
    found.append(table(("bits", "calibration", *(f"error at {_called(name)}" for name in names)), rows))
    found.append("Errors: relative squared output error per layer, E‖ΔW x‖² / E‖W x‖² at that modality's tokens, mean over "
                 "the fusion's blocks. For 'text only' the tokens are those of black images and silence.")  # fmt: skip
    return "\n".join(found)


def _called(name: str) -> str:
    return "the class token" if name == "fusion" else f"{name} tokens"


def _over_errors(values: Sequence[float]) -> str:
    return f"{sum(values) / len(values):.4f}"


def _inside(run: Run) -> list[Any]:
    """Records of the layers that all modalities' tokens run through."""
    return [record for record in run.row.records if record.tower == "fusion" and record.block is not None]


def _errors(run: Run) -> dict[str, float]:
    records = _inside(run)
    return {
        name: sum(r.error.get(name, 0.0) for r in records) / len(records)
        for name in ("image", "audio", "text", "fusion")
    }


def _token_shares(runs: Sequence[Run]) -> list[tuple[str, ...]]:
    tokens = _inside(next(run for run in runs if run.calibration == "tokens"))[0].tokens
    total = sum(tokens.values())
    return [(_called(name), f"{100 * count / total:.1f} %") for name, count in tokens.items()]


def _difference(ours: Sequence[Run], theirs: Sequence[Run], what: str) -> tuple[float, float, float]:
    """Points by which `ours` is better, and the 95 % interval over questions, each counted with its mean over seeds."""
    import torch

    def mean(runs: Sequence[Run]) -> Tensor:
        return torch.stack([run.scores.right[what].double() for run in runs]).mean(0)

    per_question = 100 * (mean(ours) - mean(theirs))
    middle, half = float(per_question.mean()), 1.96 * float(per_question.std()) / len(per_question) ** 0.5
    return middle, middle - half, middle + half


def lines(runs: Sequence[Run]) -> list[PassLine]:
    """Pass lines at 3 bit, and beside them what was measured at every width."""
    found = []
    for variant, bits in dict.fromkeys((run.variant, run.bits) for run in runs):
        balanced, tokens, text = (_same(runs, variant, bits, c) for c in ("modality", "tokens", TEXT_ONLY))
        gain = sum(run.scores.worst for run in balanced) / len(balanced) - sum(
            run.scores.worst for run in tokens
        ) / len(tokens)
        for name, other in (("tokens", tokens), (TEXT_ONLY, text)):
            middle, low, high = _difference(balanced, other, "answer")
            print(
                f"{variant}, {bits} bit: answer, balanced over {name}: {middle:+.2f} points [{low:+.2f}, {high:+.2f}]"
            )
            if bits == 3 and name == TEXT_ONLY:
                found.append(
                    PassLine(f"{variant}, 3 bit: text-only is worse, least points in the interval", low, least=0.0)
                )
        print(f"{variant}, {bits} bit: worst modality in the answer, balanced over tokens: {gain:+.2f} points")
        if bits == 3:
            found.append(
                PassLine(f"{variant}, 3 bit: worst modality, points that balanced gains on tokens", gain, least=1.0)
            )
        sizes = {run.bytes for run in runs if (run.variant, run.bits) == (variant, bits)}
        found.append(PassLine(f"{variant}, {bits} bit: bytes by which rows differ", max(sizes) - min(sizes), most=0))
    return found


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=("quantization",), default="quantization")
    parser.add_argument("--bits", type=int, nargs="+", default=(3, 2))
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--test", type=int, default=TEST, help="number of test questions")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    quantization(given.bits, given.seeds, given.test)


if __name__ == "__main__":
    main()
