"""The field's short names for what a step does: W4A16 g64, W8A8, NF4, 2:4, ToMe. One function for plans, recipes and reports."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

_GRIDS = {"nf": "NF", "fp": "FP", "pot": "powers of two ", "log": "log-2 "}
_WIDTHS = {"symmetric": " signed", "asymmetric": " asymmetric", "kmeans": " k-means"}


def short_name_of(method: str, config: Mapping[str, Any]) -> str:
    """How the field calls `method` with these options: `W4A16 g64`; empty where it has no name for it.

    Args:
        method: the name that recipes use, such as `quantize.gptq`.
        config: its options; those that are missing have no part in the name.
    """
    named = _NAMES.get(method) or _KINDS.get(method.partition(".")[0])
    return "" if named is None else named(config)


def name_bits(bits: float, group: int | str | None = None, grid: str = "positive", inputs: int = 16) -> str:
    """`W4A16 g64`: bits of weights and of inputs (16: left in float), and the columns that share a scale, where not a row does."""
    name = f"W{bits:g}A{inputs}"
    if grid in _GRIDS:
        name += f" {_GRIDS[grid]}{bits:g}".rstrip() if grid in ("nf", "fp") else f" {_GRIDS[grid]}".rstrip()
    name += _WIDTHS.get(grid, "")
    return f"{name} {name_group(group)}".strip()


def name_group(group: int | str | None) -> str:
    """`g64` for 64 columns, `per-tensor`, `per-tower`; nothing for a scale per row, which is the rule."""
    if isinstance(group, int):
        return f"g{group}"
    return "" if group in (None, "channel") else f"per-{group}"


def _name_weight_bits(config: Mapping[str, Any]) -> str:
    return name_bits(config.get("bits", 16), config.get("group"), config.get("grid", "positive"))


def _name_hqq(config: Mapping[str, Any]) -> str:
    return name_bits(config.get("bits", 16), config.get("group"), "asymmetric")


def _name_input_bits(config: Mapping[str, Any]) -> str:
    mode = {"static": " static", "token": " dynamic"}.get(str(config.get("mode")), "")
    inputs = int(config.get("activation_bits", 8))
    return name_bits(config.get("bits", 8), config.get("group"), config.get("grid", "positive"), inputs) + mode


def _name_entropy(config: Mapping[str, Any]) -> str:
    return f"{config.get('bits', 3):g} bits/weight, entropy-coded"


def _name_unstructured(config: Mapping[str, Any]) -> str:
    """`2:4`, or `50 % unstructured`; with bits `2:4 + W4A16`."""
    kept, of = config.get("kept"), config.get("of")
    name = f"{kept}:{of}" if kept and of else f"{_format_sparsity(config)} unstructured"
    return f"{name} + {name_bits(config['bits'], config.get('group'))}" if config.get("bits") else name


def _format_sparsity(config: Mapping[str, Any]) -> str:
    return f"{100 * config.get('sparsity', 0.5):g} %"


def _name_structured(what: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda config: f"{_format_sparsity(config)} structured ({what})"


def _name_low_rank(name: str) -> Callable[[Mapping[str, Any]], str]:
    def named(config: Mapping[str, Any]) -> str:
        if config.get("rank") is not None:
            return f"{name} r={config['rank']}"
        if config.get("energy") is not None:
            return f"{name} at {100 * config['energy']:g} % energy"
        return f"{name}, {_format_sparsity(config)} fewer weights"

    return named


def _name_shared_layers(config: Mapping[str, Any]) -> str:
    adapter = f" + LoRA r={config['rank']}" if config.get("rank") else ""
    return f"weight sharing ×{config.get('times', 2)}{adapter}"


def _name_merged_tokens(config: Mapping[str, Any]) -> str:
    kind = "ToMe" if config.get("kind", "matching") == "matching" else "token pooling"
    return f"{kind} {100 * config.get('share', 0.5):g} %"


def _name_unread_tokens(config: Mapping[str, Any]) -> str:
    kinds = {"attention": "VisionZip", "diversity": "DivPrune", "question": "FastV"}
    return f"{kinds.get(config.get('by', 'attention'), 'tokens by norm')} {100 * config.get('share', 0.5):g} %"


def _name_adapters(config: Mapping[str, Any]) -> str:
    return f"{'DoRA' if config.get('dora') else 'LoRA'} r={config.get('rank', 8)}, {config.get('steps', 300)} steps"


_NAMES: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "quantize.hqq": _name_hqq,
    "quantize.smooth": _name_input_bits,
    "quantize.entropy": _name_entropy,
    "prune.neurons": _name_structured("MLP neurons"),
    "prune.heads": _name_structured("attention heads"),
    "prune.channels": _name_structured("channels"),
    "prune.layers": _name_structured("depth"),
    "prune.tokens": _name_unread_tokens,
    "prune.width": _name_structured("width"),
    "factorize.tucker": _name_low_rank("Tucker-2"),
    "factorize.cp": _name_low_rank("CP"),
    "factorize.svd": lambda config: _name_low_rank("ASVD" if config.get("alpha") else "FWSVD" if config.get("fisher") else "SVD")(config),
    "share.layers": _name_shared_layers,
    "merge.tokens": _name_merged_tokens,
    "fold.exact": lambda config: "operator fusion",
    "train.quantized": lambda config: f"QAT, {config.get('steps', 300)} steps",
    "distill.lora": _name_adapters,
    "distill": lambda config: f"KD, {config.get('steps', 300)} steps",
}
_KINDS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "quantize": _name_weight_bits,
    "prune": _name_unstructured,
    "factorize": _name_low_rank("low rank"),
}
