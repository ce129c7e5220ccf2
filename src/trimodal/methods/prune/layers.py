"""Whole blocks of a tower go (ShortGPT: Men, Xu, Zhang, Wang, Lin, Lu, Han, Chen 2024, arXiv 2403.03853; Gromov, Tirumala,
Shapourian, Glorioso, Roberts 2024, arXiv 2403.17887).

Idea. A block adds something to the stream that runs through all of them. Where what comes out points nearly where what
went in did, the block can be left out: no kernel gets faster than one that is not called.

Problem. A tower maps x_0 to x_n by x_{i+1} = f_i(x_i), with x_i (T, d). Choose k of the n blocks to leave out so that x_n,
over the tokens that are no padding, changes least.

Algorithm, by `score`:
    influence   BI_i = 1 − E_t cos(x_i[t], x_{i+1}[t]), all in one pass; the k smallest go. (ShortGPT)
    angular     d_l = E_t arccos(cos(x_l[t], x_{l+k}[t])) / π; the run of k neighbours l … l+k−1 with the smallest goes, as
                what follows it then gets almost what it got before. (Gromov et al.)
    divergence  k rounds; in each, for every block j that is left, the tower without it gives x_n', and the block with the
                smallest E‖x_n' − x_n‖² / E‖x_n‖² goes. x_n stays that of the whole tower. So what the first block that went
                did is not counted on when the next one is chosen.
Ties go to the first. Modalities are weighed as in all statistics (`calibration.balance`). The record shows the relative
squared error of x_n per modality, whichever score chose.

Cost. One batch's n + 1 states are kept at a time. influence and angular: one forward pass. divergence: one forward pass
and about n/2 passes of the tower for each of the k rounds (of what stands before a block nothing is run again): 24 blocks,
a quarter removed, some 60 passes of the tower.

Fails on what its score does not see. Angles know nothing of size: a block that only scales the stream has influence 0. They see one
block at a time: two blocks that each could go may not both. Error at x_n is dominated by few huge entries where a model
has such; the norm behind it would shrink them. A model whose blocks are few (12 of BERT) loses much with each: let `distill`
follow. Blocks of a Swin or ResNet differ in shape and stay.

Departs from the papers: ShortGPT weighs every token alike, and so does this, but for padding; Gromov et al. look at the
last token of each text only, which an image or a sound has not: here every token counts. `divergence` is measured at the
tower's end, as towers have no perplexity of their own. Blocks that nothing reads (LLaVA reads its vision tower before the
last one) go first, for nothing.

What counts blocks follows: the configuration (also its list of a type per block), a decoder's places in its cache, the
number of the block that is read, the blocks whose heads tell Whisper the times of words (`edits/alignment.py`).

By hand. One token, two blocks. x_0 = (3, 4), f_0 gives x_1 = (4, 3), f_1 adds (4, 0), so x_2 = (8, 3).
cos(x_0, x_1) = 24/25, BI_0 = 0.04; cos(x_1, x_2) = 41/(5√73) = 0.959737, BI_1 = 0.040263: by influence block 0 goes. By
divergence: without block 0 the end is (7, 4), error (1 + 1)/73 = 0.027397; without block 1 it is (4, 3), 16/73 = 0.219178:
block 0 again. By angle (k = 1): arccos(0.96)/π = 0.090334, arccos(0.959737)/π = 0.090634: block 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from trimodal.core import Change, Drop, Layout, Place, Site, Tower
from trimodal.errors import TrimodalError, UnreachedError
from trimodal.methods.method import Method, Mix
from trimodal.methods.options import option
from trimodal.models.blocks import BlockTrace, count_read_blocks, trace_blocks
from trimodal.models.model import Batch, Model
from trimodal.statistics import Moment, split_rows_by_modality

Score = Literal["influence", "divergence", "angular"]
Passages = Callable[[], Iterator[tuple[BlockTrace, Tensor | None]]]  # every batch, with what its tokens are
Seen = dict[str, Moment]


@dataclass(frozen=True)
class LayersConfig:
    """Options of `prune.layers`."""

    sparsity: float = option(
        0.25, "fraction of a tower's blocks removed, rounded; one always stays", low=0.0, high=1.0,
        search=(0.125, 0.25, 0.5),
    )  # fmt: skip
    score: Score = option(
        "influence", "how blocks are chosen: by what each turns, by the tower's end without them, or the best run of "
        "neighbours", choices=("influence", "divergence", "angular"),
    )  # fmt: skip


def count_kept_blocks(blocks: int, sparsity: float) -> int:
    """How many of `blocks` stay."""
    return max(1, blocks - round(blocks * sparsity))


def refuse(place: Place, config: LayersConfig) -> str | None:
    """Why a tower is left alone."""
    tower = place.whole_tower
    if tower is None or not tower.blocks:
        return "only a tower with blocks can lose some"
    if tower.whole_blocks:
        return tower.whole_blocks
    blocks = len(tower.blocks)
    if config.sparsity > 0 and count_kept_blocks(blocks, config.sparsity) == blocks:
        return f"{config.sparsity:g} of its {blocks} blocks, rounded, is none"
    return find_block_difference(place.sites, tower)


def find_block_difference(sites: Iterable[Site], tower: Tower) -> str | None:
    """In what the blocks of a tower differ, so that nobody can say beforehand what is saved when one of them goes."""
    inside = [site for site in sites if site.block is not None]
    tied = next((site for site in inside if site.tied or site.elsewhere or site.stored == "shared"), None)
    if tied is not None:
        return f"{tied.name} shares its weight; remove blocks before that"
    seen = [Layout((tower,), tuple(inside)).drop_blocks(tower.name, [block]).sites for block in range(len(tower.blocks))]
    for number, other in enumerate(seen):
        if [site.path for site in other] != [site.path for site in seen[0]]:
            return f"blocks 0 and {number} are made of different layers"
        for one, two in zip(seen[0], other, strict=True):
            if one != two:
                return f"blocks 0 and {number} differ in {one.role}, so what removing one saves is not known beforehand"
    return None


def forecast(place: Place, config: LayersConfig) -> Sequence[Site]:
    """The sites of the blocks that stay, which are alike whichever do.

    Raises:
        TrimodalError: the place is no tower.
    """
    if place.whole_tower is None:
        raise TrimodalError(f"{place.name} is no tower")
    left = count_kept_blocks(len(place.whole_tower.blocks), config.sparsity)
    return Layout((place.whole_tower,), place.sites).drop_blocks(place.name, range(left)).sites


def reshaped(layout: Layout, place: Place, config: LayersConfig) -> Layout:
    """The layout with fewer blocks."""
    return layout.drop_blocks(place.name, range(count_kept_blocks(len(layout.get_tower(place.name).blocks), config.sparsity)))


def survey(model: Model, place: Place, batches: Sequence[Batch], mix: Mix, config: LayersConfig) -> Change:
    """Choose the blocks of the place's tower that stay.

    Raises:
        TrimodalError: the place is no tower.
        UnreachedError: no calibration sample ran through it.
    """
    tower = place.whole_tower
    if tower is None:
        raise TrimodalError(f"{place.name} is no tower")

    def passages() -> Iterator[tuple[BlockTrace, Tensor | None]]:
        for batch in batches:
            found = trace_blocks(model.module, tower.blocks, batch)
            if found is not None:
                yield found, model.family.tokens(model.module, batch).get(tower.name)

    blocks = len(tower.blocks)
    read = count_read_blocks(model.module, tower)
    spared = blocks - count_kept_blocks(blocks, config.sparsity)
    idle = list(range(read, blocks))[:spared]
    gone, notes = CHOICES[config.score](passages, tower, read, spared - len(idle), mix)
    removed = sorted({*idle, *gone})
    kept = tuple(number for number in range(blocks) if number not in removed)
    change = measure_choice_errors(passages, tower, [[number for number in kept if number < read]], read)[0]
    if not change:
        raise UnreachedError(
            f"prune.layers at {tower.name}: no calibration sample ran through it; give data that uses the tower"
        )
    said = [f"removed {_name_blocks(removed)} of {blocks}, counted from 0", *notes]
    said += [f"nothing reads {_name_blocks(idle)}"] if idle else []
    error = {name: compute_relative_error(part) for name, part in change.items()}
    return Change(drop=Drop(tower.name, kept), error=error, notes=tuple(said))


def _name_blocks(numbers: Sequence[int]) -> str:
    return f"block{'s' if len(numbers) != 1 else ''} {', '.join(map(str, numbers)) or 'none'}"


def compute_token_cosines(a: Tensor, b: Tensor) -> Tensor:
    """cos of every token's angle between a and b (batch, tokens, width): (batch, tokens, 1), in float64."""
    return functional.cosine_similarity(a.double(), b.double(), dim=-1).clamp(-1, 1).unsqueeze(-1)


def choose_by_influence(passages: Passages, tower: Tower, read: int, count: int, mix: Mix) -> tuple[list[int], tuple[str, ...]]:
    """The `count` blocks with the smallest influence."""
    seen: list[Seen] = [{} for _ in range(read)]
    for found, codes in passages() if count else ():
        for i, part in enumerate(seen):
            _add_moments_(part, 1 - compute_token_cosines(found.states[i], found.states[i + 1]), codes, tower)
    scores = [float(mix(part).mean) for part in seen if part]
    chosen = _find_smallest(scores, count)
    return chosen, tuple(f"influence of block {i}: {scores[i]:.4g}" for i in sorted(chosen))


def choose_by_angle(passages: Passages, tower: Tower, read: int, count: int, mix: Mix) -> tuple[list[int], tuple[str, ...]]:
    """The `count` neighbours whose run turns the stream least."""
    seen: list[Seen] = [{} for _ in range(read - count + 1)]
    for found, codes in passages() if count else ():
        for start, part in enumerate(seen):
            angle = compute_token_cosines(found.states[start], found.states[start + count]).arccos() / math.pi
            _add_moments_(part, angle, codes, tower)
    scores = [float(mix(part).mean) for part in seen if part]
    if not scores:
        return [], ()
    (start,) = _find_smallest(scores, 1)
    return list(range(start, start + count)), (f"angular distance over the run: {scores[start]:.4g}",)


def choose_by_divergence(passages: Passages, tower: Tower, read: int, count: int, mix: Mix) -> tuple[list[int], tuple[str, ...]]:
    """Greedily the `count` blocks without which the tower's end changes least."""
    left, gone, notes = list(range(read)), list[int](), list[str]()
    for _ in range(count):
        found = measure_choice_errors(passages, tower, [[other for other in left if other != number] for number in left], read)
        if not all(found):
            break
        scores = [compute_relative_error(mix(part)) for part in found]
        (worst,) = _find_smallest(scores, 1)
        gone.append(left.pop(worst))
        notes.append(f"without block {gone[-1]} too the error is {scores[worst]:.4g}")
    return gone, tuple(notes)


CHOICES: Mapping[Score, Callable[[Passages, Tower, int, int, Mix], tuple[list[int], tuple[str, ...]]]] = {
    "influence": choose_by_influence, "angular": choose_by_angle, "divergence": choose_by_divergence,
}  # fmt: skip


def measure_choice_errors(passages: Passages, tower: Tower, choices: Sequence[Sequence[int]], read: int) -> list[Seen]:
    """For each of the `choices` of blocks to run, by modality the mean squares (2,) of the change at the tower's end and of
    the end itself. A choice begins where it parts from the one before, so neighbours should begin alike."""
    seen: list[Seen] = [{} for _ in choices]
    for found, codes in passages():
        whole = found.states[read].double()
        size = whole.square().sum(-1)
        ran, states = list[int](), [found.states[0]]
        for chosen, part in zip(choices, seen, strict=True):
            same = next((i for i, (a, b) in enumerate(zip(ran, chosen, strict=False)) if a != b), min(len(ran), len(chosen)))
            ran, states = ran[:same], states[: same + 1]
            for number in chosen[same:]:
                states.append(found.run_block(number, states[-1]))
                ran.append(number)
            change = (states[-1].double() - whole).square().sum(-1)
            _add_moments_(part, torch.stack((change, size), dim=-1), codes, tower)
    return seen


def compute_relative_error(moment: Moment) -> float:
    """Mean squared change over mean square."""
    change, size = moment.mean.tolist()
    return change / size if size > 0 else 0.0


def _add_moments_(seen: Seen, values: Tensor, codes: Tensor | None, tower: Tower) -> None:
    """Take in `values` (batch, tokens, n), each token for its modality and padding for none."""
    for name, rows in split_rows_by_modality(values, codes, tower.modality).items():
        seen.setdefault(name, Moment(rows.shape[-1])).update(rows)


def _find_smallest(scores: Sequence[float], count: int) -> list[int]:
    """The places of the `count` smallest, of equals the first."""
    return sorted(range(len(scores)), key=lambda i: scores[i])[:count]


METHOD = Method(
    name="prune.layers",
    kind="prune",
    paper="Men et al. 2024, ShortGPT, arXiv 2403.03853; angular: Gromov et al. 2024, arXiv 2403.17887",
    idea="Blocks that hardly turn what runs through them go as a whole; the tower gets shorter.",
    config=LayersConfig,
    on="tower",
    refuse=refuse,
    wants=lambda place, config: "moment",
    forecast=forecast,
    reshaped=reshaped,
    survey=survey,
)
