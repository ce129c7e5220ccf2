"""What smaller structure does to time on the CPU: cut units, fewer ranks, merged tokens, and zeros that stay where they are.

`python -m benchmarks.latency` makes real-size models from configurations (random weights, float32; how long a product takes
does not depend on its numbers), changes copies of them, and lets each copy run in turn with the original, right before or
after it in every round. The ratio is taken within that pair; its median over the rounds counts, with the quartiles beside it.
The row `as it was` is a copy with nothing changed: what it differs from 1 by is noise. `allow` is how much less is computed,
counted and not timed.

The ranks of `factorize.eigen` and `factorize.tucker` are such that the factors have half of the layer's weights: half of the
break-even. Zeros are kept by a mask, `as saved`; `as plain numbers` is the same model with its zeros written out.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from benchmarks.memory import planned_and_compressed
from benchmarks.merging import SAME, ratios
from benchmarks.passlines import PassLine, finish, table
from benchmarks.structured import CHANNELS

if TYPE_CHECKING:
    from trimodal.models.model import Model

LOW_RANK, CUT, ZEROS, PLAIN_ZEROS = "low rank, half the weights", "half cut", "90 % zeros, as saved", "90 % zeros, as plain numbers"
FOLDED = "batch norms folded"
LEAST_LOW_RANK, NO_FASTER = 1.2, 1.1
LAYERS = "*.[0-9]*.*"
UNITS = [{method: {"where": "*", "sparsity": 0.5, "score": "magnitude"}} for method in ("prune.heads", "prune.neurons")]
ZERO = [{"prune.magnitude": {"where": LAYERS, "sparsity": 0.9}}]
THIN = [{"factorize.eigen": {"where": LAYERS, "sparsity": 0.5}}]
ROWS: Mapping[str, Mapping[str, list[dict[str, Any]]]] = {
    "ViT-B/16": {
        SAME: [], CUT: UNITS, LOW_RANK: THIN, "half of the tokens merged, first 3 blocks": [{"merge.tokens": {"share": 0.5, "blocks": 3}}],
        "half cut, low rank and merged": [*UNITS, *THIN, {"merge.tokens": {"share": 0.5, "blocks": 3}}], ZEROS: ZERO,
        PLAIN_ZEROS: ZERO,
    },
    "BERT-base": {SAME: [], CUT: UNITS, LOW_RANK: THIN, ZEROS: ZERO, PLAIN_ZEROS: ZERO},
    "ResNet-50": {
        SAME: [], FOLDED: [{"fold.exact": {}}], CUT: [{"prune.channels": {"where": CHANNELS, "sparsity": 0.5, "score": "magnitude"}}],
        LOW_RANK: THIN, "Tucker, half the weights of 3 × 3 kernels": [{"factorize.tucker": {"where": LAYERS, "sparsity": 0.5}}],
        ZEROS: ZERO, PLAIN_ZEROS: ZERO,
    },
}  # fmt: skip


def originals() -> Mapping[str, tuple[Any, Mapping[str, Any]]]:
    """By name: a module with seeded random weights, and what it is given."""
    import torch
    import transformers as t

    torch.manual_seed(0)
    pixels = torch.randn(1, 3, 224, 224)
    words = torch.randint(3, 500, (1, 128))
    return {
        "ViT-B/16": (t.ViTForImageClassification(t.ViTConfig(num_labels=1000)), {"pixel_values": pixels}),
        "BERT-base": (t.BertModel(t.BertConfig()), {"input_ids": words, "attention_mask": torch.ones_like(words)}),
        "ResNet-50": (t.ResNetForImageClassification(t.ResNetConfig(num_labels=1000)), {"pixel_values": pixels}),
    }


def changed(original: Model, name: str, recipe: list[dict[str, Any]]) -> Model:
    """A copy after `recipe`; with nothing to do, a plain copy."""
    import copy
    from dataclasses import replace

    from trimodal.edits.apply import dequantize_module_

    if not recipe:
        return replace(original, module=copy.deepcopy(original.module))
    model, *_ = planned_and_compressed(original, recipe, [])
    if name == PLAIN_ZEROS:
        dequantize_module_(model.module)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", default="", help="models with this text in their name; no lines then")
    chosen = parser.parse_args()
    import torch

    from trimodal.inventory import inspect
    from trimodal.loading.load import build_model

    measured: dict[tuple[str, str], float] = {}
    for model_name, (module, batch) in originals().items():
        if chosen.only not in model_name:
            continue
        original = build_model(module.eval(), model_name)
        whole = inspect(original).macs or 0
        copies = {name: changed(original, name, recipe) for name, recipe in ROWS[model_name].items()}
        took, found = ratios(original, copies, batch, chosen.rounds)
        rows = []
        for name, model in copies.items():
            wall, used = zip(*found[name], strict=True)
            low, middle, high = statistics.quantiles(wall, n=4)
            measured[model_name, name] = middle
            allow = f"{whole / (inspect(model).macs or 1):.2f}"
            rows.append((name, allow, f"{middle:.2f}", f"{low:.2f} to {high:.2f}", f"{statistics.median(used):.2f}"))
        print(f"\n{model_name}, {torch.get_num_threads()} thread(s), {chosen.rounds} rounds, {took:.3f} s as it was\n")
        print(table(("what", "allow", "times as fast", "quartiles", "processor time"), rows), flush=True)
    print()
    if not chosen.only:
        finish([
            *(PassLine(f"times as fast with low rank, {name}", measured[name, LOW_RANK], least=LEAST_LOW_RANK) for name in ROWS),
            *(PassLine(f"times as fast with zeros written out, {name}", measured[name, PLAIN_ZEROS], most=NO_FASTER)
              for name in ROWS),
        ])  # fmt: skip


if __name__ == "__main__":
    main()
