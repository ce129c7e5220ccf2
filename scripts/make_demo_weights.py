"""Train the built-in see-hear-read model with a fixed seed and write its packaged weights.

Run ``python scripts/make_demo_weights.py``: it trains on the CPU (about ten minutes on two cores), scores the
validation and test splits, and writes the model folder of the package, with float16 weights.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import torch

from trimodal.demo.training import score_demo_model, train_demo_model
from trimodal.networks.fusion import FusionModel, FusionProcessor
from trimodal.training.steps import StepRecord
from trimodal.writing import open_atomic_folder

HOME = Path(__file__).resolve().parent.parent / "src/trimodal/demo/seehearread/model"


def show(part: str, record: StepRecord) -> None:
    """One line per hundred steps."""
    if record.step % 100 == 0:
        losses = "  ".join(f"{name} {value:.3f}" for name, value in record.parts.items())
        print(f"{part} {record.step}: {losses}  ({record.seconds:.2f} s per step)", flush=True)


def pack(trained: Path, out: Path) -> None:
    """Save the folder again with float16 weights."""
    model = FusionModel.from_pretrained(trained, dtype=torch.float16)
    model.save_pretrained(out)
    FusionProcessor.from_pretrained(trained).save_pretrained(out)


def main() -> None:
    """Train, pack, score what was packed, and write the scores next to the weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HOME)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch, open_atomic_folder(options.out, force=True) as out:
        pack(train_demo_model(Path(scratch), seed=options.seed, on_step=show), out)
        seconds = time.perf_counter() - started
        model = FusionModel.from_pretrained(out, dtype=torch.float32)
        processor = FusionProcessor.from_pretrained(out)
        scores = {
            split: asdict(score_demo_model(model, processor, split=split, count=2000)) for split in ("validation", "test")
        }
        result = {
            "seed": options.seed,
            "train_seconds": round(seconds),
            "threads": options.threads,
            "scores": scores,
        }
        (out / "scores.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
