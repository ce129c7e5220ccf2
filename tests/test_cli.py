"""The command line in processes of its own, as terminals, pipes and scripts meet it; nothing here needs torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

VERBS = (
    "inspect", "plan", "compress", "verify", "pack", "report", "methods", "recipes", "targets", "doctor", "demo",
    "export", "bench", "unpack",
)  # fmt: skip
ASCII = {"PYTHONIOENCODING": "ascii", "TERM": "dumb", "NO_COLOR": "1", "COLUMNS": "40"}
C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def trimodal(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    whole = {**os.environ, **environment}
    return subprocess.run([sys.executable, "-m", "trimodal", *arguments], env=whole, capture_output=True, text=True, timeout=900)


def test_as_a_module() -> None:
    done = trimodal("--version")
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("trimodal ")


def test_bare_shows_help() -> None:
    done = trimodal()
    assert done.returncode == 2 and "error" not in done.stderr
    assert all(verb in done.stdout + done.stderr for verb in VERBS)


@pytest.mark.parametrize("environment", [ASCII, C_LOCALE, {"COLUMNS": "5"}], ids=["ascii", "c-locale", "narrow"])
@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["compress", "--help"], ["recipes"], ["recipes", "--schema"], ["methods", "quantize.gptq"], ["targets"],
     ["targets", "litert"], ["doctor"]],
    ids=" ".join,
)  # fmt: skip
def test_any_terminal(arguments: list[str], environment: dict[str, str]) -> None:
    done = trimodal(*arguments, **environment)
    assert (done.returncode, done.stderr) == (0, ""), done
    assert done.stdout.isascii() or environment == {"COLUMNS": "5"}


def test_schema_is_printed_or_written(tmp_path: Path) -> None:
    printed, written = trimodal("recipes", "--schema"), trimodal("recipes", "--schema", "-o", str(tmp_path / "recipe.schema.json"))
    assert (written.returncode, written.stdout, written.stderr) == (0, "", "")
    assert json.loads(printed.stdout) == json.loads((tmp_path / "recipe.schema.json").read_text(encoding="utf-8"))
    assert "quantize.gptq" in json.loads(printed.stdout)["$defs"]


def test_targets_are_listed_and_shown() -> None:
    listed, shown = trimodal("targets", COLUMNS="200"), trimodal("targets", "openvino-vnni", "--json")
    assert "onnxruntime-avx2" in listed.stdout and "transformers.js (ONNX Runtime web) in a browser" in listed.stdout
    found = json.loads(shown.stdout)
    assert found["instructions"] == ["avx2", "avx512_vnni or avx_vnni"] and found["weights"]["linear"][0]["types"] == ["s8"]


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_streams_that_are_closed(closed: str) -> None:
    done = subprocess.run(f'"{sys.executable}" -m trimodal methods {closed}', shell=True, capture_output=True, text=True)
    assert done.returncode == 0 and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (["methods", "gptq", "--json"], "RecipeError"),
        (["targets", "litert.yml", "--json"], "TargetError"),
        (["recipes", "--json", "--nonsense"], "UsageError"),
        (["report", "nowhere", "--json"], "InputError"),
    ],
)
def test_errors_as_json(arguments: list[str], kind: str) -> None:
    done = trimodal(*arguments)
    error = json.loads(done.stderr)["error"]
    assert (done.returncode, done.stdout) == (2, "") and error["exit_code"] == 2 and error["message"]
    assert error["kind"] == kind or issubclass(getattr(__import__("trimodal"), error["kind"]), getattr(__import__("trimodal"), kind))


def test_exit_codes_are_in_the_help() -> None:
    said = " ".join(trimodal("--help").stdout.split())
    assert all(part in said for part in ("Exit codes: 0 done", "1 a check failed", "2 the input cannot be used", "130 interrupted"))


def test_seed_and_device_only_where_they_matter() -> None:
    for verb in VERBS:
        said = trimodal(verb, "--help", COLUMNS="200").stdout
        assert ("--seed" in said) == (verb in ("plan", "compress", "verify", "demo")), verb
        assert ("--device" in said) == (verb in ("inspect", "plan", "compress", "verify", "demo")), verb
        assert all(option in said for option in ("--verbose", "--quiet", "--log-file", "--json")), verb


def test_completion() -> None:
    shown = trimodal("--show-completion", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert shown.returncode in (0, 2) and "Traceback" not in shown.stderr
    asked = {"_TRIMODAL_COMPLETE": "complete_bash", "COMP_WORDS": "trimodal comp", "COMP_CWORD": "1"}
    assert trimodal(**asked).stdout.split() == ["compress"]


def test_doctor() -> None:
    found = json.loads(trimodal("doctor", "--json").stdout)
    assert found["cores"] >= 1 and found["disk_bytes"] > 0 and found["versions"]["torch"].startswith("2.")
    assert {part["name"] for part in found["parts"]} == {"audio", "train", "pack", "onnx", "openvino", "data", "demo"}
    assert all(part["install"].startswith("pip install ") for part in found["parts"])
    said = trimodal("doctor", "--log-file", os.devnull).stdout
    assert all(word in said for word in ("processor", "vector instructions", "free memory", "free disk", "transformers"))


def test_the_first_line_comes_before_torch(tmp_path: Path) -> None:
    """Seen by what is imported when it is said."""
    code = (
        "import sys; from trimodal import cli, screen; sys.argv = ['trimodal', 'inspect', 'nowhere/at/all'];"
        "tell = screen.Screen.print_notice;"
        "screen.Screen.print_notice = lambda self, m: (tell(self, m), print('torch' in sys.modules)); cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == "False\n" and done.stderr.startswith("reading nowhere/at/all\n")
