"""Trains by Ray Train: as many workers as asked for, on this machine or on a cluster that Ray knows, each a process of one training.

    pip install 'trimodal[ray]'
    python examples/training/ray_launch.py examples/training/classify.yaml 2

What `torchrun` says by the environment, Ray says too: how many processes there are, which one this is, where the first one listens. So
`trimodal.train` needs nothing else. On a cluster the working folder must be one that all machines share.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")

import ray
import yaml
from ray.train import RunConfig, ScalingConfig, report
from ray.train.torch import TorchTrainer

import trimodal


def train_worker(given: dict[str, Any]) -> None:
    """One process of the training. The first one writes the folder."""
    os.chdir(given["folder"])  # paths in the configuration are relative to it
    found = trimodal.train(given["config"], resume=given["resume"], force=given["force"])
    report({"steps": found.steps, **found.metrics})  # what Ray's own pages show


def launch_training(config: Path, workers: int, *, gpus: bool = False, resume: bool = False, force: bool = False) -> dict[str, Any]:
    """Train as `config`, which names its output, says with so many `workers`; what `training.json` tells of it."""
    folder = Path.cwd().resolve()
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"folder": str(folder), "config": str(config.resolve()), "resume": resume, "force": force},
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpus),
        run_config=RunConfig(name=config.stem, storage_path=str(folder / "ray-results")),
    )
    trainer.fit()
    output = yaml.safe_load(config.read_text(encoding="utf-8"))["output"]
    told: dict[str, Any] = json.loads((folder / output / "training.json").read_text(encoding="utf-8"))
    return {name: told[name] for name in ("processes", "steps", "metrics", "seconds")}


if __name__ == "__main__":
    ray.init(num_cpus=max(int(sys.argv[2]), os.cpu_count() or 1), include_dashboard=False)
    print(launch_training(Path(sys.argv[1]), int(sys.argv[2]), resume="--resume" in sys.argv, force="--force" in sys.argv))
