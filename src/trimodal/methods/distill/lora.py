"""LoRA and DoRA as recovery: a frozen compressed model learns by a narrow pair of matrices beside each layer.

Idea. What compression took from a layer is made up for by a matrix of rank r, which has r (m + n) numbers in place of m n. The model
itself, coded or pruned, stays as it is.

Problem. With the weights W_i of all places fixed, minimise the distance of `distill` between student and teacher over A_i, B_i in

    (W_i + s B_i A_i) x,   s = alpha / r,   B_i (m, r), A_i (r, n)           LoRA: Hu et al. 2021, arXiv 2106.09685
    d_i ∘ (W_i + s B_i A_i) x,   d_i = magnitude_i / ‖row‖                    DoRA: Liu et al. 2024, arXiv 2402.09353

Algorithm.
    1. begin with B = 0, or with `init: error` at the best rank-r stand-in for what is missing: W° of the original, C = E[x xᵀ] of the
       inputs that the layer gets now, and R = W° − W; with U (m, r) the first eigenvectors of R C Rᵀ, s B A = U Uᵀ R. That is the least
       E‖(R − s B A) x‖² of its rank. (LoftQ, Li et al. 2023, arXiv 2310.08659, does so with C = I; LQER, arXiv 2402.02446, with a
       diagonal one.) Pruned weights begin with B = 0
    2. train A and B (with DoRA the magnitudes) by peft, all else frozen, as `distill` does; of B A nothing counts where W is pruned
    3. a plain weight takes s B A up, and so does a pruned one. A coded weight keeps its codes, and the pair is stored beside them in
       float16 (`left`, `right` of `core/storage.py`), which every artifact reloads, and ONNX and OpenVINO compute as two narrow
       products. With DoRA d goes into the scales of the rows.

Cost: that of `distill`; the optimizer holds states for the pairs alone. The pair costs 2 r (m + n) bytes at a coded layer and nothing at
others. Fails where what was lost is of high rank: a layer that lost most of its neurons had better be trained whole. Codes of 8 bits leave
little to learn. Departs from LoftQ: codes are not found anew in turn with the pair.

By hand. R = [[3, 0], [0, 2]], r = 1. With C = I: R C Rᵀ = diag(9, 4), U = (1, 0)ᵀ, B A = [[3, 0], [0, 0]], and 4 is left. With
C = diag(1, 9): R C Rᵀ = diag(9, 36), U = (0, 1)ᵀ, B A = [[0, 0], [0, 2]], and 9 is left of 45; the other choice would leave 36.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from trimodal.core import Change, FitRecord, Place, Site
from trimodal.core.change import Treatment
from trimodal.core.storage import CODED
from trimodal.errors import TrimodalError
from trimodal.layers import CodedWeight, SparseWeight
from trimodal.maths.lowrank import fit_correction
from trimodal.methods.distill.recover import TeachingOptions, train_student
from trimodal.methods.method import Adaptation, AdaptedPlace, Adapting, Method, Pace, Weights
from trimodal.methods.options import option
from trimodal.models.model import Batch, Model
from trimodal.statistics import Moment, Statistic, StatisticKind
from trimodal.training.adapters import AdapterSettings, WeightUpdate, attach_adapters, balance_factors, can_adapt

ORIGINAL = "original"
_FAR = 0.5  # of the original's own output: so much error is no matter of rounding, the layer means something else now
_LARGEST_HALF = 65504.0


@dataclass(frozen=True)
class LowRankOptions(TeachingOptions):
    """Options of `distill.lora`."""

    learning_rate: float = option(5e-3, "highest learning rate", low=1e-8, high=1.0, search=(2e-3, 5e-3, 1e-2))
    rank: int = option(8, "rank of each pair", low=1, search=(4, 8, 16))
    alpha: float = option(0.0, "the pair counts alpha / rank; 0 for alpha = rank", low=0.0)
    init: Literal["zero", "error"] = option(
        "zero", "what pairs begin with: nothing, or the best stand-in for what the layer lost on its inputs", choices=("zero", "error")
    )
    dora: bool = option(False, "scale each row by a trained size too (DoRA)")


def refuse(place: Place, config: LowRankOptions) -> str | None:
    """Why a place is left alone."""
    site = place.observed_site
    if site.kind not in ("linear", "conv") or site.is_grouped:
        return f"low-rank pairs stand beside linear layers and whole convolutions, not beside this {site.kind}"
    if site.tied:
        return f"{site.tied[0]} uses the same weight, and would change with it"
    if config.rank > min(site.rows, site.columns):
        return f"its {site.rows} × {site.columns} weight has no room for rank {config.rank}"
    return _refuse_coded(site, config) if site.stored in CODED else None


def _refuse_coded(site: Site, config: LowRankOptions) -> str | None:
    """Why no pair can stand beside the codes of `site`."""
    stored = site.storage or {}
    if "kept" in stored:
        return "a pair would fill in what is pruned among its codes; recover before it is quantized"
    if stored.get("tables") in ("tower", "borrowed"):
        return "its table of numbers is shared with other layers"
    rank = config.rank + stored.get("rank", 0)
    if rank * (site.rows + site.columns) * 2 >= site.rows * site.columns:
        return f"a pair of rank {rank} would be larger than half of its {site.rows} × {site.columns} weight"
    if config.dora and not _has_row_scales(site.stored, stored):
        return "DoRA scales rows, and its codes have no scale for each row"
    return None


def _has_row_scales(kind: str, stored: Mapping[str, Any]) -> bool:
    return (kind == "quantized" and not stored.get("shared")) or (kind == "codebook" and bool(stored.get("scaled")))


def wants(place: Place, config: LowRankOptions) -> StatisticKind | None:
    """The second moment, where pairs begin with the error on it."""
    return "moment" if config.init == "error" else None


def forecast(place: Place, config: LowRankOptions) -> Sequence[Site]:
    """A coded site gets a pair, others stay what they are."""
    return tuple(_forecast_site(site, config) for site in place.sites)


def _forecast_site(site: Site, config: LowRankOptions) -> Site:
    if site.stored not in CODED or site.storage is None:
        return site
    options = dict(site.storage)
    table = options.pop("table", "k-means")
    return site.store_as(site.stored, {**options, "rank": options.get("rank", 0) + config.rank}, table)


def begin(place: Place, weights: Weights, statistic: Statistic | None, config: LowRankOptions) -> Mapping[str, Tensor]:
    """Step 1: `left` (m, r) and `right` (r, n) float32; nothing where the pair begins at zero, or the original's layer was another."""
    site = place.observed_site
    weight, original = weights[f"{site.path}.weight"], weights.get(f"{site.path}.{ORIGINAL}")
    if config.init == "zero" or site.stored == "sparse" or original is None or original.shape != weight.shape:
        return {}
    residual = (original - weight).flatten(1)
    second = statistic.second if isinstance(statistic, Moment) else None
    if not 0 < _measure_output(residual, second) < _FAR * _measure_output(original.flatten(1), second):
        return {}
    left, right = balance_factors(*fit_correction(residual, second, config.rank))
    return {"left": left, "right": right}


def _measure_output(weight: Tensor, second: Tensor | None) -> float:
    """E‖W x‖² for W (m, n) and C (n, n)."""
    seen = weight if second is None else weight @ second
    return float((seen * weight).sum())


def train(
    student: Model, teacher: Model, places: Sequence[AdaptedPlace], batches: Callable[[int], Sequence[Batch]], config: LowRankOptions,
    seed: int,
) -> Adaptation:  # fmt: skip
    """Steps 2 and 3."""
    layers = {one.place.name: student.module.get_submodule(one.place.observed_site.path) for one in places}
    declined = {name: f"{type(layer).__name__} can have no pair beside it" for name, layer in layers.items() if not can_adapt(layer)}
    adapted = [one for one in places if one.place.name not in declined]
    if not adapted:
        return Adaptation((), {}, declined)
    settings = {one.place.observed_site.path: _make_settings(one) for one in adapted}
    with attach_adapters(student.module, settings, seed) as adapters:
        steps = train_student(student, teacher, batches, config, seed)
        found = {path: adapters.read(path) for path in settings}
    records = [FitRecord(0, METHOD.name, step.step, {"loss": step.loss, **step.parts}, step.seconds) for step in steps]
    changes = {one.place.name: _store_update(student.module, one.place.observed_site.path, found) for one in adapted}
    return Adaptation(records, changes, declined)


def _make_settings(one: AdaptedPlace) -> AdapterSettings:
    config, start = one.config, one.start
    given = (start["left"], start["right"]) if start else None
    return AdapterSettings(config.rank, config.alpha or float(config.rank), config.dora, given)


def _get_layer(module: nn.Module, path: str) -> Any:
    return module.get_submodule(path)


@torch.no_grad()
def _store_update(module: nn.Module, path: str, updates: Mapping[str, WeightUpdate]) -> Change:
    """Let the weight at `path` take up what was learned; the change that stores it beside the codes where it cannot."""
    layer, update = _get_layer(module, path), updates[path]
    store = getattr(layer, "stored", None)
    if store is None:
        layer.weight.copy_(update.apply(layer.weight))
        return Change(notes=("the pair was added to the weight",))
    if isinstance(store, SparseWeight):
        store.values.copy_(update.apply(store()).flatten(1)[store.kept_mask])
        return Change(notes=("the pair was added to the weights that are left",))
    if not isinstance(store, CodedWeight):
        raise TrimodalError(f"{path} is stored as {type(store).__name__}, which no pair can stand beside")
    return Change({path: _store_beside(store, update)}, notes=(f"a pair of rank {len(update.right)} stands beside the codes",))


def _store_beside(store: CodedWeight, update: WeightUpdate) -> Treatment:
    """The codes with the pair in float16, behind a correction that was there; d goes into the scales of the rows and what is added."""
    tensors = dict(store.named_buffers(recurse=False))
    left, right = update.left, update.right
    if "left" in tensors:
        left = torch.cat([tensors["left"].float(), left], dim=1)
        right = torch.cat([tensors["right"].float(), right])
    if update.factor is not None:
        left = left * update.factor[:, None]
        tensors["scale"] = _to_half(tensors["scale"].float() * update.factor[:, None])
        if "outliers" in tensors:
            tensors["outliers"] = _to_half(tensors["outliers"].float() * update.factor[tensors["places"].long() // right.shape[1]])
    tensors["left"], tensors["right"] = _to_half(left), _to_half(right)
    return Treatment(store.kind, {**store.options, "rank": len(right)}, tensors)


def _to_half(values: Tensor) -> Tensor:
    return values.clamp(-_LARGEST_HALF, _LARGEST_HALF).half().contiguous()


METHOD = Method(
    name="distill.lora",
    kind="distill",
    paper="LoRA: Hu et al. 2021, arXiv 2106.09685; DoRA: Liu et al. 2024, arXiv 2402.09353; init: LoftQ, Li et al. 2023, arXiv 2310.08659",
    idea="Freeze the compressed model and train a low-rank pair beside each layer towards the original.",
    config=LowRankOptions,
    refuse=refuse,
    wants=wants,
    without_data="no recovery",
    forecast=forecast,
    pace=Pace(passes=4, products=0, cubes=1),
    adapt=Adapting(begin, train),
)
