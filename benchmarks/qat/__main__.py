"""Does training with quantization in the loop win back what rounding lost? `python -m benchmarks.qat`

Weights of 2, 3 and 4 bits on an even grid with a scale per row, chosen with GPTQ's feedback, and inputs of 8 bits (`quantize.smooth`,
embeddings of 8 bits); from there 80 steps of 32 samples, without labels, of `train.quantized`, or of `distill`, which is the plain
thing to do: it trains norms and biases of the rounded model. Models and what is measured: `benchmarks/qat/models.py`. Seeds choose the
samples for calibration, the order of training, and for all models but the demo's nothing else: each is trained once.

`--quick` trains every model for a tenth as long, with one seed, and judges nothing. Cells are kept in `.cache/qat/cells`.

Lines, fixed before running. With 2 and 3 bits, wherever rounding lost a point or more (mean over seeds): at least half of what was
lost is won back (sums over seeds). With 4 bits: no model stays more than 0.3 points below float (mean over seeds). With 2 bits: more is
won back, over all models, than `distill` wins.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence

from benchmarks.passlines import PassLine, finish, table
from benchmarks.qat.cells import Cell, Effort, run_cells

MODELS = ("vit", "clip", "words", "demo")
SEEDS = (0, 1, 2)
BITS = (2, 3, 4)
_LOST, _WON, _NEAR = 1.0, 50.0, 0.3


def main() -> None:
    """Run what is asked for, and print the table and the lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of everything, one seed")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--bits", nargs="+", type=int, choices=BITS, default=BITS)
    parser.add_argument("--steps", type=int, default=Effort().steps, help="of each training; with more than are usual QAT alone is run")
    asked = parser.parse_args()
    seeds = asked.seeds[:1] if asked.quick else asked.seeds
    effort = Effort(steps=8, samples=200) if asked.quick else Effort(steps=asked.steps)
    widths = (32, *asked.bits)
    cells = [c for seed in seeds for name in asked.models for bits in widths for c in run_cells(name, seed, bits, effort, asked.quick)]
    print(make_table(cells, asked.models, asked.bits))
    if not asked.quick and tuple(asked.bits) == BITS and effort == Effort():
        finish(make_lines(cells, asked.models))


def make_table(cells: Sequence[Cell], names: Sequence[str], widths: Sequence[int] = BITS) -> str:
    """One row per model and width: percent right, mean over seeds and their range, and what was won back."""
    rows = []
    for name in names:
        right = _get_rights(cells, name, 32, "float")
        for bits in widths:
            lost = [f - p for f, p in zip(right, _get_rights(cells, name, bits, "PTQ"), strict=True)]
            shown = [_show(_get_rights(cells, name, bits, way)) for way in ("PTQ", "PTQ + distill", "QAT")]
            size = next(c.bytes for c in cells if (c.model, c.bits, c.way) == (name, bits, "QAT"))
            whole = next(c.bytes for c in cells if (c.model, c.bits) == (name, 32))
            won = [_describe_won(cells, name, bits, way) for way in ("PTQ + distill", "QAT")]
            cost = statistics.mean(c.seconds for c in cells if (c.model, c.bits, c.way) == (name, bits, "QAT"))
            said = name, f"W{bits}A8", f"{whole / size:.1f} ×", _show(right)
            rows.append((*said, *shown, f"{statistics.mean(lost):.2f}", *won, f"{cost:.0f} s"))
    columns = ("model", "", "smaller", "float", "PTQ", "+ distill", "+ QAT", "points lost", "distill wins", "QAT wins", "QAT took")
    return table(columns, rows)


def make_lines(cells: Sequence[Cell], names: Sequence[str]) -> list[PassLine]:
    """The lines that were fixed before."""
    lines = []
    for name in names:
        for bits in (2, 3):
            lost = _sum_points(cells, name, bits, "PTQ")
            if lost >= _LOST * len(_get_rights(cells, name, bits, "PTQ")):
                won = 100 * (1 - _sum_points(cells, name, bits, "QAT") / lost)
                lines.append(PassLine(f"{name}, W{bits}A8: percent of what rounding lost that QAT wins back", won, least=_WON))
        below = _sum_points(cells, name, 4, "QAT") / len(_get_rights(cells, name, 4, "QAT"))
        lines.append(PassLine(f"{name}, W4A8: points below float after QAT", below, most=_NEAR))
    more = sum(_sum_points(cells, name, 2, "PTQ + distill") - _sum_points(cells, name, 2, "QAT") for name in names)
    lines.append(PassLine("W2A8: points won back beyond what distill wins, sum over models and seeds", more, least=0.0))
    return lines


def _get_rights(cells: Sequence[Cell], name: str, bits: int, way: str) -> list[float]:
    """Percent right by seed."""
    return [cell.right for cell in cells if (cell.model, cell.bits, cell.way) == (name, bits, way)]


def _sum_points(cells: Sequence[Cell], name: str, bits: int, way: str) -> float:
    """Points below float, summed over seeds."""
    return sum(_get_rights(cells, name, 32, "float")) - sum(_get_rights(cells, name, bits, way))


def _describe_won(cells: Sequence[Cell], name: str, bits: int, way: str) -> str:
    lost = _sum_points(cells, name, bits, "PTQ")
    if not _get_rights(cells, name, bits, way) or lost < _LOST * len(_get_rights(cells, name, bits, "PTQ")):
        return "–"
    return f"{100 * (1 - _sum_points(cells, name, bits, way) / lost):.0f} %"


def _show(rights: Sequence[float]) -> str:
    """The mean, and the range where there are several: `90.12 (89.9–90.3)`."""
    if not rights:
        return "–"
    spread = f" ({min(rights):.1f}–{max(rights):.1f})" if len(rights) > 1 and min(rights) < max(rights) else ""
    return f"{statistics.mean(rights):.2f}{spread}"


if __name__ == "__main__":
    main()
