"""Which method works on which kind of model: each is planned on a miniature of each declared family.

`python -m benchmarks.coverage` prints the table that README.md holds; a test compares.
"""

from __future__ import annotations

from benchmarks.passlines import table
from trimodal.core import Layout
from trimodal.errors import RecipeError
from trimodal.graph.fusion_discovery import discover_folds
from trimodal.loading.load import build_model
from trimodal.methods import METHODS
from trimodal.networks.tiny import MINIATURES, make_miniature, make_miniature_batch
from trimodal.planning import plan_edits, read_recipe

COLUMNS = {
    "clip": "CLIP", "siglip": "SigLIP", "vit": "ViT", "dinov2": "DINOv2", "resnet": "ResNet", "bert": "BERT", "llama": "Llama",
    "gpt2": "GPT-2", "mixtral": "Mixtral", "t5": "T5",
    "llava": "LLaVA", "whisper": "Whisper", "wav2vec2": "Wav2Vec2", "ast": "AST", "clap": "CLAP", "fusion": "ours",
}  # fmt: skip
ROWS = {
    "round weights: RTN, HQQ": ("quantize.rtn", "quantize.hqq"),
    "GPTQ, AWQ, rotated, learned": ("quantize.gptq", "quantize.awq", "quantize.rotated", "quantize.learned"),
    "SmoothQuant (W8A8)": ("quantize.smooth",),
    "entropy-coded": ("quantize.entropy",),
    "prune single weights, 2:4": (
        "prune.magnitude", "prune.wanda", "prune.ria", "prune.gradient", "prune.sparsegpt", "prune.obs",
    ),
    "prune neurons": ("prune.neurons",),
    "prune heads": ("prune.heads",),
    "prune channels": ("prune.channels",),
    "prune blocks": ("prune.layers",),
    "prune width": ("prune.width",),
    "low rank: SVD, eigen": ("factorize.svd", "factorize.eigen"),
    "Tucker, CP": ("factorize.tucker", "factorize.cp"),
    "share layers": ("share.layers",),
    "merge tokens": ("merge.tokens",),
    "prune tokens": ("prune.tokens",),
    "fold": ("fold.exact",),
    "distill": ("distill",),
    "train with quantization": ("train.quantized",),
    "distill, LoRA": ("distill.lora",),
}

OPTIONS = {"prune.layers": {"sparsity": 0.5}}  # a miniature has two blocks
BEFORE: dict[str, list[dict[str, dict[str, object]]]] = {"train.quantized": [{"quantize.rtn": {"optional": True}}]}  # what it works on


def works(layout: Layout, method: str) -> bool:
    """Whether a plan with `method` everywhere finds a place."""
    try:
        plan_edits(layout, read_recipe({"steps": [*BEFORE.get(method, []), {method: OPTIONS.get(method, {})}]}), True)
    except RecipeError:
        return False
    return True


def coverage() -> str:
    """The table: yes where every method of the row has a place, some where not all have."""
    layouts = {}
    for name in COLUMNS:
        model = build_model(make_miniature(name), name)
        layouts[name] = discover_folds(model, [make_miniature_batch(name, 2, 0)])
    rows = []
    for label, methods in ROWS.items():
        found = ({works(layout, method) for method in methods} for layout in layouts.values())
        rows.append((label, *("yes" if all(one) else "some" if any(one) else "–" for one in found)))
    return table(("", *COLUMNS.values()), rows)


def complete() -> bool:
    """Whether every method and every miniature's family has its place in the table."""
    named = {name for names in ROWS.values() for name in names}
    return named == {method.name for method in METHODS} and COLUMNS.keys() <= MINIATURES.keys()


if __name__ == "__main__":
    print(coverage())
