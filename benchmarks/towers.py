"""Heads, neurons, blocks and hidden width cut out of one tower at a time of the see-hear-read model: what each modality loses.

`python -m benchmarks.towers` takes the packaged model, cuts half of the heads, half of the MLP neurons, a third of the blocks
or a quarter of the width of one tower, and asks the 2,000 questions of `benchmarks/schedule.py`; then recovers with `distill`
on 4,000 other questions and asks again. Per modality: the towers' own heads, and the answer read one modality at a time (see
`benchmarks/modality.py`).
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.memory import planned_and_compressed
from benchmarks.modality import MODALITIES, Scores, measured, questions
from benchmarks.passlines import PassLine, finish, table
from benchmarks.schedule import SHOWN, TEST, TRAIN

TOWERS = (*MODALITIES, "fusion")
CUTS: Mapping[str, dict[str, Any]] = {
    "half of the heads": {"prune.heads": {"sparsity": 0.5}},
    "half of the neurons": {"prune.neurons": {"sparsity": 0.5}},
    "a third of the blocks": {"prune.layers": {"sparsity": 0.34}},
    "a quarter of the width": {"prune.width": {"sparsity": 0.25}},
}
CALIBRATION, RECOVERY = 256, {"steps": 60, "batch": 32, "learning_rate": 1e-3}
MOST_LOST = 3.0


def main() -> None:
    """Print the table and the pass lines."""
    from trimodal.data import choose_samples, read_samples
    from trimodal.demo.seehearread import write_dataset
    from trimodal.demo.training import unpack_demo_model
    from trimodal.loading.load import load_from_folder

    parser = argparse.ArgumentParser(prog="python -m benchmarks.towers", description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", default=TOWERS, choices=TOWERS, help="towers to cut")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        original = load_from_folder(unpack_demo_model(Path(scratch) / "model"), "seehearread")
        samples = read_samples(write_dataset(Path(scratch) / "data", train=TRAIN, test=TEST, seed=0))
        train = [sample for sample in samples if sample.split == "train"]
        chosen = choose_samples(train, CALIBRATION, given.seed)
        asked = questions(original, [sample for sample in samples if sample.split == "test"])
        plain = measured(original, asked)
        whole = _parameters(original)
        found: dict[tuple[str, str, bool], Scores] = {}
        rows = [("as trained", "", "100.0 %", *(f"{plain.percent(what):.2f}" for what in SHOWN))]
        for tower in given.only:
            for cut, method in CUTS.items():
                for recovered in (False, True):
                    ((name, options),) = method.items()
                    where = tower if name == "prune.layers" else f"{tower}.*"
                    recipe = [{name: {"where": where, **options}}, *([{"distill": RECOVERY}] if recovered else [])]
                    model, *_ = planned_and_compressed(
                        original, recipe, chosen, seed=given.seed, teacher=True, training=train
                    )
                    scores = found[tower, cut, recovered] = measured(model, asked)
                    rows.append((f"{tower}: {cut}", "recovered" if recovered else "as cut",
                                 f"{100 * _parameters(model) / whole:.1f} %",
                                 *(f"{scores.percent(what):.2f}" for what in SHOWN)))  # fmt: skip
                    print(*rows[-1], sep="  ", flush=True)
    print(f"\n{table(('what', '', 'parameters', *SHOWN), rows)}\n\n{TEST} questions, seed {given.seed}; calibration on "
          f"{CALIBRATION} of {TRAIN} others, recovery {RECOVERY['steps']} steps of {RECOVERY['batch']} of them\n")  # fmt: skip
    finish(lines(found, plain))


def _parameters(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.module.parameters())


def lines(found: Mapping[tuple[str, str, bool], Scores], plain: Scores) -> list[PassLine]:
    """What is cut in one tower must not touch the others' own heads; and recovery must bring the answer back."""
    touched = max(
        abs(scores.percent(f"{other} tower") - plain.percent(f"{other} tower"))
        for (tower, _, recovered), scores in found.items() if not recovered
        for other in MODALITIES if other != tower
    )  # fmt: skip
    lost = max(plain.percent("answer") - scores.percent("answer") for (_, _, recovered), scores in found.items() if recovered)
    better = sum(
        found[tower, cut, True].percent("answer") >= scores.percent("answer")
        for (tower, cut, recovered), scores in found.items() if not recovered
    )  # fmt: skip
    return [
        PassLine("points by which other towers' own heads move, as cut", touched, most=0.0),
        PassLine("points of the answer lost after recovery, worst row", lost, most=MOST_LOST),
        PassLine("rows that recovery makes no worse", better, least=len(found) // 2),
    ]


if __name__ == "__main__":
    main()
