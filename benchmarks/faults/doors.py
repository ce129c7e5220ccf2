"""A compressed folder loaded in every other way, and folders with more in them than a model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from benchmarks.faults.trying import Wrong, expect, python, refused
from benchmarks.faults.trying import trimodal as command

_LOAD = "import sys, transformers; transformers.AutoModel.from_pretrained(sys.argv[1])"


def _written(name: str, folder: Path) -> Path:
    from trimodal.networks.tiny import write_miniature

    return write_miniature(name, folder / name)


def _compressed(source: Path, folder: Path) -> Path:
    import trimodal

    try:
        return trimodal.compress(source, "int8", None, folder / "out").folder
    except trimodal.TrimodalError as error:
        raise Wrong(f"not compressed: {error}") from error


def random_weights(folder: Path) -> str:
    """AutoModel in a process that has not imported trimodal."""
    out = _compressed(_written("bert", folder), folder)
    done = python("-c", _LOAD, out)
    expect(done.code != 0, "it loaded, with weights drawn at random")
    expect("import trimodal" in done.err, f"it failed without saying what to type: {done.said}")
    imported = python("-c", f"import trimodal; {_LOAD}", out)
    expect(imported.code == 0, f"after the import: {imported.said}")
    return done.said


def one_tower(folder: Path) -> str:
    """The class of one tower of a compressed CLIP."""
    import transformers
    from transformers import CLIPModel, CLIPVisionModel

    import trimodal as _  # noqa: F401

    transformers.utils.logging.set_verbosity_error()
    out, pixels = _compressed(_written("clip", folder), folder), torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    tower, info = CLIPVisionModel.from_pretrained(out, output_loading_info=True)
    expect(not info["missing_keys"], f"{len(info['missing_keys'])} missing tensors, drawn at random")
    whole: Any = CLIPModel.from_pretrained(out)
    off = float((tower(pixels).pooler_output - whole.vision_model(pixels).pooler_output).abs().max())
    expect(off == 0, f"the tower's output is off by {off:g}")
    return "CLIPVisionModel gives the tower of CLIPModel, no tensor missing"


def second_copy(folder: Path) -> str:
    """consolidated.safetensors beside model.safetensors, and an adapter."""
    source = _written("bert", folder)
    shutil.copyfile(source / "model.safetensors", source / "consolidated.safetensors")
    verdict = json.loads((_compressed(source, folder) / "verdict.json").read_text())
    before = (source / "model.safetensors").stat().st_size
    expect(verdict["size"]["weights_before_bytes"] == before, f"before is {verdict['size']['weights_before_bytes']:,}, not {before:,}")
    expect(verdict.get("left_out") == ["consolidated.safetensors"], f"left out: {verdict.get('left_out')}")
    (source / "adapter_config.json").write_text("{}")
    return refused(command("inspect", source), "merge it first")


def files_of_the_model(folder: Path) -> str:
    """A sentence-transformers folder with a dense layer, named templates, a training log and a link to elsewhere."""
    source = _written("bert", folder)
    (source / "2_Dense").mkdir()
    (source / "2_Dense" / "config.json").write_text("{}")
    save_file({"linear.weight": torch.ones(8, 32)}, source / "2_Dense" / "model.safetensors")
    (source / "modules.json").write_text(json.dumps([{"idx": 0, "name": "0", "path": ""}, {"idx": 1, "name": "1", "path": "2_Dense"}]))
    (source / "additional_chat_templates").mkdir()
    (source / "additional_chat_templates" / "tool.jinja").write_text("x")
    for name in ("trainer_state.json", "log.txt"):
        (source / name).write_text("{}")
    (folder / "secret").write_text("{}")
    (source / "notes.json").symlink_to(folder / "secret")
    out = _compressed(source, folder)
    needed = ("2_Dense/config.json", "2_Dense/model.safetensors", "additional_chat_templates/tool.jinja", "modules.json")
    lacking = [name for name in needed if not (out / name).is_file()]
    expect(not lacking, f"not carried over: {', '.join(lacking)}")
    too_much = [name for name in ("trainer_state.json", "log.txt", "notes.json") if (out / name).exists()]
    expect(not too_much, f"carried over: {', '.join(too_much)}")
    left = json.loads((out / "verdict.json").read_text()).get("left_out")
    expect(left == ["log.txt", "notes.json", "trainer_state.json"], f"left out: {left}")
    return f"{len(needed)} files travel, said to be left: {', '.join(left)}"


def other_types(folder: Path) -> str:
    """A result in another type, cast or loaded so, and saved."""
    from transformers import AutoModel

    import trimodal as ours

    out, batch = _compressed(_written("bert", folder), folder), {"input_ids": torch.tensor([[2, 9, 10, 3]])}
    expected = ours.load(out)(**batch).last_hidden_state
    for name, module in {
        ".half()": AutoModel.from_pretrained(out).half(), ".to(bfloat16)": ours.load(out).to(torch.bfloat16),
        ".double()": ours.load(out).double(), "dtype=float16": AutoModel.from_pretrained(out, dtype=torch.float16),
    }.items():  # fmt: skip
        try:
            found = module.eval()(**batch).last_hidden_state.float()
        except RuntimeError as error:
            raise Wrong(f"{name}: {str(error)[:100]}") from error
        off = float((found - expected).norm() / expected.norm())
        expect(off < 0.05, f"{name}: outputs differ by {off:.1%}")
    try:
        AutoModel.from_pretrained(out).save_pretrained(folder / "again")
    except ours.ModelError as error:
        return f"four types run; {str(error)[:90]}…"
    raise Wrong("save_pretrained wrote something")


def mostly_zeros(folder: Path) -> str:
    """Small weights and one large buffer of zeros, entropy-coded."""
    from trimodal.edits.steps import STEPS
    from trimodal.formats.packed import pack_file, unpack_file
    from trimodal.formats.tensors import write_tensors

    tensors = {"weight": torch.randn(8, 8, generator=torch.Generator().manual_seed(0)), "buffer": torch.zeros(30_000_000)}
    write_tensors(tensors, {"format": "pt", STEPS: "[]"}, folder / "plain")
    try:
        found = pack_file(folder / "plain", folder / "coded")
        unpack_file(folder / "coded", folder / "again")
    except trimodal_error() as error:
        raise Wrong(str(error)[:160]) from error
    expect((folder / "again").read_bytes() == (folder / "plain").read_bytes(), "other bytes came back")
    return f"{found.plain_bytes:,} bytes, coded {found.entropy_bytes:,}, and back"


def trimodal_error() -> type[Exception]:
    """The root of trimodal's errors."""
    from trimodal.errors import TrimodalError

    return TrimodalError


ENTRIES = {
    "1.1": random_weights, "1.2": one_tower, "1.7": second_copy, "1.12": files_of_the_model, "2.9": other_types, "2.13": mostly_zeros,
}  # fmt: skip
