"""Bad input of every kind: exit code 2, a sentence that names the place, no traceback, and nothing left behind."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import time
import wave
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from calling import PATIENCE_SECONDS, Done, Workspace, call, command, environment, listing, process, said_clearly
from huggingface_hub import constants as hub

from trimodal import errors, pipeline
from trimodal.formats import artifact as artifact_file
from trimodal.loading import load
from trimodal.networks.tiny import write_miniature_data

Refused = Callable[..., Done]


@pytest.fixture
def clip(workspace: Workspace) -> Path:
    return workspace.model("clip")


@pytest.fixture
def pairs(workspace: Workspace) -> Path:
    return workspace.data("image", "text")


@pytest.fixture
def broken(clip: Path, tmp_path: Path) -> Path:
    """A copy of the model, to be broken."""
    return shutil.copytree(clip, tmp_path / "broken")


def compressing(model: Path | str, recipe: Path | str = "int8", data: Path | str = "none") -> list[str]:
    return ["compress", str(model), "--recipe", str(recipe), "--data", str(data), "-o", "out"]


def change(file: Path, **values: Any) -> None:
    """Set keys of a JSON file; None takes one out."""
    content = {**json.loads(file.read_text()), **values}
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


# The model


def test_missing_folder(refused: Refused) -> None:
    refused(["inspect", "/nowhere/at/all"], "there is no folder /nowhere/at/all")
    refused(compressing("./nothing"), "there is no folder ./nothing")
    refused(["inspect", "x" * 300], "there is no folder xxx")


def test_not_a_folder(refused: Refused, clip: Path) -> None:
    refused(["inspect", str(clip / "model.safetensors")], "model.safetensors is a file", "expected a model folder")


def test_folder_without_config(refused: Refused, broken: Path) -> None:
    (broken / "config.json").unlink()
    refused(compressing(broken), "broken has no config.json")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{not json", "is not valid JSON"),
        ("[]", "names no model_type"),
        ('{"a": 1}', "names no model_type"),
        ("[" * 100_000, "is not valid JSON"),
        ("\x00\x01", "is not valid JSON"),
    ],
)  # fmt: skip
def test_config_that_is_none(refused: Refused, broken: Path, text: str, words: str) -> None:
    (broken / "config.json").write_text(text)
    refused(["inspect", "broken"], "config.json", words)


@pytest.mark.parametrize("name", ["NobodyModel", "AutoTokenizer", "pipeline", "CLIPConfig", 5, "__doc__"])
def test_unknown_architecture(refused: Refused, broken: Path, name: Any) -> None:
    change(broken / "config.json", architectures=[name])
    refused(["inspect", "broken"], "config.json", repr(name), "code from a model folder is never run")


def test_unknown_model_type(refused: Refused, broken: Path) -> None:
    change(broken / "config.json", architectures=None, model_type="nobody")
    refused(["inspect", "broken"], "broken cannot be loaded", "nobody")


@pytest.mark.parametrize(
    "values",
    [
        {"text_config": {"hidden_size": "wide"}},
        {"text_config": {"hidden_size": 30, "num_attention_heads": 4, "model_type": "clip_text_model"}},
        {"vision_config": 7},
        {"projection_dim": 17},
        {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}},
    ],
)  # fmt: skip
def test_config_that_does_not_fit(refused: Refused, broken: Path, values: Mapping[str, Any]) -> None:
    change(broken / "config.json", **values)
    refused(["inspect", "broken"], "broken", "cannot be loaded as CLIPModel")


def test_truncated_weights(refused: Refused, broken: Path) -> None:
    file = broken / "model.safetensors"
    for size in (file.stat().st_size - 100, 1000, 4, 0):
        os.truncate(file, size)
        refused(compressing(broken), "model.safetensors is damaged or cut short")


def test_weights_that_lack_tensors(refused: Refused, broken: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(broken / "model.safetensors")
    del tensors["visual_projection.weight"]
    save_file(tensors, broken / "model.safetensors", {"format": "pt"})
    refused(["inspect", "broken"], "the checkpoint lacks 1 tensors that CLIPModel needs", "visual_projection.weight")


def test_missing_shard(refused: Refused, broken: Path) -> None:
    (broken / "model.safetensors").rename(broken / "model-00001-of-00002.safetensors")
    index = {"metadata": {}, "weight_map": {"logit_scale": "model-00002-of-00002.safetensors"}}
    (broken / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(["inspect", "broken"], "broken", "which is not there", "model-00002-of-00002.safetensors")


class _Trap:
    """What it does when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.file), "w"))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.ckpt"])
def test_pickle_is_refused_and_not_loaded(refused: Refused, broken: Path, tmp_path: Path, name: str) -> None:
    (broken / "model.safetensors").unlink()
    trap = tmp_path / "sprung"
    (broken / name).write_bytes(pickle.dumps(_Trap(trap)))
    pickle.loads(pickle.dumps(_Trap(tmp_path / "works"))).close()
    assert (tmp_path / "works").exists()
    refused(compressing(broken), f"only as a pickle ({name})", "is not loaded")
    assert not trap.exists()


def test_no_weights_at_all(refused: Refused, broken: Path) -> None:
    (broken / "model.safetensors").unlink()
    refused(["inspect", "broken"], "broken holds no weights")


@pytest.mark.parametrize("place", ["config.json", "tokenizer_config.json", "preprocessor_config.json"])
def test_code_in_a_model_folder_is_not_run(broken: Path, tmp_path: Path, place: str) -> None:
    """Neither run nor asked about: with no terminal at hand, a question would hang."""
    (broken / "evil.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')\nclass Evil: pass\n")
    kinds = ("AutoConfig", "AutoModel", "AutoProcessor", "AutoImageProcessor", "AutoFeatureExtractor")
    change(
        broken / place,
        auto_map={**dict.fromkeys(kinds, "evil.Evil"), "AutoTokenizer": ["evil.Evil", "evil.Evil"]},
        **({"tokenizer_class": "Evil"} if place == "tokenizer_config.json" else {}),
    )
    done = call("inspect", broken, "--json")
    assert done.code in (0, 2) and not (tmp_path / "sprung").exists()
    if done.code:
        said_clearly(done.err, "broken")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("tokenizer.json", "{"),
        ("tokenizer.json", "{}"),
        ("tokenizer.json", "[]"),
        ("tokenizer_config.json", "nonsense"),
        ("preprocessor_config.json", "{"),
        ("preprocessor_config.json", '{"image_processor_type": "Nobody"}'),
    ],
)  # fmt: skip
def test_broken_processor(refused: Refused, broken: Path, pairs: Path, name: str, text: str) -> None:
    """It is asked for where there is data, and only there."""
    (broken / name).write_text(text)
    refused(["plan", "broken", "-r", "int8", "-d", pairs], "broken")


def test_function_that_is_none(refused: Refused) -> None:
    refused(["inspect", "nobody.at_all:make"], "cannot import nobody.at_all", "expected package.module:function")
    refused(["inspect", "json:nothing"], "json has no function 'nothing'")
    refused(["inspect", "trimodal.networks.tiny:make_tokenizer"], "expected a torch.nn.Module")


# The hub


HUB = """
import json, os, sys, time
from trimodal import cli
results = []
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["trimodal", *arguments]
    start = time.monotonic()
    try:
        cli.main()
    except SystemExit as end:
        sys.stdout.flush()
        print(f"\\n#{end.code} {time.monotonic() - start:.0f}", file=sys.stderr)
"""


def on_the_hub(calls: Sequence[Sequence[str]], home: Path, **changes: str) -> subprocess.CompletedProcess[str]:
    arguments = [sys.executable, "-c", HUB, json.dumps(calls)]
    settings = environment(HF_HOME=str(home), **changes)
    return subprocess.run(arguments, env=settings, capture_output=True, text=True, timeout=PATIENCE_SECONDS)


def test_hub_model_in_the_cache_and_one_that_is_not(clip: Path, tmp_path: Path) -> None:
    repository = tmp_path / "home" / "hub" / "models--someone--clip"
    shutil.copytree(clip, repository / "snapshots" / "abc123")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc123")
    calls = [["inspect", "someone/clip", "--json"], ["inspect", "someone/absent"], ["inspect", "absent"]]
    done = on_the_hub(calls, tmp_path / "home", HF_HUB_OFFLINE="1")
    assert json.loads(done.stdout)["name"] == "someone/clip"
    messages = [line for line in done.stderr.splitlines() if line and not line.startswith(("#", "reading "))]
    assert [line[1:2] for line in done.stderr.splitlines() if line.startswith("#")] == ["0", "2", "2"]
    assert len(messages) == 2
    for message, name in zip(messages, ("someone/absent", "absent"), strict=True):
        said_clearly(f"{message}\n", f"there is no folder {name}, and no hub model of that name could be had")


def test_hub_that_refuses_and_hub_that_never_answers(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listens at port 9; the other one takes the call and never says a word."""
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(load, "_PATIENCE_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for port in (9, silent.getsockname()[1]):
            monkeypatch.setattr(hub, "ENDPOINT", f"http://127.0.0.1:{port}")
            refused(["inspect", "someone/absent"], "no hub model of that name could be had")


# The recipe


RECIPES: dict[str, tuple[str, tuple[str, ...]]] = {
    "unknown-method": ("steps: [{quantize.gtpq: {bits: 4}}]", ("recipe.yaml: step 1", "quantize.gtpq", "did you mean 'quantize.gptq'?")),
    "unknown-option": ("steps: [{quantize.rtn: {bit: 4}}]", ("recipe.yaml: step 1 (quantize.rtn)", "no option 'bit'", "'bits'")),
    "unknown-key": ("step: [{quantize.rtn: {}}]", ("recipe.yaml", "unknown key 'step'", "'steps'")),
    "not-yaml": ("steps: [}", ("recipe.yaml, line 1", "not valid YAML")),
    "tab": ("steps:\n\t- quantize.rtn", ("recipe.yaml, line 2", "not valid YAML")),
    "python-tag": ("!!python/object/apply:os.system ['true']", ("recipe.yaml", "not valid YAML")),
    "date": ("seed: 2024-99-99", ("recipe.yaml", "not valid YAML")),
    "deep": ("[" * 2_000, ("recipe.yaml", "not valid YAML")),
    "list": ("- quantize.rtn", ("recipe.yaml", "found list, expected a mapping")),
    "empty": ("", ("recipe.yaml", "found NoneType, expected a mapping")),
    "no-steps": ("steps: []", ("recipe.yaml", "'steps' must be a list with at least one step")),
    "nothing-matches": ("steps: [{quantize.rtn: {where: 'vision.*'}}]", ("step 1 (quantize.rtn)", "'vision.*' matches nothing", "image")),
    "one-of-two": ("steps: [{quantize.rtn: {where: ['*', 'audio.*']}}]", ("'audio.*' matches nothing",)),
    "bits-0": ("steps: [{quantize.rtn: {bits: 0}}]", ("step 1 (quantize.rtn): bits is 0", "2 to 8")),
    "bits-17": ("steps: [{quantize.gptq: {bits: 17}}]", ("step 1 (quantize.gptq): bits is 17", " to 8")),
    "bits-text": ("steps: [{quantize.rtn: {bits: four}}]", ("bits is 'four'", "int")),
    "bits-yes": ("steps: [{quantize.rtn: {bits: yes}}]", ("bits is True",)),
    "sparsity": ("steps: [{prune.magnitude: {sparsity: 1.5}}]", ("sparsity is 1.5", "0 to 1")),
    "sparsity-nan": ("steps: [{prune.magnitude: {sparsity: .nan}}]", ("sparsity is nan", "0 to 1")),
    "group": ("steps: [{quantize.rtn: {group: 0}}]", ("group is 0",)),
    "seed": ("seed: -1\nsteps: [quantize.rtn]", ("recipe.yaml: seed is -1",)),
    "seed-large": (f"seed: {2**70}\nsteps: [quantize.rtn]", ("recipe.yaml: seed is",)),
    "needs-data": ("steps: [{quantize.gptq: {}}]", ("step 1 (quantize.gptq) needs calibration data", "--data")),
    "trains": ("steps: [{distill: {}}]", ("step 1 (distill)", "--data")),
    "floors-without-data": ("floors: {all: 1}\nsteps: [quantize.rtn]", ("floors", "--data")),
    "floors-unknown": ("floors: {al: 1}\nsteps: [quantize.rtn]", ("floors has no 'al'", "'all'")),
}  # fmt: skip


@pytest.mark.parametrize("case", RECIPES)
def test_recipe(refused: Refused, clip: Path, tmp_path: Path, case: str) -> None:
    text, words = RECIPES[case]
    (tmp_path / "recipe.yaml").write_text(text)
    refused(compressing(clip, "recipe.yaml"), *words)


def test_recipe_that_is_no_text(refused: Refused, clip: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_bytes(b"\xff\xfe\x00steps")
    refused(compressing(clip, "recipe.yaml"), "recipe.yaml", "UTF-8")
    refused(compressing(clip, "int9"), "no recipe file int9", "did you mean 'int8'?")
    refused(compressing(clip, "x" * 300), "recipe xxx", "cannot be read")


def test_plan_refuses_the_same(refused: Refused, clip: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPES["nothing-matches"][0])
    refused(["plan", str(clip), "-r", "recipe.yaml", "-o", "plan.json"], "matches nothing")
    refused(["plan", str(clip), "-r", "int8", "-o", "no/such/plan.json"], "no/such/plan.json could not be written")


# The data


def _wav(file: Path, samples: int) -> None:
    with wave.open(str(file), "wb") as opened:
        opened.setnchannels(1)
        opened.setsampwidth(2)
        opened.setframerate(16_000)
        opened.writeframes(b"\x01\x02" * samples)


LINES: dict[str, tuple[str, tuple[str, ...]]] = {
    "not-json": ("{image: 1", ("data.jsonl, line 3", "not JSON")),
    "not-an-object": ("[1, 2]", ("data.jsonl, line 3", "is a JSON list")),
    "no-modality": ('{"label": 1}', ("data.jsonl, line 3", "no image, audio, text or signal")),
    "unknown-field": ('{"txt": "a"}', ("data.jsonl, line 3", "unknown field 'txt'", "'text'")),
    "missing-file": ('{"image": "gone.png", "text": "a"}', ("data.jsonl, line 3", "'gone.png', which is not a file")),
    "truncated-image": ('{"image": "cut.png", "text": "a"}', ("data.jsonl, line 3", "cut.png cannot be decoded")),
    "not-an-image": ('{"image": "data.jsonl", "text": "a"}', ("data.jsonl, line 3", "not a known image format")),
    "empty-image": ('{"image": "empty.png", "text": "a"}', ("data.jsonl, line 3", "empty.png is empty")),
    "wav-of-nothing": ('{"audio": "silent.wav", "text": "a"}', ("data.jsonl, line 3", "silent.wav holds 0 samples")),
    "not-a-wav": ('{"audio": "data.jsonl", "text": "a"}', ("data.jsonl, line 3", "cannot be decoded")),
    "not-text": ('{"text": 5}', ("data.jsonl, line 3", "text is a number")),
    "odd-label": ('{"text": "a", "label": -1}', ("data.jsonl, line 3", "label is -1")),
}  # fmt: skip


@pytest.mark.parametrize("case", LINES)
def test_line_of_data(refused: Refused, clip: Path, tmp_path: Path, case: str) -> None:
    line, words = LINES[case]
    file = write_miniature_data(tmp_path / "data", 4, ("image", "text"))
    lines = file.read_text().splitlines()
    (file.parent / "cut.png").write_bytes((file.parent / "image-0.png").read_bytes()[:400])
    (file.parent / "empty.png").touch()
    _wav(file.parent / "silent.wav", 0)
    file.write_text("\n".join([*lines[:2], line, *lines[2:]]))
    refused(compressing(clip, data="data"), *words)


def test_data_that_is_not_there(refused: Refused, clip: Path, tmp_path: Path) -> None:
    refused(compressing(clip, data="data.jsonl"), "there is no file data.jsonl")
    (tmp_path / "empty").mkdir()
    refused(compressing(clip, data="empty"), "the folder empty holds no data.jsonl")
    (tmp_path / "data.jsonl").write_text("\n\n")
    refused(compressing(clip, data="data.jsonl"), "data.jsonl holds no lines")


def test_modalities_that_do_not_fit(refused: Refused, workspace: Workspace, clip: Path) -> None:
    refused(compressing(clip, data=workspace.data("audio")), "have audio", "takes image and text")
    refused(compressing(clip, data=workspace.data("text")), "no line has image", "takes image and text")
    refused(compressing(workspace.model("bert"), data=workspace.data("image")), "image", "takes text")


def test_fewer_samples_than_needed(refused: Refused, clip: Path, pairs: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("calibration: {samples: 500}\nsteps: [quantize.gptq]")
    refused(compressing(clip, "recipe.yaml", pairs), "16 calibration samples", "500 are needed")
    (tmp_path / "floors.yaml").write_text("floors: {all: 1}\nsteps: [quantize.gptq]")
    one = write_miniature_data(tmp_path / "one", 1, ("image", "text"))
    refused(compressing(clip, "floors.yaml", one), "floors", "no held-out samples")


# The place to write to


def test_output_that_is_taken(refused: Refused, clip: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    refused(compressing(clip), "out is not empty", "--force")
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"
    (tmp_path / "file").touch()
    refused([*compressing(clip)[:-1], "file"], "file is a file")
    refused([*compressing(clip)[:-1], "file/below"], "could not be written")


def test_force_replaces_the_whole_folder(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pipeline, "run_fresh_checks", lambda *rest: [])
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "mine.txt").write_text("mine")
    (tmp_path / "out").symlink_to("real")
    assert call(*compressing(clip), "--force").code == 0
    assert not (tmp_path / "real" / "mine.txt").exists() and (tmp_path / "out" / "trimodal.json").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {"real", "out"}


def test_force_spares_the_folder_if_the_work_fails(
    refused: Refused, broken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")

    def full(*rest: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(artifact_file, "write_tensors", full)
    refused([*compressing(broken), "--force"], "the disk is full", "nothing was left behind")
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"


def test_force_does_not_replace_what_is_read(refused: Refused, broken: Path, tmp_path: Path) -> None:
    data = write_miniature_data(tmp_path / "data", 4, ("image", "text"))
    refused([*compressing(broken)[:-1], "broken", "--force"], "broken is or holds the model")
    refused([*compressing(broken, data=data)[:-1], "data", "--force"], "data is or holds the data")
    refused([*compressing(broken)[:-1], ".", "--force"], ". is or holds the current folder")


def test_for_cpu_is_refused_before_the_work(refused: Refused, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = ["compress", "trimodal.networks.tiny:make_tokenizer", "--recipe", "int8", "--data", "none", "--for", "cpu", "-o", "out"]
    refused(own, "is a function", "--factory trimodal.networks.tiny:make_tokenizer")
    monkeypatch.setattr("trimodal.exporting.exporter.Exporter.missing_packages", ["onnxruntime"])
    refused([*compressing(clip), "--for", "cpu"], "no runtime for a CPU is installed", "trimodal[openvino]")


def test_disk_without_room(refused: Refused, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(clip)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    refused(compressing(clip), "needs", "only 1,000 are free", "nothing was written")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts file systems of so many KiB."""
    mounted: list[Path] = []

    def mount(size: int) -> Path:
        place = tmp_path / f"disk-{size}"
        place.mkdir()
        options = ["-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(place)]
        if os.geteuid() != 0 or subprocess.run(["mount", *options], capture_output=True).returncode != 0:
            pytest.skip("a small file system can only be mounted as root")
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", str(place)], check=True)


def test_full_disk(refused: Refused, clip: Path, small_disk: Callable[[int], Path]) -> None:
    """16 KiB are seen to be too few; 64 are enough for the tensors, but not for their file; 84 fill up after it."""
    for size, words in ((16, "are free on its disk"), (64, "the disk is full"), (84, "the disk is full")):
        place = small_disk(size)
        refused([*compressing(clip)[:-1], str(place / "out")], words)
        assert not list(place.iterdir())


def test_full_disk_leaves_the_plan_as_it_was(refused: Refused, clip: Path, small_disk: Callable[[int], Path]) -> None:
    place = small_disk(4)
    (place / "plan.json").write_text("old")
    refused(["plan", str(clip), "-r", "int8", "-o", str(place / "plan.json")], "the disk is full", "plan.json")
    assert [(path.name, path.read_text()) for path in place.iterdir()] == [("plan.json", "old")]


# Interruptions


@pytest.mark.usefixtures("hears_signals")
def test_ctrl_c_while_compressing(refused: Refused, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*rest: Any) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(pipeline, "compress_", interrupted)
    refused(compressing(clip), "interrupted", "nothing was left half-written", code=130)


WAITING = """
import pathlib, sys, time
if any("trimodal.formats.reload_check" in word for word in sys.orig_argv):
    pathlib.Path({mark!r}).touch()
    time.sleep({seconds})
"""
DEAF = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"


def compressing_until_reloading(clip: Path, place: Path, *before: str) -> subprocess.Popen[str]:
    """A process of the command line in `place`, in a session of its own; the process in which it reloads what it wrote
    touches `place`/reloading and then waits for ever. `before` are arguments in front of the command."""
    (place / "imported").mkdir(parents=True)
    waiting = WAITING.format(mark=str(place / "reloading"), seconds=PATIENCE_SECONDS)
    (place / "imported" / "sitecustomize.py").write_text(waiting)
    path = os.pathsep.join([str(place / "imported"), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
        [*before, *command(), *compressing(clip)], cwd=place, env=environment(PYTHONPATH=path), stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def end_session(leader: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def wait_until_reloading(place: Path, running: subprocess.Popen[str]) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not (place / "reloading").exists():
        assert running.poll() is None and time.monotonic() < end, running.communicate()
        time.sleep(0.05)


@pytest.mark.usefixtures("hears_signals")
def test_signals_while_writing(clip: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Ctrl-C and a closed terminal reach all processes of it, SIGTERM only the one; all while the new model is reloaded.
    Who starts it so that it does not hear Ctrl-C, as nohup and background jobs do, can still end it by SIGTERM."""
    codes = {"ctrl-c": 130, "sighup": 129, "deaf": 143}
    deaf = [sys.executable, "-c", DEAF]
    running = {n: compressing_until_reloading(clip, tmp_path / n, *(deaf if n == "deaf" else [])) for n in codes}
    for one in running.values():
        request.addfinalizer(partial(end_session, one.pid))
    for name, one in running.items():
        wait_until_reloading(tmp_path / name, one)
        if name in ("ctrl-c", "deaf"):
            os.killpg(one.pid, signal.SIGINT)
            os.killpg(one.pid, signal.SIGINT)  # people press it twice
        if name == "sighup":
            os.killpg(one.pid, signal.SIGHUP)
        if name == "deaf":
            one.send_signal(signal.SIGTERM)
        out, err = one.communicate(timeout=PATIENCE_SECONDS)
        assert (one.returncode, out) == (codes[name], ""), (name, err)
        said_clearly(Done.of(codes[name], out, err).err, "interrupted; nothing was left half-written")
        assert listing(tmp_path / name) == {"imported", "imported/sitecustomize.py", "reloading"}


# The command line itself


ARGUMENTS: dict[str, tuple[list[str], tuple[str, ...]]] = {
    "unknown-verb": (["compres"], ("compres",)),
    "unknown-option": (["inspect", "m", "--jsno"], ("--jsno",)),
    "missing-argument": (["inspect"], ("model",)),
    "missing-recipe": (["compress", "m", "--data", "none", "-o", "out"], ("--recipe",)),
    "missing-output": (["compress", "m", "-r", "int8", "--data", "none"], ("--output",)),
    "seed-text": (["plan", "m", "-r", "int8", "--seed", "one"], ("--seed", "integer")),
    "seed-negative": (["plan", "m", "-r", "int8", "--seed", "-1"], ("--seed", "0")),
    "seed-unused": (["inspect", "m", "--seed", "1"], ("--seed",)),
    "device-unused": (["pack", "m", "-o", "out", "--device", "cpu"], ("--device",)),
    "log-file": (["inspect", "m", "--log-file", "nowhere/at/all.log"], ("nowhere/at/all.log", "--log-file")),
    "method-by-its-last-part": (["methods", "gptq"], ("did you mean 'quantize.gptq'?",)),
    "surplus": (["recipes", "more"], ("more",)),
    "output-without-schema": (["recipes", "-o", "x.json"], ("--output", "--schema")),
    "schema-nowhere": (["recipes", "--schema", "-o", "no/such/x.json"], ("no/such/x.json could not be written",)),
    "unknown-method": (["methods", "quantize.rtm"], ("quantize.rtm", "did you mean 'quantize.rtn'?")),
    "no-report": (["report", "nothing"], ("there is no folder nothing",)),
    "no-artifact": (["verify", "nothing", "--against", "m", "--data", "d"], ("nothing is no artifact",)),
    "verify-without-data": (["verify", "out", "--against", "m", "--data", "none"], ("verify measures both models, which needs data",)),
}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_arguments(refused: Refused, case: str) -> None:
    arguments, words = ARGUMENTS[case]
    refused(arguments, *words)


@pytest.mark.parametrize("device", ["nonsense", "cuda:99", "meta", ""])
@pytest.mark.parametrize("verb", ["inspect", "plan", "compress"])
def test_device(refused: Refused, clip: Path, verb: str, device: str) -> None:
    rest = {"inspect": [], "plan": ["-r", "int8"], "compress": ["-r", "int8", "-d", "none", "-o", "out"]}[verb]
    if device.startswith("cuda") and torch.cuda.is_available():
        pytest.skip("this machine has such a device")
    refused([verb, str(clip), *rest, "--device", device], "device", "use cpu")


def test_a_real_process_says_the_same(tmp_path: Path) -> None:
    done = process("methods", "quantize.rtm", cwd=tmp_path)
    assert (done.code, done.out) == (2, "")
    said_clearly(done.err, "there is no method 'quantize.rtm'; did you mean 'quantize.rtn'?")
    assert listing(tmp_path) == set()


def test_reader_that_has_seen_enough() -> None:
    arguments = [*command(), "methods", "--json"]
    with subprocess.Popen(arguments, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None and running.stderr is not None
        running.stdout.close()
        assert running.stderr.read() == b""


def test_python_raises_what_the_command_line_says(clip: Path, tmp_path: Path) -> None:
    with pytest.raises(errors.RecipeError, match="bits is 0"):
        pipeline.plan(clip, {"steps": [{"quantize.rtn": {"bits": 0}}]})
    with pytest.raises(errors.RecipeError, match="the seed is -1"):
        pipeline.plan(clip, "int8", seed=-1)
    with pytest.raises(errors.OutputError, match="not empty"):
        (tmp_path / "mine.txt").touch()
        pipeline.compress(clip, "int8", None, tmp_path)


class Deaf(torch.nn.Module):
    """Takes text, but nobody says how it becomes numbers."""

    modalities = ("text",)

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 4) -> (B, 4)."""
        found: torch.Tensor = self.layer(x)
        return found


@pytest.mark.parametrize("verb", ["plan", "compress"])
def test_a_module_that_cannot_be_given_samples(workspace: Workspace, tmp_path: Path, verb: str) -> None:
    recipe, data = {"steps": [{"quantize.rtn": {"bits": 8}}], "calibration": {"samples": 4}}, workspace.data("text")
    with pytest.raises(errors.DataError, match="give it a method encode"):
        if verb == "plan":
            pipeline.plan(Deaf, recipe, data)
        else:
            pipeline.compress(Deaf, recipe, data, tmp_path / "out")
    assert not (tmp_path / "out").exists()
