"""Numbers that go wrong without a word: inputs that no token reached, NaN, devices, cuts that cut nothing, work without end."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

import trimodal
from benchmarks.faults.trying import Wrong, expect, python, refused
from benchmarks.faults.trying import trimodal as trimodal_cli
from trimodal.loading.load import build_model
from trimodal.maths.masks import is_refit_exact, keep_largest, refit_weights
from trimodal.models.model import LoadedSample
from trimodal.planning import plan_edits, read_recipe

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

    def encode(self, loaded: Sequence[LoadedSample]) -> dict[str, Tensor]:
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


class Functional(nn.Module):
    """One layer whose weight is read without a call, as x-vector heads do, and one that no sample reaches."""

    modalities = ("text",)

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.text_read, self.text_idle, self.text_out = nn.Linear(_INPUTS, 64), nn.Linear(64, 64), nn.Linear(64, 8)

    def forward(self, x: Tensor) -> Tensor:
        """y (batch, 8) of x (batch, 32)."""
        y: Tensor = self.text_out(nn.functional.linear(x, self.text_read.weight, self.text_read.bias).relu())
        return y

    encode = HalfDead.encode


def functional() -> nn.Module:
    """The net of entry 2.8."""
    return Functional()


def poisoned() -> nn.Module:
    """A net with two bad numbers in two rows of an embedding."""
    net = nn.Module()
    net.text_embedding = nn.Embedding(50, 32)
    with torch.no_grad():
        net.text_embedding.weight[7, 3], net.text_embedding.weight[9, 1] = torch.nan, torch.inf
    return net


def not_finite(folder: Path) -> str:
    """1.4: NaN is refused at the door with its place; what is written is valid JSON, and the verdict looks at numbers."""
    said = refused(trimodal_cli("inspect", "benchmarks.faults.numbers:poisoned"), "text_embedding.weight", "2 numbers", "[7, 3]")
    recipe = {"steps": [{"quantize.rtn": {}}]}
    done = trimodal.compress("benchmarks.faults.numbers:half_dead", recipe, texts(folder), folder / "out")
    checks = {check.name: check.status for check in done.verdict.checks}
    expect(checks.get("weights finite") == "passed" == checks.get("outputs finite"), f"the verdict has the checks {checks}")
    for name in ("record.jsonl", "plan.json", "verdict.json", "trimodal.json"):
        whole = (folder / "out" / name).read_text(encoding="utf-8")
        for text in whole.splitlines() if name.endswith("jsonl") else [whole]:
            json.loads(text, parse_constant=lambda token, name=name: expect(False, f"{name} holds {token}"))
    return said


def never_called(folder: Path) -> str:
    """2.8: a layer whose inputs nobody sees is rounded by its weights, with a note, and the run goes on to its end."""
    rounding = {"where": ["*read*", "*idle*"], "bits": 8}
    recipe = {"steps": [{"prune.magnitude": {"where": "*out*"}}, {"distill": {"steps": 2}}, {"quantize.gptq": rounding}]}
    done = trimodal.compress("benchmarks.faults.numbers:functional", recipe, texts(folder), folder / "out")
    notes = {record.place: record.notes for record in done.records if getattr(record, "method", "") == "quantize.gptq"}
    unseen = all(any("reached by no calibration token" in note for note in said) for said in notes.values())
    expect(len(notes) == 2 and unseen, f"the records say {notes}")
    return "; ".join(f"{place}: {said[-1]}" for place, said in notes.items())


def one_device(folder: Path) -> str:
    """2.11: training stays where the model is, and no method brings two devices together (`tests/contract/test_devices.py`)."""
    case = "tests/contract/test_devices.py"
    done = python("-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", str(Path(__file__).parents[2] / case))
    expect(done.code == 0, f"exit code {done.code}: {done.out.strip().splitlines()[-1:]}")
    return f"all of {case} that is quick holds"


def cut_of_nothing(folder: Path) -> str:
    """2.12: one key-value head cannot be cut, and the plan says so."""
    config = transformers.LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                                      num_attention_heads=4, num_key_value_heads=1)  # fmt: skip
    layout = build_model(transformers.LlamaForCausalLM(config).eval(), "one head").layout
    try:
        plan_edits(layout, read_recipe({"steps": [{"prune.heads": {"sparsity": 0.5, "score": "magnitude"}}]}), False)
    except trimodal.RecipeError as error:
        expect("which has to stay" in str(error), str(error))
        return str(error)
    raise Wrong("a cut was planned that cuts nothing")


def bounded(folder: Path) -> str:
    """3.11: a refit that would take days descends instead, and ends in seconds."""
    weight, x = torch.randn(512, 2048), torch.randn(4096, 2048)
    mask = keep_largest(weight.abs(), 0.1)
    moment = x.T @ x / len(x)
    began = time.perf_counter()
    found = refit_weights(weight, mask, moment, 0.01)
    seconds = time.perf_counter() - began
    expect(not is_refit_exact(torch.ones(4096, 5504, dtype=torch.bool)), "4096 rows of 5504 kept columns are to be solved exactly")
    lost = [float((((weight - part) @ moment) * (weight - part)).sum()) for part in (weight * mask, found)]
    expect(lost[1] < lost[0] and not found[~mask].any(), f"the error went from {lost[0]:.4g} to {lost[1]:.4g}")
    return f"512 × 2048 in {seconds:.0f} s, error {lost[0]:.4g} → {lost[1]:.4g}"


ENTRIES = {
    "1.3": dead_columns, "1.4": not_finite, "2.8": never_called, "2.11": one_device, "2.12": cut_of_nothing, "3.11": bounded,
}  # fmt: skip
