"""What the models that are trained here can do: `python -m benchmarks.trained`.

Trains what is not in the cache (`.cache/trained`), prints a table for each, and holds it against lines that were fixed beforehand.
`--quick` trains a few steps on a few scenes, to see that all of it runs; its lines mean nothing, and it always ends well.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence

from benchmarks.passlines import PassLine, finish
from benchmarks.trained.masks import measure_unet
from benchmarks.trained.scenes import measure_clip, measure_llava
from benchmarks.trained.speech import measure_whisper

PARTS: Mapping[str, Callable[[bool, Sequence[int]], list[PassLine]]] = {
    "clip": measure_clip, "llava": measure_llava, "unet": measure_unet, "whisper": measure_whisper,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=(*PARTS, "all"), default="all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the training")
    parser.add_argument("--quick", action="store_true", help="a few steps, to see that it runs")
    chosen = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    lines: list[PassLine] = []
    for name, measure in PARTS.items():
        if chosen.part in (name, "all"):
            print(f"\n## {name}\n")
            lines += measure(chosen.quick, chosen.seeds)
    print()
    if chosen.quick:
        print(*(f"not judged: {line.name}: {line.measured:.4g}" for line in lines), sep="\n")
        return
    finish(lines)


if __name__ == "__main__":
    main()
