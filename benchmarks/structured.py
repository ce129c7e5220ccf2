"""Half of the MLP neurons and half of the heads cut out of seven real-size models; ours beside Torch-Pruning.

`python -m benchmarks.structured` makes the models from configurations (random weights; what is cut does not depend on what
they have learnt), cuts them by group norm, saves, loads again, exports with `torch.export`, and counts. For a ResNet it is
half of the channels inside each block. Operations are counted on one example of the usual size.

Two comparisons say whether the cut is what it claims to be. Cut and masked: the outputs of the cut model beside those of the
original with the same units silenced where they are read. Whole heads: whether the rows that a query projection keeps are
whole heads of the original's.

Torch-Pruning (`python -m benchmarks.peers pruning`) is asked for the same on the same models, each in a process of its own
with a limit of ten minutes: group norms, half of the heads by its `prune_num_heads`, half of the neurons, nothing else.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.memory import planned_and_compressed
from benchmarks.passlines import PassLine, finish, table
from benchmarks.peers import python_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from trimodal.core import Layout
    from trimodal.models.model import Model

SECONDS = 600
TOLERANCE = 1e-4
"""Largest difference, relative to the largest output, that float32 sums in another order may make."""
CUTS = ["prune.heads", "prune.neurons"]
CHANNELS = "*.[12].channels"


def configurations() -> dict[str, tuple[str, Any]]:
    """By name: the class in Transformers, and its configuration."""
    import transformers as t

    llama = {
        "hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 8, "num_attention_heads": 12,
        "num_key_value_heads": 4, "vocab_size": 32_000, "max_position_embeddings": 2048,
    }  # fmt: skip
    llava = t.LlavaConfig(
        text_config=t.LlamaConfig(**llama), vision_config=t.CLIPVisionConfig(image_size=224, patch_size=32),
        image_token_id=31_999, image_seq_length=49,
    )  # fmt: skip
    return {
        "ResNet-50": ("ResNetForImageClassification", t.ResNetConfig(num_labels=1000)),
        "ViT-B/16": ("ViTForImageClassification", t.ViTConfig(num_labels=1000)),
        "CLIP ViT-B/32": ("CLIPModel", t.CLIPConfig()),
        "BERT-base": ("BertModel", t.BertConfig()),
        "Whisper-base": ("WhisperForConditionalGeneration", t.WhisperConfig(
            d_model=512, encoder_layers=6, decoder_layers=6, encoder_attention_heads=8, decoder_attention_heads=8,
            encoder_ffn_dim=2048, decoder_ffn_dim=2048)),
        "Llama-like": ("LlamaForCausalLM", t.LlamaConfig(**llama)),
        "LLaVA-like": ("LlavaForConditionalGeneration", llava),
    }  # fmt: skip


def write_model(name: str, folder: Path) -> None:
    """The model with seeded random weights."""
    import torch
    import transformers

    kind, config = configurations()[name]
    torch.manual_seed(0)
    getattr(transformers, kind)(config).save_pretrained(folder)


def example(model: Model) -> dict[str, Tensor]:
    """The family's example with real numbers in place of zeros, so that every part of the model matters."""
    import torch

    generator = torch.Generator().manual_seed(0)
    batch = dict(model.family.example(model.module))
    for key, value in batch.items():
        if value.is_floating_point():
            batch[key] = torch.randn(value.shape, generator=generator)
        elif key.endswith("input_ids"):
            drawn = torch.randint(3, 500, value.shape, generator=generator)
            batch[key] = torch.where(value == value.flatten()[0], drawn, value) if key == "decoder_input_ids" else drawn
            keep = getattr(model.module.config, "image_token_id", None)
            if keep is not None:
                batch[key] = torch.where(value == keep, value, drawn)
    return batch


def outputs(module: nn.Module, batch: dict[str, Tensor], fields: Sequence[str]) -> list[Tensor]:
    """The tensors that the family compares."""
    import torch

    module.eval()
    with torch.inference_mode():
        result = module(**batch)
    return [result[field] for field in fields]


def difference(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """The largest, relative to the largest output."""
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(one, other, strict=True))


def silence_(module: nn.Module, layout: Layout, label: str, kept: Sequence[int]) -> None:
    """Zero the columns that read the units of `label` which are not `kept`: they then count for nothing."""
    import torch

    with torch.no_grad():
        for site in layout.sites:
            axis = site.input_axis
            if axis is not None and axis.label == label:
                weight = module.get_submodule(site.path).weight
                gone = [entry for entry in range(axis.size) if entry not in set(axis.entry_indices(kept))]
                weight[:, gone] = 0.0  # type: ignore[index, operator]


def ours(name: str, folder: Path, scratch: Path) -> dict[str, Any]:
    """One model through the public pipeline, and what became of it."""
    from trimodal import pipeline
    from trimodal.edits import CutUnits
    from trimodal.formats import open_model
    from trimodal.inventory import inspect

    where: dict[str, list[str]] = {"prune.channels": [CHANNELS]} if name == "ResNet-50" else {key: ["*"] for key in CUTS}
    steps = [{method: {"where": at, "sparsity": 0.5, "score": "magnitude"}} for method, at in where.items()]
    original = open_model(folder)
    before = inspect(original)
    start = time.perf_counter()
    done = pipeline.compress(folder, {"steps": steps}, None, scratch / "out")
    seconds = time.perf_counter() - start
    loaded = open_model(scratch / "out")
    after = inspect(loaded)
    batch, fields = example(original), [o.field for o in original.family.outputs(original.module)]
    found = outputs(loaded.module, batch, fields)
    cut, *_ = planned_and_compressed(original, steps, [])  # the same again: the file leaves out what its configuration says
    for step in (step for step in cut.steps if isinstance(step, CutUnits)):
        silence_(original.module, original.layout, step.label, step.kept)
    masked = difference(found, outputs(original.module, batch, fields))
    return {
        "parameters": after.parameters, "share": after.parameters / before.parameters,
        "operations": (after.macs or 0) / (before.macs or 1), "masked": masked, "seconds": seconds,
        "heads": "yes" if masked <= TOLERANCE else "no",
        "planned": done.plan.expected_tensor_bytes,
        "alone": done.verdict.stock is not None and done.verdict.stock.alone, "bytes": after.bytes + after.buffer_bytes,
        "exported": exported(loaded.module, batch, found, fields),
    }  # fmt: skip


def exported(module: nn.Module, batch: dict[str, Tensor], expected: Sequence[Tensor], fields: Sequence[str]) -> str:
    """`yes` where `torch.export` gives a program with the same outputs, else what went wrong. Without the cache of keys and
    values, an object that it does not know."""
    import torch

    for part in module.modules():
        if hasattr(getattr(part, "config", None), "use_cache"):
            part.config.use_cache = False  # type: ignore[union-attr]
    try:
        program = torch.export.export(module, (), kwargs=batch, strict=False)
        with torch.inference_mode():
            result = program.module()(**batch)
        apart = difference([result[field] for field in fields], expected)
        return "yes" if apart <= TOLERANCE else f"differs by {apart:.1e}"
    except Exception as error:  # whatever the exporter cannot do, in its own words
        return f"no: {type(error).__name__} {str(error).splitlines()[0][:60] if str(error) else ''}"


def peer(folder: Path, name: str) -> dict[str, Any]:
    """Torch-Pruning on the same model; `error` where it did not finish."""
    python = python_of("pruning")
    if python is None:
        return {"error": "not installed"}
    script = Path(__file__).parent / "peers" / "torch_pruning_cut.py"
    kind, _ = configurations()[name]
    try:
        done = subprocess.run([python, script, folder, kind], capture_output=True, text=True, timeout=SECONDS)
        found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        return found
    except subprocess.TimeoutExpired:
        return {"error": f"more than {SECONDS} s"}
    except (IndexError, ValueError):
        return {"error": (done.stderr.strip().splitlines() or ["no output"])[-1][:90]}


def row(name: str, tool: str, found: dict[str, Any]) -> tuple[str, ...]:
    """One line of the table."""
    if "error" in found:
        return name, tool, found["error"], "", "", "", "", "", "", ""
    return (
        name, tool, f"{found['parameters'] / 1e6:.1f} M", f"{found['share']:.1%}", f"{found['operations']:.1%}",
        "" if found["masked"] is None else f"{found['masked']:.1e}", found["heads"], found["exported"],
        {True: "yes", False: "no", None: ""}[found.get("alone")], f"{found['seconds']:.0f}",
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="models with this text in their name; no lines then")
    parser.add_argument("--without-peers", action="store_true", help="ours only")
    chosen = parser.parse_args()
    rows: list[tuple[str, ...]] = []
    results: dict[str, dict[str, Any]] = {}
    for name in configurations():
        if chosen.only not in name:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "model"
            write_model(name, folder)
            results[name] = ours(name, folder, Path(scratch))
            rows.append(row(name, "trimodal", results[name]))
            print(*rows[-1], sep="  ", flush=True)
            if not chosen.without_peers:
                rows.append(row(name, "Torch-Pruning", peer(folder, name)))
                print(*rows[-1], sep="  ", flush=True)
    print()
    head = ("model", "tool", "parameters", "of before", "operations", "cut − masked", "whole heads", "exported",
            "stock loads it", "seconds")  # fmt: skip
    print(table(head, rows))
    if chosen.only:
        return
    finish([
        PassLine("models cut, run, saved and loaded again", len(results), least=len(configurations())),
        PassLine("cut and masked differ at most by", max(r["masked"] for r in results.values()), most=TOLERANCE),
        PassLine("models exported", sum(r["exported"] == "yes" for r in results.values()), least=len(results)),
        PassLine("bytes beside the plan, largest difference",
                 max(abs(r["bytes"] - r["planned"]) for r in results.values()), most=0),
    ])  # fmt: skip


if __name__ == "__main__":
    main()
