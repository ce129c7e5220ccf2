"""What the program costs before and beside the work: CPU seconds, each as a ratio to what a plain load needs.

`python -m benchmarks.startup [--texts]` runs the command line and its baseline in processes of their own, in turn, and takes
the least of `ROUNDS` of each: whatever else runs on the machine only adds. The real encoder all-MiniLM-L6-v2 is the model
(see benchmarks/minilm.py). With `--texts` the verification of 800 texts is set beside a plain forward pass of both models
over the very same batches, made beforehand; that takes minutes. The compressed model decodes its weights in every forward
pass, in both: the ratio is of what verification adds, tokenizing, scores and intervals.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.minilm import model_folder, sentences
from benchmarks.passlines import PassLine, finish, table

ROUNDS = 2
TEXTS = 800
HEAVY = ("torch", "transformers", "numpy")

IMPORT = "import torch; from transformers import BertModel"
LOAD = f"{IMPORT}; BertModel.from_pretrained({{folder!r}})"


def environment(threads: str) -> dict[str, str]:
    """For a process that computes with so many threads; empty: with as many as there are."""
    path = os.pathsep.join(p or str(Path.cwd()) for p in sys.path)
    found = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": threads}
    return {name: value for name, value in found.items() if value}


def cpu_seconds(*arguments: str, threads: str = "1") -> float:
    """User and system seconds of a Python process and of those that it started."""
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen([sys.executable, *arguments], env=environment(threads), stdout=said, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            sys.exit(f"{' '.join(arguments)} ended with {process.returncode}: {said.read().decode()[-2000:]}")
    return used.ru_utime + used.ru_stime


def least(*commands: Sequence[str], threads: str = "1", rounds: int = ROUNDS) -> list[float]:
    """The least CPU seconds of each command, all run in turn `rounds` times."""
    found = [[cpu_seconds(*command, threads=threads) for command in commands] for _ in range(rounds)]
    return [min(column) for column in zip(*found)]


def verb(*arguments: str) -> tuple[str, ...]:
    """The command line with `arguments`."""
    return ("-m", "trimodal", *arguments)


def listing() -> list[PassLine]:
    """`recipes`, `methods` and `--help`, which need no model."""
    names = ("recipes", "methods", "--help")
    return [
        PassLine(f"CPU seconds of `trimodal {name}`", seconds, most=1.0)
        for name, seconds in zip(names, least(*(verb(name) for name in names)))
    ]


def against_loading(threads: str) -> list[PassLine]:
    """`inspect` beside the import of the class, and `compress` beside two plain loads."""
    model = str(model_folder())
    with tempfile.TemporaryDirectory() as scratch:
        compress = verb("compress", model, "--recipe", "int8", "--data", "none", "--force", "-o", f"{scratch}/out")
        imported, loaded, inspected, compressed = least(
            ("-c", IMPORT), ("-c", LOAD.format(folder=model)), verb("inspect", model), compress, threads=threads
        )
    what = "one thread" if threads == "1" else "as many threads as there are"
    rows = [("import torch and the class", imported), ("… and load", loaded), ("inspect", inspected), ("compress to int8", compressed)]
    print(table((f"CPU seconds, {what}", ""), [(name, f"{seconds:.2f}") for name, seconds in rows]), flush=True)
    return [
        PassLine(f"inspect / imports, {what}", inspected / imported, most=1.3),
        PassLine(f"compress to int8 without data / two loads, {what}", compressed / (2 * loaded), most=1.3),
    ]


def with_texts() -> list[PassLine]:
    """The verification of `TEXTS` texts beside a plain forward pass of both models over the same batches, in one process."""
    model = str(model_folder())
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch, "data.jsonl")
        data.write_text("".join(json.dumps({"text": text, "split": "test"}) + "\n" for text in some_texts()))
        compress = verb("compress", model, "--recipe", "int8", "--data", "none", "-o", f"{scratch}/out")
        cpu_seconds(*compress)
        code = "import sys; from benchmarks.startup import beside_forward; beside_forward(*sys.argv[1:])"
        done = subprocess.run(
            [sys.executable, "-c", code, model, f"{scratch}/out", str(data)],
            env=environment("1"), check=True, capture_output=True, text=True,
        )  # fmt: skip
        plain = f"{scratch}/texts.jsonl"
        Path(plain).write_text("".join(json.dumps({"text": text}) + "\n" for text in some_texts()))
        whole = cpu_seconds(*verb("compress", model, "--recipe", "int8", "--data", plain, "-o", f"{scratch}/with-texts"))
    forward, verified = json.loads(done.stdout.splitlines()[-1])
    print(table(("CPU seconds, one thread", ""), [
        ("forward pass of both models", f"{forward:.2f}"), (f"verification of {TEXTS} texts", f"{verified:.2f}"),
        (f"compress to int8 with {TEXTS} texts, a fifth held out, in all", f"{whole:.2f}"),
    ]), flush=True)  # fmt: skip
    return [PassLine(f"verification of {TEXTS} texts / forward passes", verified / forward, most=1.3)]


def some_texts() -> list[str]:
    """`TEXTS` sentences, as the benchmark of this model has them."""
    by_module = sentences()
    return [text for module in sorted(by_module) for text in by_module[module]][:TEXTS]


def beside_forward(first: str, second: str, data: str) -> None:
    """Print the CPU seconds of verifying both models on the data, and those of plain forward passes over the same batches."""
    import torch

    from trimodal import pipeline
    from trimodal.formats import open_model
    from trimodal.verification import comparison

    compare, run, forward, verified = pipeline.make_verdict, comparison.run_forward, 1e9, 1e9
    ran: list[Mapping[str, Any]] = []  # what each model was given, in turn

    def timed(*given: Any, **rest: Any) -> Any:
        nonlocal verified
        began = time.process_time()
        try:
            return compare(*given, **rest)
        finally:
            verified = min(verified, time.process_time() - began)

    def noted(module: Any, inputs: Mapping[str, Any], *rest: Any) -> Any:
        ran.append(inputs)
        return run(module, inputs, *rest)

    pipeline.make_verdict, comparison.run_forward = timed, noted  # type: ignore[attr-defined]
    models = [open_model(first), open_model(second)]
    for _ in range(ROUNDS):
        ran.clear()
        pipeline.verify(second, first, data)
        began = time.process_time()
        with torch.inference_mode():
            for number, batch in enumerate(ran):
                models[number % 2].module(**batch)
        forward = min(forward, time.process_time() - began)
    print(json.dumps([forward, verified]))


def main() -> None:
    """Print the tables and the pass lines."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--texts", action="store_true", help="the verification of 800 texts as well")
    chosen = parser.parse_args()
    finish([*listing(), *against_loading("1"), *against_loading(""), *(with_texts() if chosen.texts else ())])


if __name__ == "__main__":
    main()
