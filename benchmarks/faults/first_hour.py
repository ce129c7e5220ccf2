"""A first hour with the project: lists, help, errors, terminals, estimates, notebooks, what the README says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.faults.trying import expect, python, refused, trimodal
from benchmarks.startup import HEAVY, least, verb

ROOT = Path(__file__).parents[2]
VERBS = ("inspect", "plan", "compress", "verify", "pack", "report", "methods", "recipes", "doctor", "demo")
TERMINALS = (
    {"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"TERM": "dumb", "NO_COLOR": "1", "COLUMNS": "40", "PYTHONIOENCODING": "ascii"},
)  # fmt: skip


def miniature(folder: Path) -> Path:
    """A small text model."""
    code = "import sys, pathlib; from trimodal.networks.tiny import write_miniature; write_miniature('bert', pathlib.Path(sys.argv[1]))"
    done = python("-c", code, folder / "model")
    expect(done.code == 0, done.said)
    return folder / "model"


def as_a_module(folder: Path) -> str:
    """2.1: `python -m trimodal`."""
    done = trimodal("--version")
    expect(done.code == 0 and done.out.startswith("trimodal "), done.said)
    return done.out.strip()


def lists_without_torch(folder: Path) -> str:
    """3.1: help and lists import nothing heavy, and cost less than a CPU second."""
    for arguments in (["--help"], ["recipes"], ["methods"], ["methods", "quantize.gptq"], ["doctor"]):
        call = f"import sys; from trimodal import cli; sys.argv = ['trimodal', *{arguments!r}]"
        code = f"{call}\ntry: cli.main()\nfinally: print(*sys.modules, file=sys.stderr)"
        loaded = {name for name in HEAVY if name in python("-c", code).err.split()}
        expect(not loaded, f"{arguments} imports {loaded}")
    seconds = dict(zip(("recipes", "methods"), least(verb("recipes"), verb("methods"))))
    expect(max(seconds.values()) <= 1, f"{seconds} CPU seconds")
    return ", ".join(f"{name} {value:.2f} CPU seconds" for name, value in seconds.items())


def cost_of_starting(folder: Path) -> str:
    """3.2: `inspect` and `compress` beside the imports that a plain load needs."""
    model = miniature(folder)
    load = f"import torch; from transformers import BertModel; BertModel.from_pretrained({str(model)!r})"
    compress = verb("compress", str(model), "-r", "int8", "-d", "none", "--force", "-o", str(folder / "out"))
    plain, inspected, compressed = least(("-c", load), verb("inspect", str(model)), compress)
    said = f"plain load {plain:.1f}, inspect {inspected:.1f}, compress {compressed:.1f} CPU seconds"
    expect(inspected <= 1.3 * plain and compressed <= 1.3 * 2 * plain, said)
    return said


def estimate_and_first_line(folder: Path) -> str:
    """3.3: a line at once, an estimate before the work, progress that moves, a refusal where it cannot fit."""
    model, began = miniature(folder), time.perf_counter()
    command = [sys.executable, "-m", "trimodal", "compress", str(model), "-r", "int8", "-d", "none", "-o", str(folder / "out")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p or str(Path.cwd()) for p in sys.path)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment) as running:
        assert running.stderr is not None
        first, seconds = running.stderr.readline(), time.perf_counter() - began
        second = running.stderr.readline()
        running.stderr.read()
    expect(first.startswith("reading "), f"first line: {first!r}")
    expect(bool(re.match(r"needs about .* of memory, .* on disk", second)), f"second line: {second!r}")
    limited = "from trimodal.planning import cost; cost.free_memory_bytes = lambda: 10**6; from trimodal import cli; import sys; cli.main()"
    told = python("-c", limited, *command[3:-1], folder / "other")
    expect(not (folder / "other").exists(), "it was written all the same")
    return f"first line after {seconds:.1f} s; {second.strip()}; {refused(told, 'of memory, but only', '--ignore-limits')}"


def options_and_errors(folder: Path) -> str:
    """3.4: options where they matter, JSON errors, ASCII terminals, bare call, log file, completion."""
    for name in VERBS:
        said = trimodal(name, "--help", COLUMNS="200").out
        expect(("--seed" in said) == (name in ("plan", "compress", "verify", "demo")), f"--seed of {name}")
        expect(all(option in said for option in ("--verbose", "--quiet", "--log-file")), f"{name} lacks an option")
    bare = trimodal()
    expect("error" not in bare.err and "Usage" in bare.out + bare.err, f"bare: {bare.said}")
    told = trimodal("inspect", folder / "nothing", "--json")
    expect(json.loads(told.err.splitlines()[-1])["error"]["exit_code"] == 2 and not told.out, told.said)
    for environment in TERMINALS:
        for arguments in (["--help"], ["compress", "--help"], ["methods"], ["recipes"], ["doctor"]):
            done = trimodal(*arguments, **environment)
            expect(done.code == 0 and "Traceback" not in done.err, f"{arguments} with {environment}: {done.said}")
    trimodal("recipes", "--log-file", folder / "log.txt")
    expect((folder / "log.txt").is_file(), "no log file")
    completed = trimodal(_TRIMODAL_COMPLETE="complete_bash", COMP_WORDS="trimodal comp", COMP_CWORD="1").out
    expect(completed.strip() == "compress", f"completion: {completed!r}")
    return f"bare call ends with {bare.code} and shows help; errors are JSON where asked for; {len(TERMINALS)} terminals"


def words_of_the_field(folder: Path) -> str:
    """3.5: the method that was meant, and short names."""
    done = trimodal("methods", "gptq")
    recipes = " ".join(trimodal("recipes", COLUMNS="200").out.split())
    expect("W4A16" in recipes and "W8A8" in recipes, recipes)
    recipe = folder / "recipe.yaml"
    recipe.write_text("steps:\n  - gptq: {bits: 4}\n")
    step = trimodal("plan", miniature(folder), "-r", recipe)
    refused(step, "did you mean 'quantize.gptq'?")
    return refused(done, "did you mean 'quantize.gptq'?")


def notebook(folder: Path) -> str:
    """3.8: short words and tables, no bars."""
    code = (
        "import sys, trimodal; i = trimodal.inspect(sys.argv[1]); p = trimodal.plan(sys.argv[1], 'int8');"
        "r = trimodal.compress(sys.argv[1], 'int8', None, sys.argv[2]);"
        "print(max(len(repr(x)) for x in (i, p, r, r.verdict)), all('<table' in x._repr_html_() for x in (i, p, r, r.verdict)))"
    )
    done = python("-c", code, miniature(folder), folder / "out")
    length, tables = done.out.split() if done.code == 0 else ("9999", "False")
    expect(int(length) < 300 and tables == "True" and "%|" not in done.err, done.said)
    return f"the longest repr has {length} characters, all have tables, no bar"


def readme(folder: Path) -> str:
    """3.10: what it is for first; picture, clone, choice of recipe, when not, table of models and methods."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    first = next(line for line in text.splitlines() if line and not line.startswith(("#", "!", "[")))
    expect("compresses" in first, f"first sentence: {first[:80]}")
    picture = re.search(r"!\[[^]]*\]\(([^)]+\.png)\)", text)
    expect(picture is not None and (ROOT / picture[1]).is_file(), "no picture")
    expect(picture is not None and (ROOT / picture[1]).stat().st_size <= 200_000, "the picture is larger than 200 kB")
    for part in ("git clone", "Which recipe", "When not to use", "python -m benchmarks.coverage", "pip install torch"):
        expect(part in text, f"no {part!r}")
    return f"begins with {first[:60]!r}, {len(text.splitlines())} lines"


ENTRIES = {
    "2.1": as_a_module, "3.1": lists_without_torch, "3.2": cost_of_starting, "3.3": estimate_and_first_line,
    "3.4": options_and_errors, "3.5": words_of_the_field, "3.8": notebook, "3.10": readme,
}  # fmt: skip
