"""Compress a CLIP model from Python: plan, look at the plan, compress, load. Here a miniature; any CLIP folder works."""

import sys
import tempfile
from pathlib import Path

import trimodal
from trimodal.networks.tiny import write_miniature, write_miniature_data

RECIPE = {
    "calibration": {"samples": 16},
    "steps": [
        {"prune.neurons": {"where": "image.*", "sparsity": 0.5}},
        {"quantize.rtn": {"where": "*embedding", "bits": 8}},
        {"quantize.gptq": {"where": "*", "bits": 4, "group": 16}},
    ],
}


def main(folder: Path) -> None:
    """Write a miniature and its data into `folder`, compress it, and load the result."""
    model = write_miniature("clip", folder / "clip")
    data = write_miniature_data(folder / "data", 40, ("image", "text"))
    for edit in trimodal.plan(model, RECIPE, data).edits:
        print(edit.method, "at", ", ".join(place.name for place in edit.places[:3]), "…")
    result = trimodal.compress(model, RECIPE, data, folder / "out")
    for metric in result.verdict.metrics:
        print(f"{metric.name}: {metric.before:.3f} → {metric.after:.3f}")
    print(type(trimodal.load(folder / "out")).__name__, "loaded from", result.verdict.size.weights_after_bytes, "bytes")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as scratch:
            main(Path(scratch))
