"""Every declared family cut in every way that it can be: heads, neurons or channels, width, blocks; saved, and loaded again.

    python -m benchmarks.families [MINIATURE …] [--export]

Of each miniature of a declared family (`trimodal.networks.tiny`) half of the heads, half of the neurons (or channels), a quarter of the
width and half of the blocks go, as far as the family lets them; where it does not the reason is printed. The result is saved. A fresh
process, which has imported trimodal, opens it by two doors: `trimodal.load` and the class's own `from_pretrained`. What comes in must give
the numbers that were measured before saving, to the last bit, and where the class can generate, the same tokens from `generate`; the model
as it was must generate too. Before that, each kind of unit is cut on a copy and masked on another (what reads it is set to zero): the two
must agree. With `--export` the result goes to ONNX as well, which checks itself; what cannot is said.

Four minutes; one processor.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Before torch is there, and for the process that opens what was written: MKL adds in an order that depends on where in memory a
# tensor happens to lie, unless it is told not to.
os.environ.setdefault("MKL_CBWR", "AUTO")

from benchmarks.passlines import PassLine, finish, table

STEPS: dict[str, dict[str, Any]] = {
    "blocks": {"prune.layers": {"sparsity": 0.5}}, "heads": {"prune.heads": {"sparsity": 0.5}},
    "neurons": {"prune.neurons": {"sparsity": 0.5}}, "channels": {"prune.channels": {"sparsity": 0.5}},
    "width": {"prune.width": {"sparsity": 0.25}},
}  # fmt: skip
ROUNDED = [{"quantize.rtn": {"bits": 8}}]  # where nothing can be cut, the doors are tried all the same
DOORS = ("trimodal.load", "from_pretrained")
ROUNDING = 1e-5  # of the largest output, between what is cut and what is masked
TOKENS = 6  # generated
COLUMNS = ("miniature", "family", *STEPS, "bytes", "cut − mask", *DOORS, "generate", "ONNX")


@dataclass
class Found:
    """What came of one miniature: by axis the units before and after, and why there are none; the differences; the tokens."""

    name: str
    family: str
    folder: str = ""
    units: dict[str, tuple[int, int]] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    size: tuple[int, int] = (0, 0)
    masked: float = 0.0
    doors: dict[str, float] = field(default_factory=dict)
    said: list[list[int]] = field(default_factory=list)  # before, after
    tokens: dict[str, bool] = field(default_factory=dict)
    exported: str = ""


def generate(module: Any, name: str) -> list[int]:
    """The tokens that the model goes on with from one sample for the miniature called `name`; none where its class cannot."""
    import torch

    from trimodal.networks.tiny import make_miniature_batch

    if not getattr(module, "can_generate", lambda: False)():
        return []
    inputs = {key: value for key, value in make_miniature_batch(name, 1, seed=9).items() if not key.startswith("decoder_")}
    with torch.inference_mode():
        found = module.generate(**inputs, max_new_tokens=TOKENS, min_new_tokens=TOKENS, do_sample=False)
    tokens: list[int] = found[0].tolist()
    return tokens


def difference(found: Mapping[str, Any], expected: Mapping[str, Any]) -> float:
    """The largest absolute difference between outputs; infinite where they are not of the same names and shapes."""
    if {k: v.shape for k, v in found.items()} != {k: v.shape for k, v in expected.items()}:
        return float("inf")
    return max((float((found[k].double() - expected[k].double()).abs().max()) for k in expected), default=0.0)


def cut_against_mask(model: Any, batch: Mapping[str, Any]) -> float:
    """The largest difference between half of the units cut and the same masked, relative to the largest output, over all kinds of
    units but the width, over which norms run."""
    from trimodal.core.site import is_width
    from trimodal.edits.cut import cut_units_
    from trimodal.formats.reload_check import collect_outputs

    worst = 0.0
    for label in (label for label in model.layout.list_labels() if not is_width(label)):
        cut, masked = copy.deepcopy(model.module), copy.deepcopy(model.module)
        units = model.layout.count_units(label)
        cut_units_(cut, model.layout, label, range(0, units, 2))
        for site in (site for site in model.layout.find_label_sites(label) if site.reads_label(label)):
            columns = site.input_axis.entry_indices(range(1, units, 2), label)
            masked.get_submodule(site.path).weight.data[:, columns] = 0.0
        one, other = collect_outputs(cut, batch), collect_outputs(masked, batch)
        largest = max(float(value.abs().max()) for value in other.values())
        worst = max(worst, difference(one, other) / largest)
    return worst


def plan_cuts(layout: Any, found: Found) -> list[dict[str, Any]]:
    """The steps that find something to cut, the reasons of the others noted down."""
    from trimodal.errors import RecipeError
    from trimodal.planning import plan_edits, read_recipe

    steps = []
    for axis, step in STEPS.items():
        try:
            plan_edits(layout, read_recipe({"steps": [step]}), True)
            steps.append(step)
        except RecipeError as error:
            found.reasons[axis] = str(error).split("; ", 1)[-1]
    return steps


def count_units(layout: Any) -> dict[str, int]:
    """How many units of each axis the model has, over all labels."""
    counted = dict.fromkeys(STEPS, 0)
    for label in layout.list_labels():
        counted[label.rpartition(".")[2]] = counted.get(label.rpartition(".")[2], 0) + layout.count_units(label)
    counted["blocks"] = sum(len(tower.blocks) for tower in layout.towers)
    return counted


def prepare(name: str, folder: Path, export: bool) -> Found:
    """Cut the miniature, save it, and note what it gives."""
    from safetensors.torch import save_file

    import trimodal
    from trimodal import pipeline
    from trimodal.formats import open_model
    from trimodal.formats.reload_check import collect_outputs
    from trimodal.models.tensors import tensor_bytes, unique_tensors
    from trimodal.networks.tiny import make_miniature_batch, write_miniature, write_miniature_data

    original, out = write_miniature(name, folder / "original"), folder / "cut"
    before, batch = open_model(original), make_miniature_batch(name, 3, seed=9)
    found = Found(name, before.family.name, str(folder))
    found.masked = cut_against_mask(before, batch)
    found.said.append(generate(before.module, name))
    data = write_miniature_data(folder / "data", 16, before.modalities)

    def note(model: Any, *rest: Any) -> list[Any]:
        """In place of the checks in fresh processes, one for each: what the model gives that was just written."""
        save_file({k: v.contiguous() for k, v in collect_outputs(model.module, batch).items()}, folder / "expected")
        found.said.append(generate(model.module, name))
        found.size = found.size[0], tensor_bytes(unique_tensors(model.module).values())
        here, there = count_units(before.layout), count_units(model.layout)
        found.units = {axis: (here[axis], there[axis]) for axis in STEPS if axis not in found.reasons}
        return []

    found.size = tensor_bytes(unique_tensors(before.module).values()), 0
    save_file({k: v.contiguous() for k, v in batch.items()}, folder / "batch")
    checks, pipeline.run_fresh_checks = pipeline.run_fresh_checks, note
    try:
        trimodal.compress(original, {"steps": plan_cuts(before.layout, found) or ROUNDED}, data, out)
    finally:
        pipeline.run_fresh_checks = checks
    found.exported = try_export(out, folder / "onnx") if export else ""
    return found


def try_export(folder: Path, to: Path) -> str:
    """`yes`, or why it cannot go to ONNX."""
    import trimodal

    try:
        trimodal.export(folder, "onnx", to)
    except trimodal.TrimodalError as error:
        return f"no: {error}"
    return "yes"


def go_through_doors(task: Path) -> None:
    """In a fresh process: open every result by every door, and print a line of JSON for each: miniature, door, difference, tokens."""
    import transformers
    from safetensors.torch import load_file

    import trimodal
    from trimodal.formats.reload_check import collect_outputs

    for name, folder in json.loads(task.read_text(encoding="utf-8")):
        batch, expected, out = load_file(Path(folder) / "batch"), load_file(Path(folder) / "expected"), Path(folder) / "cut"
        kind = json.loads((out / "config.json").read_text(encoding="utf-8"))["architectures"][0]
        stock = getattr(transformers, kind, transformers.AutoModel)
        for door, load in zip(DOORS, (trimodal.load, stock.from_pretrained), strict=True):
            module = load(out).eval()
            print(json.dumps([name, door, difference(collect_outputs(module, batch), expected), generate(module, name)]), flush=True)


def walk(founds: Sequence[Found], folder: Path) -> None:
    """Send a fresh process through the doors, and note what it found."""
    task = folder / "task.json"
    task.write_text(json.dumps([(found.name, found.folder) for found in founds]), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "benchmarks.families", "--doors", str(task)],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"the process that goes through the doors ended: {done.stderr[-2000:]}")
    by_name = {found.name: found for found in founds}
    for line in (json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")):
        found = by_name[line[0]]
        found.doors[line[1]] = line[2]
        found.tokens[line[1]] = line[3] == found.said[1]


def as_row(found: Found) -> tuple[str, ...]:
    """One line of the table."""
    cuts = ["–" if axis in found.reasons else f"{found.units[axis][0]} → {found.units[axis][1]}" for axis in STEPS]
    sizes = f"{found.size[0]:,} → {found.size[1]:,}"
    said = "–" if not found.said[0] else "same" if all(found.tokens.values()) else "other tokens"
    doors = [f"{found.doors.get(door, float('inf')):g}" for door in DOORS]
    return (found.name, found.family, *cuts, sizes, f"{found.masked:.1e}", *doors, said, found.exported.partition(":")[0])


def print_reasons(founds: Sequence[Found]) -> None:
    """Every reason once, with whom it holds for."""
    said: dict[tuple[str, str], list[str]] = {}
    for found in founds:
        for axis, reason in (*found.reasons.items(), *((("ONNX", found.exported),) if found.exported.startswith("no") else ())):
            said.setdefault((axis, reason), []).append(found.name)
    for (axis, reason), names in sorted(said.items()):
        print(f"{axis} of {', '.join(names)}: {reason}")
    print()


def judge(founds: Sequence[Found], whole: bool) -> list[PassLine]:
    """The lines, all of them fixed before the first run."""
    from trimodal.models.families import FAMILIES

    half = [f for f in founds for axis in ("heads", "neurons") if axis in f.units and 2 * f.units[axis][1] > f.units[axis][0] + 1]
    doors = [value for found in founds for value in (found.doors.get(door, float("inf")) for door in DOORS)]
    silent = [found for found in founds for axis in STEPS if axis not in found.units and not found.reasons.get(axis)]
    lines = [
        PassLine("largest output difference through any door", max(doors), most=0),
        PassLine("results that generate other tokens through a door", sum(not all(f.tokens.values()) for f in founds), most=0),
        PassLine("models that can generate and do not, before or after", sum(bool(f.said[0]) != bool(f.said[1]) for f in founds), most=0),
        PassLine("largest difference between cut and masked, of the largest output", max(f.masked for f in founds), most=ROUNDING),
        PassLine("results that keep more than half of their heads or neurons", len(half), most=0),
        PassLine("axes that are neither cut nor said why", len(silent), most=0),
    ]
    if whole:
        lacking = {family.name for family in FAMILIES} - {found.family for found in founds}
        lines.append(PassLine("declared families without a miniature", len(lacking), most=0))
    return lines


def main() -> None:
    """Print the table, the reasons, and the lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("miniatures", nargs="*", metavar="MINIATURE")
    parser.add_argument("--export", action="store_true")
    parser.add_argument("--doors", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.doors:
        return go_through_doors(given.doors)
    from trimodal.networks.tiny import FURTHER, MINIATURES, PLAIN

    names = given.miniatures or [name for name in (*MINIATURES, *FURTHER) if name not in PLAIN]
    with tempfile.TemporaryDirectory() as folder:
        founds = []
        for name in names:
            founds.append(prepare(name, Path(folder) / name, given.export))
            print(name, founds[-1].units, file=sys.stderr, flush=True)
        walk(founds, Path(folder))
    print(table(COLUMNS, [as_row(found) for found in founds]))
    print()
    print_reasons(founds)
    finish(judge(founds, not given.miniatures))


if __name__ == "__main__":
    main()
