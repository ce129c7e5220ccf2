"""How much faster a vision tower is with half of its tokens merged.

`python -m benchmarks.merging`: CLIP's vision tower ViT-B/16 (12 blocks, 768 wide, 197 tokens) from its configuration with
random weights, in float32 on the CPU. Each row is a copy of the tower after `merge.tokens` with `share: 0.5`, by where
the tokens go. In every round each row runs once, right before or after the tower as it was, and the ratio is taken within
that pair; the median over the rounds counts, with the quartiles beside it. The row `as it was` is a copy that is set to
merge nothing: what it differs from 1 by is noise. The pass line is on wall time; the ratio of processor time beside it
leaves out waiting for the processor, but not what other programs do to its caches and memory.

Operations are counted, not timed, and so is what they allow. Random weights say nothing about accuracy.

The pass line is on matching over the first half of the blocks. Spread over all blocks, as in the paper's constant
schedule, half of the tokens are gone only at the very end: on average a quarter, which allows 1.33 at most.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.memory import planned_and_compressed
from benchmarks.passlines import PassLine, finish, table

SHARE, LEAST = 0.5, 1.4
SAME, DECIDES = "as it was (noise)", "matching, over the first 6 blocks"
ROWS: Mapping[str, dict[str, Any]] = {
    "matching, over 11 blocks": {},
    DECIDES: {"blocks": 6},
    "matching, over the first 3 blocks": {"blocks": 3},
    "matching, over the first 6, plain attention": {"blocks": 6, "proportional": False},
    "strided, after block 0": {"kind": "strided"},
}


def towers() -> tuple[Any, dict[str, Any]]:
    """The tower as it was, and its copies by row, each a `Model`."""
    import torch
    from transformers import CLIPVisionConfig, CLIPVisionModel

    from trimodal.loading.load import build_model

    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, patch_size=16
    )
    original = build_model(CLIPVisionModel(config).eval(), "clip-vit-base-patch16")
    same, *_ = planned_and_compressed(original, [{"merge.tokens": {"share": 0.0}}], [])
    copies = {SAME: same}
    for name, options in ROWS.items():
        copies[name], *_ = planned_and_compressed(original, [{"merge.tokens": {"share": SHARE, **options}}], [])
    return original, copies


def seconds(run: Callable[[], Any]) -> tuple[float, float]:
    """Wall time and processor time."""
    start, used = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - start, time.process_time() - used


def ratios(
    original: Any, copies: Mapping[str, Any], inputs: Mapping[str, Any], rounds: int
) -> tuple[float, dict[str, list[tuple[float, float]]]]:
    """Median wall seconds of the original, and by row its time over the row's, wall and processor, round by round."""
    import torch

    found: dict[str, list[tuple[float, float]]] = {name: [] for name in copies}
    plain = []
    with torch.inference_mode():
        for model in (original, *copies.values()):
            model.module(**inputs)
        for number in range(rounds):
            for name, model in copies.items():
                pair = [original, model] if number % 2 else [model, original]
                times = [seconds(lambda m=m: m.module(**inputs)) for m in pair]  # type: ignore[misc]
                before, after = times if number % 2 else times[::-1]
                plain.append(before[0])
                found[name].append((before[0] / after[0], before[1] / after[1]))
    return statistics.median(plain), found


def left(model: Any) -> int:
    import torch

    with torch.inference_mode():
        return int(model.module(pixel_values=torch.zeros(1, 3, 224, 224)).last_hidden_state.shape[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15, help="rounds per batch size")
    parser.add_argument("--batches", type=int, nargs="+", default=[1], help="images at once; the first decides")
    chosen = parser.parse_args()
    import torch

    from trimodal.inventory import inspect

    original, copies = towers()
    whole = inspect(original).macs or 0
    decided = 0.0
    for batch in chosen.batches:
        pixels = torch.randn(batch, 3, 224, 224, generator=torch.Generator().manual_seed(1))
        took, found = ratios(original, copies, {"pixel_values": pixels}, chosen.rounds)
        rows = []
        for name, model in copies.items():
            counted = inspect(model).macs or 0
            wall, used = zip(*found[name])
            low, middle, high = statistics.quantiles(wall, n=4)
            rows.append((
                name, str(left(model)), f"{counted / 1e9:.2f}", f"{whole / counted:.2f}", f"{middle:.2f}",
                f"{low:.2f} to {high:.2f}", f"{statistics.median(used):.2f}",
            ))  # fmt: skip
            if name == DECIDES and batch == chosen.batches[0]:
                decided = middle
        columns = ("tokens merged", "tokens left", "10⁹ operations", "allow", "times as fast", "quartiles", "processor time")
        print(f"\nBatch {batch}, {torch.get_num_threads()} thread(s), {chosen.rounds} rounds, {took:.3f} s as it was\n")
        print(table(columns, rows), flush=True)
    print()
    finish([PassLine(f"times as fast with {SHARE:.0%} of 197 tokens removed, {DECIDES}", decided, least=LEAST)])


if __name__ == "__main__":
    main()
