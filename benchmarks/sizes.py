"""The real MiniLM in every format: bytes of the exported files over the bytes of the artifact's weights, which are the plan's.

`python -m benchmarks.sizes` compresses all-MiniLM-L6-v2 (see benchmarks.minilm) with built-in recipes and exports each artifact;
`--artifacts DIR` keeps the artifacts there and takes those that are there already, `--formats a,b` some formats, `--recipes a,b` some
recipes. Counted are the files of weights and graphs, without tokenizer and configuration, which are no part of the plan; of an archive
all of it. Real size is needed here: of a miniature the graph is more than the weights.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.formats import list_available
from benchmarks.minilm import model_folder, write_data
from benchmarks.passlines import PassLine, finish, table

LARGEST = 1.05
EXPLAINED = "compressed-tensors"
"""Its embeddings stay floats, since it codes linear layers only: its line is one of its own, and fails for a model that is half words."""
RECIPES: Mapping[str, tuple[str, ...]] = {
    "int8": ("onnx", "openvino", "compressed-tensors", "archive", "litert", "executorch"),
    "int8-full": ("onnx", "openvino", "archive", "litert", "executorch"),
    "int4": ("onnx", "openvino", "archive"),
    "int4-even": ("onnx", "openvino", "compressed-tensors", "archive"),
}  # fmt: skip


@dataclass(frozen=True)
class Size:
    """What one recipe takes in one format, of what its artifact's weights take; or why it was not written."""

    recipe: str
    form: str
    planned: int
    written: int = 0
    reason: str = ""

    @property
    def share(self) -> float:
        """Bytes written over bytes planned."""
        return self.written / self.planned

    def row(self) -> tuple[str, ...]:
        """For the table."""
        taken = (f"{self.written / 1e6:.2f}", f"{self.share:.3f}") if self.written else ("", "")
        return (self.recipe, self.form, f"{self.planned / 1e6:.2f}", *taken, self.reason[:150])


def make_artifact(recipe: str, place: Path, data: Path) -> Path:
    """The artifact of `recipe` in `place`, made if it is not there."""
    import trimodal

    if not (place / recipe).exists():
        trimodal.compress(model_folder(), recipe, data, place / recipe)
    return place / recipe


def measure(recipe: str, form: str, artifact: Path, scratch: Path) -> Size:
    """Export, and count."""
    import trimodal
    from trimodal.errors import TrimodalError
    from trimodal.formats import measure_folder_size

    planned = measure_folder_size(artifact)[1]
    out = scratch / f"{recipe}-{form}" if form != "archive" else scratch / f"{recipe}.tri"
    try:
        done = trimodal.export(artifact, form, out)
    except TrimodalError as error:
        return Size(recipe, form, planned, reason=str(error))
    files = {file for part in done.result.components for file in part.files if not file.endswith("config.json")}
    return Size(recipe, form, planned, sum((done.folder / file).stat().st_size for file in files))


def lines_of(sizes: Sequence[Size]) -> list[PassLine]:
    """The largest share of what was written, with compressed-tensors a line of its own; and that everything was."""
    lines = [PassLine("recipes and formats that were not written", sum(1 for size in sizes if not size.written), most=0)]
    for name, those in (
        ("every format but compressed-tensors", [size for size in sizes if size.form != EXPLAINED and size.written]),
        ("compressed-tensors, whose embeddings are floats", [size for size in sizes if size.form == EXPLAINED and size.written]),
    ):
        if those:
            worst = max(those, key=lambda size: size.share)
            lines.append(PassLine(f"{name}: bytes / plan, largest ({worst.recipe} in {worst.form})", worst.share, most=LARGEST))
    return lines


def main() -> None:
    """Print the table and the lines."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--artifacts", default="", help="folder of artifacts by the recipe's name")
    parser.add_argument("--formats", default="", help="formats, with commas between them; by default all that can be written here")
    parser.add_argument("--recipes", default=",".join(RECIPES), help="recipes, with commas between them")
    chosen = parser.parse_args()
    forms, sizes = list_available(chosen.formats), []
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(chosen.artifacts or scratch)
        data = write_data(Path(scratch), 0) / "data.jsonl"
        for recipe in chosen.recipes.split(","):
            artifact = make_artifact(recipe, place, data)
            for form in (form for form in RECIPES[recipe] if form in forms):
                sizes.append(measure(recipe, form, artifact, Path(scratch)))
                print("  ".join(sizes[-1].row()), flush=True)
    print()
    print(table(("recipe", "format", "plan MB", "MB", "bytes / plan", "why not"), [size.row() for size in sizes]))
    finish(lines_of(sizes))


if __name__ == "__main__":
    main()
