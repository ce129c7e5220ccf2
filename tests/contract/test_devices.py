"""Nothing may bring a tensor of the CPU together with one of the model's device, and both give the same model.

Where there is a GPU the methods run on it. Everywhere they run on a device that is pretended, which finds the mixing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from pretended import ELSEWHERE, Mixed, Pretended, gradients
from test_contract import BEFORE, OPTIONS

from trimodal.methods import METHODS
from trimodal.models.tensors import unique_tensors
from trimodal.networks.tiny import make_miniature_batch

NAMES = {
    "factorize.tucker": "resnet", "factorize.cp": "resnet", "prune.channels": "resnet", "merge.tokens": "clip", "prune.tokens": "llava",
}  # fmt: skip
CASES: list[tuple[str, str, dict[str, Any]]] = [
    *((NAMES.get(method.name, "llama"), method.name, OPTIONS.get(method.name, {})) for method in METHODS),
    ("llama", "quantize.gptq", {"bits": 4, "outliers": 0.01, "rank": 2, "bias": True, "target": 0.5}),
    ("llama", "quantize.gptq", {"bits": 3, "grid": "kmeans", "clip": "output"}),
    ("llama", "quantize.rtn", {"bits": 3, "grid": "kmeans", "table": "tower"}),
    ("llama", "quantize.rtn", {"bits": 4, "grid": "nf", "group": 8}),
    ("llama", "quantize.smooth", {"mode": "token"}), ("clip", "quantize.smooth", {"feedback": True}),
    ("llama", "quantize.learned", {"grid": "symmetric", "steps": 3}),
    ("llama", "prune.wanda", {"scope": "global", "refit": False}), ("llama", "prune.sparsegpt", {"bits": 4}),
    ("llama", "prune.sparsegpt", {"kept": 2, "of": 4}), ("llama", "prune.obs", {"scope": "row"}),
    ("llama", "prune.gradient", {"score": "fisher", "scope": "tower"}), ("llama", "prune.neurons", {"score": "fisher"}),
    ("llama", "prune.neurons", {"scope": "tower"}), ("llama", "prune.heads", {"score": "magnitude"}),
    ("llama", "prune.width", {"score": "magnitude"}), ("llama", "prune.layers", {"sparsity": 0.5, "score": "angular"}),
    ("llama", "factorize.svd", {"alpha": 0.5}), ("clip", "quantize.gptq", {"bits": 4}), ("lstm", "quantize.gptq", {"bits": 4}),
    ("lstm", "prune.neurons", {}), ("whisper", "quantize.gptq", {"bits": 4}), ("resnet", "quantize.entropy", {"bits": 4.0}),
]  # fmt: skip


@pytest.fixture(params=["pretended", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))])
def move(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any], Any]]:
    """A function that puts a model, or a batch, on the other device, which is there as long as the test runs."""
    if request.param == "cuda":
        yield lambda what: {k: v.cuda() for k, v in what.items()} if isinstance(what, dict) else what.cuda()
        return
    mode = Pretended()
    monkeypatch.setattr(torch.autograd, "grad", gradients(mode))
    with mode:
        yield lambda what: {k: v.to(ELSEWHERE) for k, v in what.items()} if isinstance(what, dict) else mode.move_(what)


QUICK = {"quantize.gptq", "prune.gradient", "prune.neurons", "distill"}


def cases() -> Iterator[Any]:
    """All cases; but for the first of the methods that met most kinds of tensors only `make test-all` runs them."""
    seen: set[str] = set()
    for case in CASES:
        quick = case[1] in QUICK - seen
        seen.add(case[1])
        yield pytest.param(*case, marks=() if quick else pytest.mark.slow)


@pytest.mark.parametrize(("name", "method", "options"), cases(), ids=lambda value: str(value) if isinstance(value, str) else None)
def test_every_method_computes_where_the_model_is(
    compressed: Any, tiny_model: Any, move: Any, name: str, method: str, options: dict[str, Any]
) -> None:
    steps, batches = [*BEFORE.get(method, []), {method: options}], [make_miniature_batch(name, 4, seed) for seed in (1, 2)]
    model = tiny_model(name)
    there = compressed(
        replace(model, module=move(model.module)), steps, given=[move(dict(batch)) for batch in batches],
        calibration={"balance": "gradient"} if method == "quantize.gptq" else {},
    )  # fmt: skip
    assert {tensor.device.type for tensor in unique_tensors(there.model.module).values()} == {"cuda"}
    move(dict(batches[0]))
    there.model.module(**move(dict(batches[0])))


def test_the_pretended_device_finds_what_it_is_for() -> None:
    with Pretended():
        here, there = torch.ones(3), torch.ones(3).to(ELSEWHERE)
        assert there.device == ELSEWHERE and (there * 2).device == ELSEWHERE and here.device.type == "cpu"
        assert (there + torch.tensor(1.0)).device == ELSEWHERE and there.cpu().device.type == "cpu"
        assert torch.zeros(2, device=there.device).device == ELSEWHERE and there[torch.tensor([0, 2])].device == ELSEWHERE
        for mixed in (lambda: here + there, lambda: torch.cat([here, there]), lambda: here[there.long()]):
            with pytest.raises(Mixed):
                mixed()
        with pytest.raises(Mixed):
            torch.multinomial(there, 1, generator=torch.Generator())
