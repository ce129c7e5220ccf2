"""One weight for several blocks: shared by weighted least squares, with what is each block's own at low rank. After Dynamic
Tying (Hay, Wolf 2024, arXiv 2401.12819), Relaxed Recursive Transformers (Bae, Fisch, Harutyunyan, Ji, Kim, Schuster 2024,
arXiv 2410.20672) and Basis Sharing (Wang, Chen, Lin, Li, Zhang 2024, arXiv 2410.03765).

Idea. Neighbouring blocks do alike things. Let them use one matrix, and give each a small correction of its own. The file
and the memory hold the shared weight once; operations stay as many (a few more for the corrections).

Problem. For the same layer of the blocks i = 1 … k, W_i (m, n) with inputs of second moment C_i (n, n): find one W and
corrections R_i of rank r that minimise Σ_i E‖(W_i − W − R_i) x_i‖² = Σ_i tr((W_i − W − R_i) C_i (W_i − W − R_i)ᵀ).

Algorithm.
    1. C_i += δ · mean(diag C_i) · I, so that what was never seen counts a little                      (n, n)
    2. W = (Σ W_i C_i)(Σ C_i)⁻¹, where the gradient for R = 0 vanishes                                  (m, n)
    3. D_i = W_i − W; the r leading eigenvectors U of D_i C_i D_iᵀ                                       (m, r)
       second_i = U, first_i = Uᵀ D_i: what `factorize.eigen` makes of D_i                              (m, r), (r, n)
    4. with a bias: b_i += (D_i − second_i first_i) μ_i, and C_i in 1 to 3 is less μ_i μ_iᵀ               (m,)
`kind: repeat` shares among neighbours (AABBCC), `cycle` among blocks that stand equally far apart (ABCABC). Norms and
biases stay each block's own.

The plain mean of the W_i is what step 2 gives if all C_i are equal, and is never better on what was seen; the notes name
both errors. Where the blocks' inputs have different scales (they grow with depth) it favours the small ones.

Cost. One pass over the data per layer of a block, with B second moments (n, n) in memory at a time, B the number of blocks;
one Cholesky factorisation (n, n) per group and with a residual one eigendecomposition (m, m) per block.

Fails without training after it where blocks are not alike, as in most Transformers. The published results all train
afterwards; let `distill` follow. Models that were trained with shared
weights (ALBERT) lose nothing. Step 3 takes W as given: alternating between both would be a little better. A later step that
looks at data (GPTQ) sees a shared weight's inputs in the first of its blocks only.

Departs from the papers: they begin from the mean, one of the blocks or a common basis of the whitened weights, and train;
step 2 is the best start for the inputs that the blocks see.

By hand. W_1 = [[2, 0]], W_2 = [[0, 4]], C_1 = diag(3, 1), C_2 = diag(1, 1), δ = 0: Σ W_i C_i = [[6, 4]], Σ C_i = diag(4, 2), so
W = [[1.5, 2]]. Error: [0.5, −2] with C_1: 0.75 + 4 = 4.75; [−1.5, 2] with C_2: 2.25 + 4 = 6.25; in all 11. The mean
[[1, 2]] has 3 + 4 and 1 + 4: 12. With r = 1 both errors are 0, as the weights have one row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from torch import Tensor, nn

from trimodal.core import Change, Layout, Place, Site, Tower, Treatment
from trimodal.core.storage import BASE
from trimodal.errors import TrimodalError, UnreachedError
from trimodal.maths.error import bias_correction, quadratic_form
from trimodal.methods.factorize.eigen import fit_eigen_factors
from trimodal.methods.factorize.factored import center_second_moment, damp_second_moment
from trimodal.methods.method import Method, Mix
from trimodal.methods.options import option
from trimodal.models.blocks import split_block_inputs
from trimodal.models.foreign import run_forward
from trimodal.models.model import Batch, Model
from trimodal.statistics import Moment, split_rows_by_modality

Seen = Mapping[str, Moment]  # by modality
Group = tuple[Site, ...]


@dataclass(frozen=True)
class SharedConfig:
    """Options of `share.layers`."""

    times: int = option(2, "how many blocks use one weight", low=2, search=(2, 3, 4))
    kind: Literal["repeat", "cycle"] = option(
        "repeat", "which blocks: neighbours (AABB), or those equally far apart (ABAB)", choices=("repeat", "cycle")
    )
    rank: int = option(0, "rank of the correction that each block has of its own; 0 for none", low=0, search=(0, 8, 32))
    layers: str = option("*", "which layers of a block, a pattern over their roles such as up or cross.*")
    damping: float = option(0.01, "added to diag C, as a share of its mean", low=1e-6, high=1.0)


def find_sharing_groups(place: Place, config: SharedConfig) -> list[Group]:
    """The layers that are to use one weight each, ascending by block; those whose sharing pays."""
    tower = place.whole_tower
    if tower is None or not tower.blocks:
        return []
    apart = -(-len(tower.blocks) // config.times)
    found: dict[Any, list[Site]] = {}
    for site in place.sites:
        if site.block is not None and _is_shareable(site, config):
            number = site.block // config.times if config.kind == "repeat" else site.block % apart
            inside = site.path[len(tower.blocks[site.block]) :]
            found.setdefault((inside, number, site.shape, site.dtype), []).append(site)
    alike = (tuple(sorted(group, key=lambda site: site.block or 0)) for group in found.values())
    return [group for group in alike if len(group) > 1 and _saves_parameters(group, config.rank)]


def _is_shareable(site: Site, config: SharedConfig) -> bool:
    role = site.name.removeprefix(f"{site.tower}.{site.block}.")
    plain = site.kind == "linear" and site.stored == "dense" and not (site.tied or site.elsewhere or site.own_forward)
    return plain and fnmatchcase(role, config.layers)


def _saves_parameters(group: Group, rank: int) -> bool:
    rows, columns = group[0].shape
    return len(group) * rank * (rows + columns) < (len(group) - 1) * rows * columns


def refuse(place: Place, config: SharedConfig) -> str | None:
    """Why a tower is left alone."""
    if place.whole_tower is None or not place.whole_tower.blocks:
        return "only layers of a tower with blocks can share"
    if find_sharing_groups(place, config):
        return None
    if config.rank and find_sharing_groups(place, replace(config, rank=0)):
        return f"a correction of rank {config.rank} for each block takes more than sharing saves"
    named = "" if config.layers == "*" else f" that '{config.layers}' matches"
    return f"no plain linear layer{named} is of one shape in blocks that could share it"


def forecast(place: Place, config: SharedConfig) -> Sequence[Site]:
    """All sites; of those that share a weight the first has its bytes."""
    layout = Layout((), place.sites)
    for group in find_sharing_groups(place, config):
        if config.rank:
            parts = [part for site in group for part in site.split_into_factors("residual", _storage_options(site, config.rank))]
            layout = layout.replace_sites(group, parts)
        layout = layout.mark_weight_shared(_shared_paths(group, config.rank))
    return layout.sites


def _shared_paths(group: Group, rank: int) -> tuple[str, ...]:
    """Where the layers stand that use the weight."""
    return tuple(f"{site.path}.{BASE}" if rank else site.path for site in group)


def _storage_options(site: Site, rank: int) -> dict[str, Any]:
    return {"shape": list(site.shape), "dtype": site.dtype, **({"rank": rank} if rank else {})}


def fit_shared_weight(weights: Sequence[Tensor], moments: Sequence[Tensor | None]) -> Tensor:
    """Step 2 for W_i (m, n) and C_i (n, n), in float64; the plain mean where nothing was seen."""
    known = [(w.double(), c.double()) for w, c in zip(weights, moments, strict=True) if c is not None]
    if not known:
        return torch.stack([w.double() for w in weights]).mean(dim=0)
    both = torch.stack([w @ c for w, c in known]).sum(dim=0)
    whole = torch.stack([c for _, c in known]).sum(dim=0)
    found: Tensor = torch.cholesky_solve(both.T.contiguous(), torch.linalg.cholesky(whole)).T
    return found


def survey(model: Model, place: Place, batches: Sequence[Batch], mix: Mix, config: SharedConfig) -> Change:
    """Find the shared weights of the place's tower, and what each block keeps of its own.

    Raises:
        TrimodalError: the place is no tower.
    """
    treatments: dict[str, Treatment] = {}
    shared, notes = [], []
    lost: dict[str, float] = {}
    whole: dict[str, float] = {}
    if place.whole_tower is None:
        raise TrimodalError(f"{place.name} is no tower")
    for alike in _group_by_role(find_sharing_groups(place, config), place.whole_tower):
        seen = collect_layer_moments(model, [site for group in alike for site in group], batches)
        for group in alike:
            solved, note = _solve_group(model, group, [seen[site.path] for site in group], mix, config)
            treatments |= solved
            shared.append(_shared_paths(group, config.rank))
            notes.append(note)
            for site in group:
                _add_errors_(model, site, solved[site.path], seen[site.path], lost, whole)
    error = {name: max(lost[name], 0.0) / whole[name] if whole[name] > 0 else 0.0 for name in lost}
    return Change(treatments, shared=tuple(shared), notes=tuple(notes), error=error)


def _group_by_role(found: Sequence[Group], tower: Tower) -> list[list[Group]]:
    """The groups of one layer of the blocks after those of another, so that few moments are kept at a time."""
    roles: dict[str, list[Group]] = {}
    for group in found:
        roles.setdefault(group[0].path[len(tower.blocks[group[0].block or 0]) :], []).append(group)
    return list(roles.values())


def collect_layer_moments(model: Model, sites: Sequence[Site], batches: Sequence[Batch]) -> dict[str, dict[str, Moment]]:
    """The moments of what the layers at `sites`, all of one tower, are given, by path and modality.

    Raises:
        UnreachedError: no calibration sample ran through them.
    """
    found: dict[str, dict[str, Moment]] = {site.path: {} for site in sites}
    modality = model.layout.get_tower(sites[0].tower).modality
    codes: Mapping[str, Tensor] = {}

    def hook(site: Site) -> Any:
        def see(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            for name, rows in split_rows_by_modality(split_block_inputs(args, kwargs)[0], codes.get(site.stream), modality).items():
                found[site.path].setdefault(name, Moment(rows.shape[-1])).update(rows)

        return see

    handles = [
        model.module.get_submodule(site.path).register_forward_pre_hook(hook(site), with_kwargs=True) for site in sites
    ]
    try:
        for batch in batches:
            codes = model.family.tokens(model.module, batch)
            run_forward(model.module, batch)
    finally:
        for handle in handles:
            handle.remove()
    unseen = [path for path, moments in found.items() if not any(moment.tokens for moment in moments.values())]
    if unseen:
        raise UnreachedError(
            f"share.layers at {unseen[0]}: no calibration sample ran through it; give data that uses the {modality} tower"
        )
    return found


def _solve_group(
    model: Model, group: Group, seen: Sequence[Seen], mix: Mix, config: SharedConfig
) -> tuple[dict[str, Treatment], str]:
    """Steps 1 to 4 for one group, and a note on what sharing costs."""
    weights, biases = zip(*(_read_weight_and_bias(model, site) for site in group), strict=True)
    statistics = [mix(parts).fill_unseen() for parts in seen]
    moments = [damp_second_moment(statistic, bias, config.damping) for statistic, bias in zip(statistics, biases, strict=True)]
    dtype: torch.dtype = getattr(torch, group[0].dtype)
    base = fit_shared_weight(weights, moments).to(dtype)
    treatments = {}
    for site, weight, bias, statistic, moment in zip(group, weights, biases, statistics, moments, strict=True):
        own = weight.double() - base.double()  # (m, n)
        tensors = {"weight" if not config.rank else BASE: base}
        if config.rank:
            first, second, _ = fit_eigen_factors(own, moment, config.rank)
            tensors = {"first": first.to(dtype).contiguous(), "second": second.to(dtype).contiguous(), BASE: base}
            own = own - tensors["second"].double() @ tensors["first"].double()
        corrected = None
        if bias is not None:
            corrected = (bias + bias_correction(own, torch.zeros_like(own), statistic.mean)).to(dtype)
        kind = "residual" if config.rank else "dense"
        treatments[site.path] = Treatment(kind, _storage_options(site, config.rank), tensors, corrected)
    return treatments, _note_sharing_cost(group, weights, biases, statistics, base)


def _note_sharing_cost(
    group: Group, weights: Sequence[Tensor], biases: Sequence[Tensor | None], statistics: Sequence[Moment], base: Tensor
) -> str:
    """What one weight for all costs beside what their mean would, before any correction."""
    moments = [center_second_moment(statistic, bias) for statistic, bias in zip(statistics, biases, strict=True)]
    pairs = [(w.double(), c.double()) for w, c in zip(weights, moments, strict=True) if c is not None]
    energy = sum(quadratic_form(w, c) for w, c in pairs)
    mean = torch.stack(list(weights)).double().mean(dim=0)
    shared, plain = (sum(quadratic_form(w - x.double(), c) for w, c in pairs) for x in (base, mean))
    told = f"{shared / energy:.4f} of the output's energy lost, with the plain mean {plain / energy:.4f}" if energy else ""
    blocks = ", ".join(str(site.block) for site in group)
    return f"{group[0].name.removeprefix(f'{group[0].tower}.{group[0].block}.')} of blocks {blocks}: {told or 'no output'}"


def _read_weight_and_bias(model: Model, site: Site) -> tuple[Tensor, Tensor | None]:
    """Weight and bias in float32."""
    layer: Any = model.module.get_submodule(site.path)
    return layer.weight.detach().float(), None if layer.bias is None else layer.bias.detach().float()


def _add_errors_(
    model: Model, site: Site, treatment: Treatment, seen: Seen, lost: dict[str, float], whole: dict[str, float]
) -> None:
    """Add to `lost` and `whole` E‖Δy‖² and E‖Wx‖² of one layer, by modality."""
    weight, bias = _read_weight_and_bias(model, site)
    tensors = {name: tensor.double() for name, tensor in treatment.tensors.items()}
    after = tensors["second"] @ tensors["first"] + tensors[BASE] if BASE in tensors else tensors["weight"]
    change = weight.double() - after
    shift = None if bias is None or treatment.bias is None else bias.double() - treatment.bias.double()
    for name, moment in seen.items():
        error = quadratic_form(change, moment.second)
        if shift is not None:
            error += float(2 * shift @ (change @ moment.mean.double()) + shift @ shift)
        lost[name] = lost.get(name, 0.0) + error
        whole[name] = whole.get(name, 0.0) + quadratic_form(weight, moment.second)


METHOD = Method(
    name="share.layers",
    kind="share",
    paper="after Bae et al. 2024, arXiv 2410.20672, and Wang et al. 2024, arXiv 2410.03765",
    idea="Blocks use one weight, fitted to what all of them see, with a low-rank correction of each one's own.",
    config=SharedConfig,
    on="tower",
    refuse=refuse,
    wants=lambda place, config: "moment",
    forecast=forecast,
    compares_shapes=True,
    survey=survey,
)
