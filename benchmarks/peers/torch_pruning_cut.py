"""Torch-Pruning for `benchmarks.structured`: half of the heads and half of the MLP neurons by group norm.

Called with the model's folder and its class in Transformers. It is told which layers are queries, keys and values, and
to leave everything alone that writes to the residual stream. Prints one line of JSON.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

NEURONS = ("intermediate.dense", "layer.0.convolution", "layer.1.convolution")


def inputs_of(model: Any) -> dict[str, Any]:
    """Random inputs of the usual size for one sample, by what the configuration says."""
    import torch

    torch.manual_seed(0)
    kind, config = model.config.model_type, model.config
    if kind in ("resnet", "vit"):
        return {"pixel_values": torch.randn(1, 3, 224, 224)}
    if kind == "whisper":
        frames = 2 * config.max_source_positions
        return {"input_features": torch.randn(1, config.num_mel_bins, frames),
                "decoder_input_ids": torch.randint(3, 500, (1, 16))}  # fmt: skip
    ids = torch.randint(3, 500, (1, 64))
    if kind == "llava":
        patches = (config.vision_config.image_size // config.vision_config.patch_size) ** 2
        ids = torch.cat([torch.full((1, patches), config.image_token_id), ids], dim=1)
        return {"input_ids": ids, "pixel_values": torch.randn(1, 3, 224, 224), "use_cache": False}
    if kind == "clip":
        return {"input_ids": ids, "pixel_values": torch.randn(1, 3, 224, 224)}
    return {"input_ids": ids} | ({"use_cache": False} if kind == "llama" else {})


def main() -> None:
    """Cut, run, and say what became of it."""
    import torch
    import torch_pruning as tp
    import transformers

    folder, kind = sys.argv[1:3]
    model = getattr(transformers, kind).from_pretrained(folder, attn_implementation="eager").eval()
    inputs = inputs_of(model)
    modules = dict(model.named_modules())
    weights = {name: m.weight.detach().clone() for name, m in modules.items() if isinstance(m, torch.nn.Linear)}
    heads, free, width = {}, [], {}
    for name, module in modules.items():
        last = name.rpartition(".")[2]
        if last in ("q_proj", "k_proj", "v_proj", "query", "key", "value"):
            owner = modules[name.rpartition(".")[0]]
            width[name] = getattr(owner, "head_dim", None) or owner.attention_head_size
            heads[module] = module.out_features // width[name]
            free.append(module)
        elif last in ("fc1", "up_proj", "gate_proj") or name.endswith(NEURONS):
            free.append(module)
    roots = (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Embedding, torch.nn.LayerNorm)
    ignored = [m for m in modules.values() if isinstance(m, roots) and m not in free]
    if kind.startswith("ResNet"):
        ignored = [modules["classifier.1"], modules["resnet.embedder.embedder.convolution"]] + [
            m for n, m in modules.items() if n.endswith(("layer.2.convolution", "shortcut.convolution"))
        ]
    before = sum(p.numel() for p in model.parameters())
    operations, _ = tp.utils.count_ops_and_params(model, inputs)
    start = time.perf_counter()
    pruner = tp.pruner.BasePruner(
        model, inputs, importance=tp.importance.GroupMagnitudeImportance(p=2), pruning_ratio=0.5,
        ignored_layers=ignored, num_heads=heads, prune_num_heads=bool(heads), prune_head_dims=False, head_pruning_ratio=0.5,
        output_transform=lambda out: sum(v.sum() for v in out.values() if isinstance(v, torch.Tensor)),
    )  # fmt: skip
    pruner.step()
    seconds = time.perf_counter() - start
    for module in modules.values():  # its own examples correct the counters by hand
        for counter in ("num_heads", "num_attention_heads"):
            changed = next((pruner.num_heads[m] for m in module.children() if m in pruner.num_heads), None)
            if hasattr(module, counter) and changed is not None:
                setattr(module, counter, changed)
                if hasattr(module, "all_head_size"):
                    module.all_head_size = changed * module.attention_head_size
    with torch.inference_mode():
        model(**inputs)
    owners = {name.rpartition(".")[0]: width[name] for name in width}
    mixed = sum(not alike(owner, modules, weights, owners[owner]) for owner in owners)
    after = sum(p.numel() for p in model.parameters())
    left, _ = tp.utils.count_ops_and_params(model, inputs)
    for part in model.modules():  # the exporter does not know the object that caches keys and values
        if hasattr(getattr(part, "config", None), "use_cache"):
            part.config.use_cache = False
    try:
        torch.export.export(model, (), kwargs=inputs, strict=False)
        exported = "yes"
    except Exception as error:
        exported = f"no: {type(error).__name__}"
    print(json.dumps({
        "parameters": after, "share": after / before, "operations": left / operations, "masked": None,
        "heads": f"no: mixed in {mixed} of {len(owners)} layers" if mixed else "yes" if owners else "",
        "exported": exported, "seconds": seconds,
    }))  # fmt: skip


def alike(owner: str, modules: dict[str, Any], weights: dict[str, Any], width: int) -> bool:
    """Whether query, key, value and output projection of an attention keep the same whole heads of the original's.

    Where several queries read one key, only whether all keep whole heads is asked.
    """
    kept = []
    for name in (f"{owner}.{last}" for last in ("q_proj", "k_proj", "v_proj", "query", "key", "value")):
        if name in modules:
            kept.append(heads_of(modules[name].weight, weights[name], width))
    for name in (f"{owner}.o_proj", f"{owner}.out_proj", f"{owner.rpartition('.')[0]}.output.dense"):
        if name in modules:
            kept.append(heads_of(modules[name].weight.T, weights[name].T, width))
    counts = {len(heads) for heads in kept if heads is not None}
    return None not in kept and (len(counts) > 1 or all(heads == kept[0] for heads in kept))


def heads_of(found: Any, original: Any, width: int) -> list[int] | None:
    """Which heads of `original`, rows of a projection, the rows of `found` are; None where they are not whole ones."""
    import torch

    columns = original.shape[1]
    if found.shape[1] != columns:
        return None
    rows = [int((original == row).all(dim=1).nonzero()[0]) for row in found.detach()]
    if len(rows) % width:
        return None
    groups = torch.tensor(rows).view(-1, width)
    if not bool(((groups - groups[:, :1]) == torch.arange(width)).all() and (groups[:, 0] % width == 0).all()):
        return None
    return (groups[:, 0] // width).tolist()


if __name__ == "__main__":
    main()
