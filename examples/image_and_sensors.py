"""Fuse a pretrained image tower with a time series, train it on cases that need both, and compress the whole. A miniature, made-up cases.

In a real one `./vit` is a folder of your own, or a hub id, and `text="./minilm"` goes beside it.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

import trimodal
from trimodal.networks.multimodal import MultimodalModel
from trimodal.networks.tiny import write_miniature
from trimodal.training.batchwise import train_on_batches
from trimodal.training.settings import EngineSettings


class Cases(Dataset[dict[str, Any]]):
    """Pictures that are bright or dark, and three vital signs over sixteen steps that rise or fall; an alarm where dark ones fall."""

    def __init__(self, count: int, seed: int) -> None:
        chance = torch.Generator().manual_seed(seed)
        self.dark, self.falls = torch.rand(2, count, generator=chance) < 0.5
        light = torch.where(self.dark, -1.0, 1.0)[:, None, None, None]
        self.pictures = light + 0.5 * torch.randn(count, 3, 32, 32, generator=chance)
        slope = torch.where(self.falls, -1.0, 1.0)[:, None, None] * torch.linspace(-1, 1, 16)[None, :, None]
        self.vitals = 80 + 10 * (slope + 0.5 * torch.randn(count, 16, 3, generator=chance))

    def __len__(self) -> int:
        return len(self.dark)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """What the model's forward takes, by name, and the class: such rows are data as they are."""
        split = "test" if index % 4 == 0 else "train"
        alarm = int(self.dark[index] & self.falls[index])
        return {"pixel_values": self.pictures[index], "vitals": self.vitals[index], "label": alarm, "split": split}


def make_batch(cases: Cases, number: int, size: int = 32) -> dict[str, Tensor]:
    """Batch `number` of the cases, in which every fourth one has no vital signs."""
    rows = [cases[(number * size + i) % len(cases)] for i in range(size)]
    present = (torch.arange(size) % 4 != 3).long()
    inputs = {name: torch.stack([row[name] for row in rows]) for name in ("pixel_values", "vitals")}
    return {**inputs, "vitals_present": present, "labels": torch.tensor([row["label"] for row in rows])}


def main(folder: Path) -> None:
    """Build, train, look at what a missing stream does, save, and compress."""
    torch.manual_seed(0)
    scale: dict[str, Any] = {"mean": [80.0] * 3, "std": [10.0] * 3}
    vitals = {"modality": "signal", "channels": 3, "length": 16, "patch": 4, "width": 32, "blocks": 1, **scale}
    model = MultimodalModel.from_towers(
        image=write_miniature("vit", folder / "vit"), vitals=vitals, fusion="hybrid", fusion_width=32, fusion_blocks=2, num_labels=2
    )
    train, test = Cases(256, seed=1), Cases(128, seed=2)
    settings = EngineSettings(60, learning_rate=2e-3)
    train_on_batches(model, lambda number: make_batch(train, number), lambda net, batch: net(**batch).loss, settings)
    model.eval()
    labels = torch.tensor([test[i]["label"] for i in range(len(test))])
    with torch.no_grad():
        whole = model(pixel_values=test.pictures, vitals=test.vitals).logits.argmax(dim=1)
        alone = model(pixel_values=test.pictures).logits.argmax(dim=1)
    print(f"right with both: {(whole == labels).float().mean():.0%}, without vital signs: {(alone == labels).float().mean():.0%}")
    model.save_pretrained(folder / "model")
    result = trimodal.compress(folder / "model", "int8", test, folder / "out")
    print(*(f"{metric.name}: {metric.before:.1f} → {metric.after:.1f}" for metric in result.verdict.metrics), sep="\n")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as scratch:
            main(Path(scratch))
