"""Every door into a compressed folder, for every declared family: it gives the model that was measured, or says what to type.

    python -m benchmarks.doors [FAMILY …] [--write docs/doors.md]

Three results of each miniature: `int8` (packed weights), `cut` (half of all neurons gone, and nothing else), `coded` (int8,
entropy-coded). Each is loaded in processes that have imported trimodal and in processes where it cannot even be found, through
every class that Transformers has for the family or one of its towers, in other types, and saved and loaded again.

    same                what the module calculates with is, tensor for tensor, what the compressed model has
    same to N of M      so many tensors of the class come from the checkpoint, with the original as with the result; the others
                        (a new head) are drawn anew, as Transformers says for both
    as the original     the original cannot be loaded that way either
    refused: …          with a sentence of trimodal's that says what to do

Anything else is wrong: FAIL, and exit code 1.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import doorway
from benchmarks.passlines import PassLine, finish, table

TASKS = {
    "clip": "zero-shot-image-classification", "siglip": "zero-shot-image-classification", "vit": "image-classification",
    "dinov2": "image-classification", "bert": "feature-extraction",
    "whisper": "automatic-speech-recognition", "llama": "text-generation", "qwen3": "text-generation",
    "llava": "image-text-to-text", "clap": "zero-shot-audio-classification", "wav2vec2": "automatic-speech-recognition",
    "ast": "audio-classification", "resnet": "image-classification", "resnet-basic": "image-classification", "fusion": "",
    "gpt2": "text-generation", "t5": "", "bart": "", "roberta": "", "phi3": "text-generation",
}  # fmt: skip
KINDS: dict[str, tuple[dict[str, Any], str]] = {
    "int8": ({"steps": [{"quantize.rtn": {"where": "*", "bits": 8}}]}, "plain"),
    "cut": ({"steps": [{"prune.neurons": {"where": "*", "sparsity": 0.5, "score": "magnitude"}}]}, "plain"),
    "coded": ({"steps": [{"quantize.rtn": {"where": "*", "bits": 8}}]}, "entropy"),
}
CHANNELS = ("resnet", "resnet-basic")  # which have no neurons
LEGEND = {
    "import first": "ValueError of Transformers that ends with: this model was compressed by trimodal, … put the line "
    "`import trimodal` before the one that loads it, or use trimodal.load(FOLDER)",
    "other class": "this folder holds a compressed …, which cannot be loaded as …: (why); load it with (its class) or "
    "trimodal.load(FOLDER)",
    "entropy": "the weights are entropy-coded, which Transformers cannot read; use trimodal.load(FOLDER), or write plain ones with: "
    "trimodal pack FOLDER -o OUT --pack plain",
    "copy instead": "save_pretrained cannot write a compressed model; copy the folder that it was loaded from, or write plain "
    "float layers: trimodal.load(FOLDER, dequantize=True).save_pretrained(OUT)",
    "own class": "ValueError of Transformers: it does not recognize this architecture (the class is trimodal's own)",
}


@dataclass(frozen=True)
class Case:
    """One result of one family."""

    family: str
    kind: str
    content: dict[str, Any]


def prepare(family: str, kind: str, folder: Path, sentences: bool) -> Case:
    """Write the miniature, compress it, and note what the compressed model is."""
    import torch
    from safetensors.torch import save_file

    import trimodal
    from trimodal import pipeline
    from trimodal.formats.stock_load_check import collect_outputs
    from trimodal.networks.tiny import make_miniature_batch, write_miniature

    original, result = folder / family / "original", folder / family / kind
    if not original.exists():
        write_miniature(family, original)
    recipe, pack = KINDS[kind]
    if kind == "cut" and family in CHANNELS:
        recipe = {"steps": [{"prune.channels": {"where": "*", "sparsity": 0.5, "score": "magnitude"}}]}
    reload, pipeline.run_fresh_checks = pipeline.run_fresh_checks, lambda *rest: []  # type: ignore[assignment]
    try:
        trimodal.compress(original, recipe, None, result, pack=pack)  # type: ignore[arg-type]
    finally:
        pipeline.run_fresh_checks = reload
    source, found, batch = trimodal.load(original), trimodal.load(result), make_miniature_batch(family, 2)
    names = list(dict.fromkeys(name for name, _ in [*source.named_parameters(), *source.named_buffers()]))
    state = source.state_dict()
    tensors = {name: state[name].float().clone() for name in names if name in state}
    now = {name: t.detach().clone() for name in tensors if (t := doorway.effective(found, name)) is not None}
    paths = {name: folder / family / f"{kind}.{name}" for name in ("source", "reference", "batch", "expected")}
    save_file(tensors, paths["source"])
    save_file({k: v.contiguous() for k, v in now.items()}, paths["reference"])
    save_file({k: v.contiguous() for k, v in batch.items()}, paths["batch"])
    with torch.inference_mode():
        save_file({k: v.clone() for k, v in collect_outputs(found, batch).items()}, paths["expected"])
    content = {"original": str(original), "result": str(result), "task": TASKS[family], "sentences": sentences and family == "bert"}
    return Case(family, kind, {**content, **{name: str(path) for name, path in paths.items()}})


def walk_through(cases: Sequence[Case], imported: bool, folder: Path) -> list[tuple[Case, str, str]]:
    """(case, door, what came) for all doors, in a process of its own."""
    task = folder / f"task-{imported}.json"
    task.write_text(json.dumps({"imported": imported, "cases": [case.content for case in cases]}))
    path = os.pathsep.join(p or str(Path.cwd()) for p in sys.path)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(Path(doorway.__file__)), str(task)],
        env={**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"the process that goes through the doors ended: {done.stderr[-2000:]}")
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    return [(cases[number], door, came) for number, door, came in lines]


def tried(families: Iterable[str], kinds: Iterable[str], folder: Path, sentences: bool) -> dict[str, dict[str, dict[str, str]]]:
    """What came: family -> door -> column."""
    cases = [prepare(family, kind, folder, sentences) for family in families for kind in kinds]
    found: dict[str, dict[str, dict[str, str]]] = {}
    for imported in (True, False):
        for case, door, came in walk_through(cases, imported, folder):
            column = f"{case.kind}{', imported' if imported else ''}"
            found.setdefault(case.family, {}).setdefault(door, {})[column] = came
    return found


def wrong(found: dict[str, dict[str, str]]) -> list[str]:
    """The doors of one family that end in something else than the model or a refusal."""
    return [f"{door} ({column}): {came}" for door, row in found.items() for column, came in row.items() if came.startswith("WRONG")]


def page(found: dict[str, dict[str, dict[str, str]]]) -> str:
    """All tables in Markdown."""
    columns = [f"{kind}{said}" for kind in KINDS for said in (", imported", "")]
    parts = ["# Every door into a compressed folder", "", "Made by `python -m benchmarks.doors --write docs/doors.md`.", "",
             "```", (__doc__ or "").split("\n\n", 1)[1].strip(), "```", "",
             *(f"- `{key}`: {sentence}" for key, sentence in LEGEND.items())]  # fmt: skip
    for family, rows in found.items():
        cells = [(door, *(row.get(column, "") for column in columns)) for door, row in rows.items()]
        parts += ["", f"## {family}", "", table(("door", *columns), cells)]
    return "\n".join(parts) + "\n"


def main() -> None:
    """Print the tables, and a line for each family."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", metavar="FAMILY")
    parser.add_argument("--write", type=Path)
    given = parser.parse_args()
    try:
        import sentence_transformers  # noqa: F401

        sentences = True
    except ImportError:
        sentences = False
    with tempfile.TemporaryDirectory() as folder:
        found = tried(given.families or TASKS, KINDS, Path(folder), sentences)
    text = page(found)
    print(text)
    if given.write:
        given.write.write_text(text, encoding="utf-8")
    for rows in found.values():
        print("\n".join(wrong(rows)) or "nothing wrong")
    finish([PassLine(f"{family}: doors that end in another model", len(wrong(rows)), most=0) for family, rows in found.items()])


if __name__ == "__main__":
    main()
