"""Every declared family in every format that runs here: exported, tried in the format's own runtime, failures with reasons.

`python -m benchmarks.formats` makes a miniature of each family (random weights, two blocks), compresses it with the recipe
`int8-full` (weights and inputs at 8 bits) and with `int8` (weights alone), and exports both. `--only TEXT` takes families with
TEXT in their name, `--formats a,b` some formats.

    outputs   relative distance of the exported outputs to the simulation's, as the export's own check measured it in a fresh process
    integers  nodes that the runtime computes with integers, as it says itself
    tokens    for models that generate, weights alone: whether a search with kept states says what torch's `generate` says

Miniatures say that the arithmetic is right, and nothing of speed or quality: see benchmarks.speed and benchmarks.phones.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.passlines import PassLine, finish, table

MODALITIES: Mapping[str, tuple[str, ...]] = {
    "clip": ("image", "text"), "siglip": ("image", "text"), "vit": ("image",), "dinov2": ("image",), "bert": ("text",),
    "whisper": ("audio", "text"), "llama": ("text",), "qwen3": ("text",), "llava": ("image", "text"), "clap": ("audio", "text"),
    "wav2vec2": ("audio",), "ast": ("audio",), "resnet": ("image",), "fusion": ("image", "audio", "text"),
}  # fmt: skip
SPEAKERS = ("whisper", "llama", "qwen3", "llava")
RECIPES: Mapping[str, tuple[str, ...]] = {
    "int8-full": ("onnx", "openvino", "litert", "executorch"), "int8": ("onnx", "openvino", "compressed-tensors", "archive"),
}  # fmt: skip
REQUIRED = ("onnx", "openvino")
SAMPLES, NEW_TOKENS = 24, 8
_DISTANCE = re.compile(r"([\d.e+-]+) from the simulation")


@dataclass
class Cell:
    """One family in one format, of one recipe: whether it was written and held its checks, how far it is from the simulation, how many
    nodes are computed with integers, whether its tokens are torch's; or why it failed."""

    family: str
    recipe: str
    form: str
    passed: bool
    distance: float | None = None
    integers: str = ""
    tokens: bool | None = None
    reason: str = ""
    notes: list[str] = field(default_factory=list)

    def row(self) -> tuple[str, ...]:
        """For the table."""
        distance = "" if self.distance is None else f"{self.distance:.1e}"
        tokens = "" if self.tokens is None else "equal" if self.tokens else "differ"
        return (self.family, self.recipe, self.form, "yes" if self.passed else "no", distance, self.integers, tokens, self.reason[:110])


def make_artifacts(family: str, scratch: Path) -> dict[str, Path]:
    """The artifact of each recipe, by its name."""
    import trimodal
    from trimodal.networks.tiny import write_miniature, write_miniature_data

    model = write_miniature(family, scratch / family)
    data = write_miniature_data(scratch / f"{family}-data", SAMPLES, MODALITIES[family])
    for recipe in RECIPES:
        trimodal.compress(model, recipe, data, scratch / f"{family}-{recipe}")
    return {recipe: scratch / f"{family}-{recipe}" for recipe in RECIPES}


def try_family(family: str, forms: Sequence[str], scratch: Path) -> Iterator[Cell]:
    """Every recipe in every one of `forms` that it is meant for; where nothing could be compressed, each of them failed."""
    from trimodal.errors import TrimodalError

    try:
        artifacts = make_artifacts(family, scratch)
    except TrimodalError as error:
        yield from (Cell(family, recipe, form, False, reason=str(error)) for recipe in RECIPES for form in RECIPES[recipe] if form in forms)
        return
    for recipe, artifact in artifacts.items():
        for form in (form for form in RECIPES[recipe] if form in forms):
            yield try_format(family, recipe, form, artifact, scratch)


def try_format(family: str, recipe: str, form: str, artifact: Path, scratch: Path) -> Cell:
    """Export, and read what the export found."""
    import trimodal
    from trimodal.errors import TrimodalError

    out = scratch / f"{family}-{recipe}-{form}" if form != "archive" else scratch / f"{family}.tri"
    try:
        done = trimodal.export(artifact, form, out)
    except TrimodalError as error:
        return Cell(family, recipe, form, False, reason=str(error))
    found = [float(at[1]) for check in done.result.checks if (at := _DISTANCE.search(check.detail))]
    nodes = next((check.detail for check in done.result.checks if check.name == "nodes computed with integers"), "")
    cell = Cell(family, recipe, form, True, max(found, default=None), nodes)
    if family in SPEAKERS and recipe == "int8" and form in REQUIRED:
        cell.tokens = compare_tokens(family, artifact, out)
        cell.passed = bool(cell.tokens)
    return cell


def compare_tokens(family: str, artifact: Path, exported: Path) -> bool:
    """Whether our search on the files says what torch says, from two prompts."""
    import torch

    import trimodal
    from trimodal.networks.tiny import make_miniature_batch

    module: Any = trimodal.load(artifact, dequantize="memory")
    batch = make_miniature_batch(family, 1)
    batch = {name: value for name, value in batch.items() if not name.startswith("decoder_")}
    if family in ("llama", "qwen3", "llava"):  # a prompt without the end of sentence that the batch ends in
        batch = {name: value[:, :-1] if value.dim() == 2 else value for name, value in batch.items()}
    with torch.no_grad():
        wanted = module.generate(**batch, do_sample=False, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS)
    opened = trimodal.open_export(exported, exact=True)
    found = opened.generate({name: value.numpy() for name, value in batch.items()}, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS)
    opened.close()
    return bool(found[0, -NEW_TOKENS:].tolist() == wanted[0, -NEW_TOKENS:].tolist())


def list_available(asked: str) -> list[str]:
    """The formats that can be written here, of those that are asked for; the others are named with what they lack."""
    from trimodal.errors import InputError
    from trimodal.exporting import EXPORTERS

    found = []
    for name in asked.split(",") if asked else list(EXPORTERS):
        try:
            EXPORTERS[name].require_packages()
            found.append(name)
        except InputError as lacking:
            print(f"not run: {lacking}")
    return found


def lines_of(cells: Sequence[Cell]) -> list[PassLine]:
    """Every family in ONNX and OpenVINO, with all its checks; tokens where it generates; W8A8 that runs in integers."""
    lines = []
    for form in REQUIRED:
        those = [cell for cell in cells if cell.form == form]
        failed = sorted({cell.family for cell in those if not cell.passed})
        lines.append(PassLine(f"{form}: families that fail{' (' + ', '.join(failed) + ')' if failed else ''}", len(failed), most=0))
        spoken = [cell.tokens for cell in those if cell.tokens is not None]
        if spoken:
            lines.append(PassLine(f"{form}: generate says torch's tokens, of {len(spoken)}", sum(map(bool, spoken)), least=len(spoken)))
    exact = [cell.distance for cell in cells if cell.recipe == "int8" and cell.form in REQUIRED and cell.distance is not None]
    if exact:
        lines.append(PassLine("weights alone: largest distance to the simulation", max(exact), most=1e-3))
    return lines


def main() -> None:
    """Print the table and the lines."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", default="", help="families with this in their name")
    parser.add_argument("--formats", default="", help="formats, with commas between them; by default all that can be written here")
    chosen = parser.parse_args()
    forms, cells = list_available(chosen.formats), []
    with tempfile.TemporaryDirectory() as scratch:
        for family in (name for name in MODALITIES if chosen.only in name):
            for cell in try_family(family, forms, Path(scratch)):
                cells.append(cell)
                print("  ".join(cell.row()), flush=True)
    print()
    print(table(("family", "recipe", "format", "passes", "distance", "integers", "tokens", "why not"), [cell.row() for cell in cells]))
    finish(lines_of(cells))


if __name__ == "__main__":
    main()
