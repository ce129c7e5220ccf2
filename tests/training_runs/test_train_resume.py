"""A run that is killed, resumed, parted among processes, or has a loss that is no number."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file
from small_runs import DINO, VIT, make_config

import trimodal
from trimodal.errors import InputError, IntegrityError, OutputError
from trimodal.networks.tiny import write_miniature, write_miniature_data
from trimodal.training.divergence import DivergedError
from trimodal.training.settings import RunFolder
from trimodal.training_runs.run_folder import hold_run


def test_a_loss_that_is_no_number(pictures: Path, tmp_path: Path) -> None:
    config = make_config(pictures, tmp_path / "out", steps=60, learning_rate=10, gradient_clip=0, schedule="constant", warmup=0,
                         checkpoint_every=1, weight_decay=1e6, evaluate_every=0)  # fmt: skip
    with pytest.raises(DivergedError, match=r"at step \d+; most likely .*lower learning_rate.* The last good checkpoint is .*checkpoint-"):
        trimodal.train(config)
    assert not (tmp_path / "out").exists()
    kept = sorted((tmp_path / "out.run").glob("checkpoint-*/complete"))
    assert kept

    assert all(bool(value.isfinite().all()) for value in load_file(kept[-1].parent / "model.safetensors").values())


def test_an_unfinished_run_is_not_overwritten_in_silence(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "out.run").mkdir()
    with pytest.raises(OutputError, match=r"not finished; go on with --resume, or begin anew with --force"):
        trimodal.train(make_config(pictures, tmp_path / "out"))


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "out.run")
    with hold_run(run), pytest.raises(OutputError, match="another run is at work in"), hold_run(run):
        pass
    with hold_run(run):
        pass
    assert not list(tmp_path.iterdir())


def start_training(config: Path, *options: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "trimodal", "train", str(config), *options]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def wait_for_steps(process: subprocess.Popen[bytes], curves: Path) -> None:
    """Until more than 17 steps are done, or the process is."""
    deadline = time.monotonic() + 200
    while not (curves.is_file() and curves.read_text().count('"loss"') > 17) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)


def test_killed_and_resumed_it_ends_with_the_same_weights(pictures: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(make_config(pictures, tmp_path / "killed", steps=60, checkpoint_every=4, evaluate_every=10)))
    process = start_training(config)
    curves = tmp_path / "killed.run" / "curves.jsonl"
    wait_for_steps(process, curves)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed").exists()
    done = curves.read_text().count('"loss"')
    assert 17 < done < 60

    resumed = start_training(config, "--resume")
    _, said = resumed.communicate(timeout=120)
    assert resumed.returncode == 0, said.decode()
    whole = trimodal.train(make_config(pictures, tmp_path / "whole", steps=60, checkpoint_every=4, evaluate_every=10))
    for name in ("model.safetensors", "curves.jsonl"):
        assert (tmp_path / "killed" / name).read_bytes() == (whole.folder / name).read_bytes(), name


def test_another_run_is_not_resumed(pictures: Path, tmp_path: Path) -> None:
    config = make_config(pictures, tmp_path / "out", steps=60, learning_rate=10, gradient_clip=0, weight_decay=1e6, warmup=0,
                         checkpoint_every=1)  # fmt: skip
    with pytest.raises(DivergedError):
        trimodal.train(config)
    with pytest.raises(InputError, match=r"is another: learning_rate was 10.0 and is 0.1; resume it as it was, or begin anew with --force"):
        trimodal.train({**config, "learning_rate": 0.1}, resume=True)


def test_a_damaged_checkpoint_is_not_gone_on_from(pictures: Path, tmp_path: Path) -> None:
    config = make_config(pictures, tmp_path / "out", steps=60, learning_rate=10, gradient_clip=0, weight_decay=1e6, warmup=0,
                         checkpoint_every=1)  # fmt: skip
    with pytest.raises(DivergedError):
        trimodal.train(config)
    first, last = sorted((tmp_path / "out.run").glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    assert (first / "complete").read_text() != (last / "complete").read_text() != ""
    names = ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"]
    assert {path.name for path in last.iterdir()} >= {*names, "complete"}
    for name in names:
        whole = (last / name).read_bytes()
        (last / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(IntegrityError, match=rf"{name} is damaged; remove {last} to go on from the checkpoint before it"):
            trimodal.train(config, resume=True)
        (last / name).unlink()
        with pytest.raises(IntegrityError, match=f"{name} is gone"):
            trimodal.train(config, resume=True)
        (last / name).write_bytes(whole)
    shutil.rmtree(last)
    with pytest.raises(DivergedError, match=f"The last good checkpoint is {last}"):  # from the one before it comes there again
        trimodal.train(config, resume=True)


def start_processes(count: int, config: Path, *options: str) -> subprocess.Popen[bytes]:
    """A run of `count` processes. What they say goes beside the configuration."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(count), "-m", "trimodal", "train", str(config)]
    with config.with_suffix(".log").open("wb") as said:
        return subprocess.Popen([*command, *options], stdout=said, stderr=said)


def run_processes(count: int, config: Path, *options: str) -> None:
    assert start_processes(count, config, *options).wait(300) == 0, config.with_suffix(".log").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 2])
def test_parted_weights_have_the_loss_curve_of_whole_ones(accumulate: int, tmp_path: Path) -> None:
    """FSDP: two processes hold half of each weight."""
    pictures = write_miniature_data(tmp_path / "data", 48, ["image"])
    still = {**VIT, "config": {**VIT["config"], "hidden_dropout_prob": 0.0}}
    alone = trimodal.train(make_config(pictures, tmp_path / "one", model=still, steps=20))
    config = tmp_path / "config.json"
    config.write_text(json.dumps(make_config(pictures, tmp_path / "two", model=still, steps=20, fsdp=True, accumulate=accumulate)))
    run_processes(2, config)
    together = [json.loads(line) for line in (tmp_path / "two" / "curves.jsonl").read_text().splitlines()]
    assert [line["step"] for line in together] == [line["step"] for line in alone.curves]
    for one, two in zip(alone.curves, together, strict=True):
        for key in ("loss", "eval_loss", "grad_norm"):
            assert two.get(key, 0) == pytest.approx(one.get(key, 0), abs=1e-4)
    whole, parted = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert whole.keys() == parted.keys()
    assert all(float((whole[name] - parted[name]).abs().max()) < 1e-4 for name in whole)


@pytest.mark.slow
@pytest.mark.parametrize("fsdp", [False, True])
def test_processes_are_killed_and_resumed(fsdp: bool, tmp_path: Path) -> None:
    """Whole weights in each or parted (FSDP): what goes on from a checkpoint ends with the bytes of a run that was not killed."""
    pictures = write_miniature_data(tmp_path / "data", 48, ["image"])
    model = DINO if fsdp else VIT  # whose mask token never has a gradient, so the optimizer knows nothing of it
    options = {"model": model, "steps": 60, "checkpoint_every": 4, "evaluate_every": 10, "fsdp": fsdp}
    configs = {name: tmp_path / f"{name}.json" for name in ("killed", "whole")}
    for name, config in configs.items():
        config.write_text(json.dumps(make_config(pictures, tmp_path / name, **options)))
    run_processes(2, configs["whole"])
    process = start_processes(2, configs["killed"])
    curves = tmp_path / "killed.run" / "curves.jsonl"
    wait_for_steps(process, curves)
    for worker in (*psutil.Process(process.pid).children(recursive=True), process):  # torchrun's processes have groups of their own
        worker.kill()
    process.wait()
    assert 17 < curves.read_text().count('"loss"') < 60 and not (tmp_path / "killed").exists()
    run_processes(2, configs["killed"], "--resume")
    for name in ("model.safetensors", "curves.jsonl"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


@pytest.mark.slow
def test_parted_weights_stop_early_with_the_best(tmp_path: Path) -> None:
    pictures = write_miniature_data(tmp_path / "data", 48, ["image"])
    still = {**VIT, "config": {**VIT["config"], "hidden_dropout_prob": 0.0}}
    options = {"model": still, "steps": 40, "evaluate_every": 2, "learning_rate": 0.02, "checkpoint_every": None,
               "early_stopping": {"metric": "loss", "patience": 2}}  # fmt: skip
    config = tmp_path / "config.json"
    config.write_text(json.dumps(make_config(pictures, tmp_path / "out", **options, fsdp=True)))
    run_processes(2, config)
    record = json.loads((tmp_path / "out" / "training.json").read_text())
    curves = [json.loads(line) for line in (tmp_path / "out" / "curves.jsonl").read_text().splitlines()]
    losses = [line["eval_loss"] for line in curves if line["step"] and "eval_loss" in line]
    assert record["stopped_early"] and record["steps"] < 40
    assert record["metrics"]["loss"] == pytest.approx(min(losses), abs=1e-6) and losses[-1] > min(losses) + 1e-3


ONE_BAD_PROCESS = """
import json, os, sys
import trimodal
from trimodal.training import engine
check = engine._Engine._check_loss
def check_loss(self, loss, *given):
    is_bad = os.environ["RANK"] == "1" and self.state.global_step == 2
    check(self, loss * float("nan") if is_bad else loss, *given)
engine._Engine._check_loss = check_loss
trimodal.train(json.load(open(sys.argv[1])))
"""


@pytest.mark.slow
def test_all_processes_stop_where_the_loss_of_one_is_no_number(tmp_path: Path) -> None:
    """Parted weights take all processes to explain it: one that went on would wait for ever."""
    pictures = write_miniature_data(tmp_path / "data", 48, ["image"])
    script, config = tmp_path / "train.py", tmp_path / "config.json"
    script.write_text(ONE_BAD_PROCESS)
    config.write_text(json.dumps(make_config(pictures, tmp_path / "out", model=VIT, fsdp=True, checkpoint_every=2)))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", str(script), str(config)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=200).stderr
    assert "DivergedError: the loss is nan at step 3" in said and "the loss of another process is nan at step 3" in said
    assert f"The last good checkpoint is {tmp_path / 'out.run' / 'checkpoint-2'}" in said


@pytest.mark.slow
@pytest.mark.parametrize("task", ["classify", "retrieve"])  # the latter compares pairs of both processes
def test_two_processes_have_the_loss_curve_of_one(task: str, tmp_path: Path) -> None:
    pictures = write_miniature_data(tmp_path / "data", 48, ["image"] if task == "classify" else ["image", "text"])
    clip = str(write_miniature("clip", tmp_path / "clip"))
    still = {**VIT, "config": {**VIT["config"], "hidden_dropout_prob": 0.0}} if task == "classify" else clip
    alone = trimodal.train(make_config(pictures, tmp_path / "one", model=still, steps=30, task=task))
    config = tmp_path / "config.json"
    config.write_text(json.dumps(make_config(pictures, tmp_path / "two", model=still, steps=30, task=task)))
    run_processes(2, config)
    together = [json.loads(line) for line in (tmp_path / "two" / "curves.jsonl").read_text().splitlines()]
    assert [line["step"] for line in together] == [line["step"] for line in alone.curves]
    for one, two in zip(alone.curves, together, strict=True):
        assert two.get("loss", 0) == pytest.approx(one.get("loss", 0), abs=1e-5)
        assert two.get("eval_loss", 0) == pytest.approx(one.get("eval_loss", 0), abs=1e-5)
