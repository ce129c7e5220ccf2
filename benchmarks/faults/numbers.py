"""Numbers that go wrong without a word: inputs that no token reached, NaN, devices, cuts that cut nothing, work without end."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import trimodal
from benchmarks.faults.trying import expect
from trimodal.models.model import Loaded

_DEAD, _INPUTS = 16, 32
_OBSERVING: Mapping[str, Mapping[str, Any]] = {
    "quantize.gptq": {"bits": 8}, "quantize.entropy": {"bits": 8.0}, "quantize.awq": {"bits": 8}, "quantize.smooth": {"bits": 8},
    "prune.sparsegpt": {"sparsity": 0.1}, "prune.gradient": {"sparsity": 0.1},
}  # fmt: skip
_BOUNDS = {"quantize.smooth": 0.04, "prune.sparsegpt": 0.1, "prune.gradient": 0.1}  # it rounds inputs too; a tenth of the weights goes


class HalfDead(nn.Module):
    """Linear(32, 64) → ReLU → Linear; the data below never reaches the first 16 inputs."""

    modalities = ("text",)

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.text_net = nn.Sequential(nn.Linear(_INPUTS, 64), nn.ReLU(), nn.Linear(64, 8))

    def forward(self, x: Tensor) -> Tensor:
        """y (batch, 8) of x (batch, 32)."""
        y: Tensor = self.text_net(x)
        return y

    def encode(self, loaded: Sequence[Loaded]) -> dict[str, Tensor]:
        """Noise that each sample's number seeds."""
        x = torch.stack([torch.randn(_INPUTS, generator=torch.Generator().manual_seed(int(str(one.text)))) for one in loaded])
        x[:, :_DEAD] = 0.0
        return {"x": x}


def half_dead() -> nn.Module:
    """The net of entry 1.3."""
    return HalfDead()


def texts(folder: Path, count: int = 256) -> Path:
    """A data file whose texts are numbers."""
    file = folder / "numbers.jsonl"
    file.write_text("".join(json.dumps({"text": str(number)}) + "\n" for number in range(count)))
    return file


def error_on_alive(folder: Path, net: Callable[[], nn.Module]) -> float:
    """‖Δy‖ / ‖y‖ of a result where all inputs are alive."""
    x = torch.randn(512, _INPUTS, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        before = net()(x)
        after = trimodal.load(folder, factory=f"{net.__module__}:{net.__name__}")(x)
    return float((after - before).norm() / before.norm())


def dead_columns(folder: Path) -> str:
    """1.3: every method that observes inputs leaves alone what no token reached."""
    found = {}
    data = texts(folder)
    for name, options in _OBSERVING.items():
        recipe = {"steps": [{name: {"where": "text.0*", **options}}], "calibration": {"samples": 200}}
        done = trimodal.compress("benchmarks.faults.numbers:half_dead", recipe, data, folder / name)
        found[name] = error_on_alive(done.folder, half_dead)
        said = [note for record in done.records for note in record.notes]
        told = "weights got no gradient" if name == "prune.gradient" else "columns were reached by no calibration token"
        expect(any(told in note for note in said), f"{name} says nothing of the dead columns: {said}")
    worst = ", ".join(f"{name} {error:.4f}" for name, error in found.items())
    expect(all(error < _BOUNDS.get(name, 0.01) for name, error in found.items()), worst)
    return worst


ENTRIES = {"1.3": dead_columns}
