"""Gradual pruning with recovery against pruning in one go, on the see-hear-read model, at one sparsity.

`python -m benchmarks.schedule` prunes the linear layers of all towers of the packaged model by magnitude: in one go, and
along the cubic curve of `gradual`. Both recover by `distill` with as many steps in all and the same learning rate, on the same
4,000 questions; gradually, short recoveries at a constant rate stand between the prunings and most of the steps follow the last.
That, the sparsity and the rate were chosen with other questions (1,000 that neither learned from, one seed). The
2,000 questions that are asked have writers, voices and wordings that neither has seen. Per modality: the towers' own heads,
and the answer read one modality at a time (see `benchmarks/modality.py`).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.memory import compressed
from benchmarks.modality import MODALITIES, Scores, measured, questions
from benchmarks.passlines import PassLine, finish, table

SEEDS = (0, 1, 2)
SPARSITY, TIMES, RECOVERY, BETWEEN = 0.95, 4, 240, 20
TRAIN, TEST, BATCH, LEARNING_RATE = 4000, 2000, 32, 2e-3
ONCE, GRADUAL, BARE = "in one go, recovered", "gradually, recovered in between", "in one go, not recovered"
SHOWN = ("answer", *(f"answer by {m}" for m in MODALITIES), *(f"{m} tower" for m in MODALITIES))


def steps(how: str, sparsity: float, recovery: int) -> list[Mapping[str, Any]]:
    """The recipe's steps; both ways to recover have `recovery` steps in all."""
    prune: dict[str, Any] = {"where": "*", "sparsity": sparsity}
    recover = {"batch": BATCH, "learning_rate": LEARNING_RATE}
    if how == GRADUAL:
        final = {"steps": recovery - BETWEEN * (TIMES - 1), "schedule": "cosine"}
        between = {"steps": BETWEEN, "schedule": "constant", **recover}
        return [{"prune.magnitude": {**prune, "gradual": {"times": TIMES, "recover": between, "final": final}}}]
    return [{"prune.magnitude": prune}, *([{"distill": {"steps": recovery, **recover}}] if how == ONCE else [])]


def main() -> None:
    """Print the table and the pass line."""
    import torch

    from trimodal.data import read_samples
    from trimodal.demo.seehearread import write_dataset
    from trimodal.demo.training import unpack_demo_model
    from trimodal.loading.load import load_from_folder

    parser = argparse.ArgumentParser(prog="python -m benchmarks.schedule", description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--sparsity", type=float, default=SPARSITY)
    parser.add_argument("--recovery", type=int, default=RECOVERY, help="steps of recovery in all")
    given = parser.parse_args()
    found: dict[str, list[Scores]] = {BARE: [], ONCE: [], GRADUAL: []}
    with tempfile.TemporaryDirectory() as scratch:
        original = load_from_folder(unpack_demo_model(Path(scratch) / "model"), "seehearread")
        samples = read_samples(write_dataset(Path(scratch) / "data", train=TRAIN, test=TEST, seed=0))
        train = [sample for sample in samples if sample.split == "train"]
        asked = questions(original, [sample for sample in samples if sample.split == "test"])
        plain = measured(original, asked)
        for how in found:
            for seed in given.seeds if how != BARE else given.seeds[:1]:
                recipe = steps(how, given.sparsity, given.recovery)
                row = compressed(original, recipe, [], seed=seed, teacher=True, training=train)
                found[how].append(measured(row.model, asked))
                percent = found[how][-1].percent("answer")
                print(f"{how}  seed {seed}  answer {percent:.2f}  {row.seconds:.0f} s", flush=True)
    rows = [("as trained", *(f"{plain.percent(what):.2f}" for what in SHOWN))]
    rows += [(how, *(_shown([scores.percent(what) for scores in runs]) for what in SHOWN)) for how, runs in found.items()]
    print(f"\n{table(('what', *SHOWN), rows)}\n\nsparsity {given.sparsity:g}, {given.recovery} steps of recovery in all, "
          f"{TEST} questions, seeds {', '.join(map(str, given.seeds))}; mean ± standard deviation over seeds\n")  # fmt: skip
    per_question = torch.stack([a.right["answer"].double() - b.right["answer"].double()
                                for a, b in zip(found[GRADUAL], found[ONCE], strict=True)]).mean(0) * 100  # fmt: skip
    half = 1.96 * float(per_question.std()) / len(per_question) ** 0.5
    middle = float(per_question.mean())
    print(f"answer, gradually over in one go: {middle:+.2f} points [{middle - half:+.2f}, {middle + half:+.2f}]")
    finish([PassLine("answer, gradually over in one go, least points in the interval", middle - half, least=0.0)])


def _shown(values: Sequence[float]) -> str:
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}"


if __name__ == "__main__":
    main()
