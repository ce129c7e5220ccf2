"""The main job, end to end: what a user types, what appears on disk, and that it loads everywhere to the same outputs."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from calling import PATIENCE_SECONDS, Workspace, call, environment
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import trimodal
from trimodal import pipeline
from trimodal.formats.reload_check import collect_outputs
from trimodal.layers import FactorChain, is_weight_parametrized
from trimodal.models.model import Model
from trimodal.networks.tiny import MINIATURES, PLAIN, make_miniature, make_miniature_batch

FILES = {
    "checks.sha256", "config.json", "plan.json", "preprocessor_config.json", "record.jsonl", "report.html", "tokenizer.json",
    "tokenizer_config.json", "trimodal.json", "trimodal.safetensors", "verdict.json",
}  # fmt: skip
ANYTHING = {
    "clip": "image text", "siglip": "image text", "vit": "image", "dinov2": "image", "bert": "text", "whisper": "audio text",
    "llama": "text", "qwen3": "text", "llava": "image text", "clap": "audio text", "wav2vec2": "audio", "ast": "audio", "resnet": "image",
    "resnet-basic": "image", "fusion": "image audio text",
    "qwen2-vl": "image text", "swin": "image",
    "gpt2": "text", "t5": "text", "mixtral": "text",
}  # fmt: skip


@contextmanager
def in_memory(monkeypatch: pytest.MonkeyPatch, reload: bool = False) -> Iterator[dict[str, Model]]:
    """Catches the compressed model as it was in memory; without `reload` the fresh process is left out, for speed."""
    caught: dict[str, Model] = {}
    write = pipeline.write_artifact

    def catching(model: Model, *rest: Any) -> Any:
        caught["model"] = model
        return write(model, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(pipeline, "write_artifact", catching)
        if not reload:
            patched.setattr(pipeline, "run_fresh_checks", lambda *rest: [])
        yield caught


def equal(a: Mapping[str, Tensor], b: Mapping[str, Tensor], tolerance: float = 0.0) -> None:
    assert a.keys() == b.keys() and a
    for key in a:
        assert a[key].shape == b[key].shape and a[key].dtype == b[key].dtype, key
        if tolerance:
            torch.testing.assert_close(a[key], b[key], rtol=tolerance, atol=tolerance)
        else:
            assert torch.equal(a[key], b[key]), key


def plain(module: nn.Module) -> bool:
    return not any(is_weight_parametrized(part) or isinstance(part, FactorChain) for part in module.modules())


# The verbs, each in a process of its own


def test_compress_writes_a_whole_folder_and_prints_the_verdict(job: Workspace, artifact: Path) -> None:
    done = job.done("out-a")
    assert (done.code, done.err) == (0, "")
    assert {path.name for path in artifact.iterdir()} == FILES
    verdict = json.loads(done.out)
    assert verdict.pop("estimate")["memory_bytes"] > 0
    assert verdict == json.loads((artifact / "verdict.json").read_text())
    assert all(check["status"] == "passed" for check in verdict["checks"])
    assert {check["name"] for check in verdict["checks"]} >= {
        "bytes as planned", "reloads in a fresh process", "decoded weights equal after reload", "outputs equal after reload",
    }  # fmt: skip
    equal_outputs = next(check for check in verdict["checks"] if check["name"] == "outputs equal after reload")
    assert float(equal_outputs["detail"].removeprefix("largest absolute difference ").split()[0]) < 1e-5
    assert {metric["modality"] for metric in verdict["metrics"]} == {"all", "image", "text"}
    for name in list(job.running):  # each works beside its place until it has ended
        job.done(name)
    assert not [path for path in job.root.iterdir() if path.name.startswith(".")]


def test_sizes_are_those_on_disk(job: Workspace, artifact: Path) -> None:
    size = json.loads((artifact / "verdict.json").read_text())["size"]
    assert size["weights_after_bytes"] == (artifact / "trimodal.safetensors").stat().st_size
    assert size["weights_before_bytes"] == (job.model("clip") / "model.safetensors").stat().st_size
    about = {"checks.sha256", "plan.json", "record.jsonl", "verdict.json", "report.html"}
    assert size["after_bytes"] == sum((artifact / name).stat().st_size for name in FILES - about)


def test_every_file_follows_the_umask(artifact: Path) -> None:
    assert len({path.stat().st_mode for path in artifact.iterdir()}) == 1


def test_same_seed_same_bytes(job: Workspace, artifact: Path) -> None:
    assert job.done("out-b").code == 0
    for name in ("trimodal.safetensors", "plan.json", "trimodal.json"):
        one, other = (hashlib.sha256((job.root / out / name).read_bytes()).hexdigest() for out in ("out-a", "out-b"))
        assert one == other, name


def test_plan_is_what_compress_carries_out(job: Workspace, artifact: Path) -> None:
    done = job.done("plan")
    assert (done.code, done.err) == (0, "")
    assert (job.root / "plan.json").read_bytes() == (artifact / "plan.json").read_bytes()
    plan = json.loads(done.out)
    assert plan.pop("estimate")["seconds"]["compress"] > 0
    assert plan == json.loads((artifact / "plan.json").read_text())
    assert [edit["method"] for edit in plan["edits"]] == [
        "prune.heads", "prune.magnitude", "factorize.eigen", "quantize.rtn", "quantize.gptq",
    ]  # fmt: skip
    assert plan["seed"] == 3 and plan["calibration"]["samples"] == 8
    recorded = [json.loads(line) for line in (artifact / "record.jsonl").read_text().splitlines()]
    planned = {(number, p["name"], p["bytes_after"]) for number, e in enumerate(plan["edits"]) for p in e["places"]}
    assert {(record["edit"], record["place"], record["bytes_after"]) for record in recorded} == planned


def test_inspect_counts_what_the_checkpoint_holds(job: Workspace) -> None:
    done = job.done("inspect")
    assert (done.code, done.err) == (0, "")
    found = json.loads(done.out)
    tensors = load_file(job.model("clip") / "model.safetensors")
    assert found["parameters"] == sum(t.numel() for name, t in tensors.items() if not name.endswith("position_ids"))
    assert found["bytes"] == 4 * found["parameters"]
    assert {tower["name"] for tower in found["towers"]} == {"image", "text"}


def test_methods_and_recipes(job: Workspace) -> None:
    methods, recipes = job.done("methods"), job.done("recipes")
    assert (methods.code, methods.err, recipes.code, recipes.err) == (0, "", 0, "")
    (gptq,) = json.loads(methods.out)
    assert gptq["name"] == "quantize.gptq" and "bits" in {option["name"] for option in gptq["options"]}
    assert {"int4", "int8", "demo"} <= json.loads(recipes.out).keys()


def test_verify_and_report_again(job: Workspace, artifact: Path) -> None:
    for name in ("again", "page"):
        shutil.copytree(artifact, job.root / name)
    (job.root / "page" / "report.html").unlink()
    job.start(
        "verify", "verify", "again", "--against", job.model("clip"), "--data", job.data("image", "text"), "--json"
    )
    job.start("report", "report", "page", "--json")
    verify, report = job.done("verify"), job.done("report")
    assert (verify.code, verify.err, report.code, report.err) == (0, "", 0, "")
    verdict, first = json.loads(verify.out), json.loads((artifact / "verdict.json").read_text())
    assert verdict == json.loads((job.root / "again" / "verdict.json").read_text())
    assert "<b>again</b>" in (job.root / "again" / "report.html").read_text()  # the page was made again with it
    assert verdict["metrics"] == first["metrics"] and verdict["size"] == first["size"]
    assert json.loads(report.out) == {"report": str(Path("page") / "report.html")}
    assert (job.root / "page" / "report.html").read_text().startswith("<!doctype html>")


@pytest.mark.parametrize("verb", ["inspect", "methods", "recipes", "plan", "report", "verify", "compress"])
def test_verbs_speak_to_people_too(
    job: Workspace, artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pipeline, "run_fresh_checks", lambda *rest: [])
    clip, pairs = str(job.model("clip")), str(job.data("image", "text"))
    arguments: dict[str, list[str]] = {
        "inspect": [clip], "methods": [], "recipes": [], "report": ["out"], "plan": [clip, "-r", "int8"],
        "verify": ["out", "-a", clip, "-d", pairs], "compress": [clip, "-r", "int8", "-d", "none", "-o", "new"],
    }  # fmt: skip
    shutil.copytree(artifact, tmp_path / "out")
    done = call(verb, *arguments[verb])
    assert (done.code, done.err) == (0, ""), done
    assert done.told.startswith("reading ") == (verb in ("inspect", "plan", "verify", "compress"))
    assert len(done.out.splitlines()) >= (1 if verb == "report" else 4)


def test_help_names_every_verb() -> None:
    done = call("--help")
    assert done.code == 0
    for verb in ("inspect", "plan", "compress", "verify", "report", "methods", "recipes", "demo"):
        assert verb in done.out


# Loading: here, in stock Transformers, and as plain floats


def test_load_equals_the_model_in_memory(job: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip, pairs, out = job.model("clip"), job.data("image", "text"), tmp_path / "out"
    with in_memory(monkeypatch) as caught:
        result = trimodal.compress(clip, job.root / "recipe.yaml", pairs, out)
    assert result.folder == out and result.verdict.passed
    batch = make_miniature_batch("clip", 4, seed=5)
    loaded = trimodal.load(out)
    assert not loaded.training and not plain(loaded)
    equal(collect_outputs(loaded, batch), collect_outputs(caught["model"].module, batch))
    floats = trimodal.load(out, dequantize=True)
    assert plain(floats)
    equal(collect_outputs(floats, batch), collect_outputs(loaded, batch), 1e-5)
    with pytest.raises(trimodal.ModelError, match="copy the folder that it was loaded from"):  # no config.json could say what was cut
        floats.save_pretrained(tmp_path / "floats")  # type: ignore[operator]


STOCK = """
import sys
{imports}
import torch
from safetensors.torch import load_file, save_file
batch = load_file(sys.argv[2])
for name, file in zip(("AutoModel", "CLIPModel"), sys.argv[3:]):
    model = getattr(transformers, name).from_pretrained(sys.argv[1]).eval()
    assert type(model).__name__ == "CLIPModel"
    with torch.inference_mode():
        result = model(**batch)
    save_file({{k: v.clone().contiguous() for k, v in result.items() if isinstance(v, torch.Tensor)}}, file)
"""
ORDERS = {
    "transformers-first": "import transformers\nimport transformers.models.auto.modeling_auto\nimport trimodal",
    "trimodal-first": "import trimodal\nassert 'torch' not in sys.modules\nimport transformers",
}


def test_stock_transformers_loads_the_artifact(artifact: Path, tmp_path: Path) -> None:
    batch = make_miniature_batch("clip", 3, seed=7)
    save_file(batch, tmp_path / "batch")
    expected = collect_outputs(trimodal.load(artifact), batch)
    running = {}
    for name, imports in ORDERS.items():
        files = [str(tmp_path / f"{name}-{kind}") for kind in ("auto", "clip")]
        arguments = [
            sys.executable,
            "-c",
            STOCK.format(imports=imports),
            str(artifact),
            str(tmp_path / "batch"),
            *files,
        ]
        running[name] = files, subprocess.Popen(arguments, env=environment(), stderr=subprocess.PIPE, text=True)
    for files, process in running.values():
        _, err = process.communicate(timeout=PATIENCE_SECONDS)
        assert process.returncode == 0, err
        for file in files:
            equal(load_file(file), expected)


def test_a_compressed_model_can_be_compressed_again(
    job: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip, pairs = job.model("clip"), job.data("image", "text")
    pruning = {"steps": [{"prune.neurons": {"where": "*", "sparsity": 0.25}}, {"prune.heads": {"where": "text.*"}}]}
    with in_memory(monkeypatch) as caught:
        trimodal.compress(clip, pruning, pairs, tmp_path / "pruned")
        result = trimodal.compress(tmp_path / "pruned", "int8", pairs, tmp_path / "both")
    batch = make_miniature_batch("clip", 3)
    equal(collect_outputs(trimodal.load(tmp_path / "both"), batch), collect_outputs(caught["model"].module, batch))
    assert result.verdict.size.before_bytes > result.verdict.size.after_bytes
    assert trimodal.verify(tmp_path / "both", tmp_path / "pruned", pairs).passed
    found = trimodal.inspect(tmp_path / "both")
    assert found.parameters < trimodal.inspect(clip).parameters and {site.stored for site in found.sites} == {
        "dense",
        "quantized",
    }


@pytest.mark.parametrize("name", ANYTHING)
def test_every_family_with_data(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder, data = workspace.model(name), workspace.data(*ANYTHING[name].split())
    with in_memory(monkeypatch) as caught:
        done = call("compress", folder, "-r", "int8", "-d", data, "-o", tmp_path / "out", "--json")
    verdict = json.loads(done.out)
    assert verdict["metrics"] and verdict["integrity"] == "passed"
    assert done.code == (verdict["quality"] == "failed")  # random weights owe the recipe's floor nothing
    batch = make_miniature_batch(name, 3)
    loaded = trimodal.load(tmp_path / "out")
    assert type(loaded) is type(make_miniature(name))
    equal(collect_outputs(loaded, batch), collect_outputs(caught["model"].module, batch))


def test_every_family_is_covered() -> None:
    assert {*ANYTHING, *PLAIN} == set(MINIATURES)


# Tied weights, and modules from a function


def test_tied_weights_are_stored_once(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = workspace.model("llama")
    with in_memory(monkeypatch) as caught:
        trimodal.compress(folder, "int8", None, tmp_path / "out")
    with safe_open(tmp_path / "out" / "trimodal.safetensors", framework="pt") as opened:
        names = set(opened.keys())
    assert "model.embed_tokens.stored.codes" in names and not [name for name in names if name.startswith("lm_head")]
    loaded: Any = trimodal.load(tmp_path / "out")
    assert loaded.lm_head.stored is loaded.model.embed_tokens.stored
    batch = make_miniature_batch("llama", 3)
    equal(collect_outputs(loaded, batch), collect_outputs(caught["model"].module, batch))
    floats: Any = trimodal.load(tmp_path / "out", dequantize=True)
    assert floats.lm_head.weight is floats.model.embed_tokens.weight
    equal(collect_outputs(floats, batch), collect_outputs(loaded, batch), 1e-5)


FACTORY = '''
"""A module that nobody knows, with two layers that share one weight."""
import torch
from torch import nn


class Speaker(nn.Module):
    modalities = ("text",)

    def __init__(self):
        super().__init__()
        self.text_embedding = nn.Embedding(32, 16)
        self.text_body = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 16))
        self.text_head = nn.Linear(16, 32)
        self.text_head.weight = self.text_embedding.weight
        self.register_buffer("offset", torch.arange(32.0))

    def encode(self, samples):
        return {"ids": torch.tensor([[ord(c) % 32 for c in (s.text or "").ljust(8)[:8]] for s in samples])}

    def forward(self, ids):
        return self.text_head(self.text_body(self.text_embedding(ids)).mean(1)) + self.offset


def speaker():
    torch.manual_seed(1)
    return Speaker()
'''


def test_modules_from_a_function(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "speaking.py").write_text(FACTORY)
    data = workspace.data("text")
    ids = {"ids": torch.arange(24).view(3, 8)}
    whole, body = tmp_path / "whole", tmp_path / "body"
    with in_memory(monkeypatch, reload=True) as caught:
        done = call("compress", "speaking:speaker", "-r", "int8", "-d", "none", "-o", "whole", "--json")
        assert (done.code, done.err) == (0, "")
    assert {check["name"] for check in json.loads(done.out)["checks"]} >= {"reloads in a fresh process"}
    assert not (whole / "config.json").exists()
    equal(collect_outputs(trimodal.load(whole, factory="speaking:speaker"), ids), collect_outputs(caught["model"].module, ids))
    with in_memory(monkeypatch) as caught:  # the tied weight stays as it is, and has to stay tied
        recipe = {"steps": [{"quantize.gptq": {"where": "text.0.*", "bits": 4}}]}
        trimodal.compress("speaking:speaker", recipe, data, body)
    again: Any = trimodal.load(body, factory="speaking:speaker")
    assert again.text_head.weight is again.text_embedding.weight
    equal(collect_outputs(again, ids), collect_outputs(caught["model"].module, ids))
    done = call("verify", "body", "--against", "speaking:speaker", "--data", data, "--json")
    assert done.code == 0 and all(check["status"] == "passed" for check in json.loads(done.out)["checks"])
    done = call("inspect", "body")
    assert done.code == 2 and "speaking:speaker" in done.err
