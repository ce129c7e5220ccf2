"""Fewer tokens of an image or a sound for the decoder that reads them (VisionZip: Yang, Chen, Tian, Wang, Li, Yu, Jia 2024, arXiv
2412.04467; DivPrune: Alvar, Singh, Akbari, Zhang 2025, arXiv 2503.02175; LLaVA-PruMerge: Shang, Cai, Xu, Lee, Yan 2024, arXiv 2403.15388;
FastV: Chen, Zhao, Liu, Liu, Lin, Zhou, Chang 2024, arXiv 2403.06764).

Idea. LLaVA's 576 patches stand before some 30 words of a question, so the decoder mostly works on sky and wall. Let it read the patches
that matter. No weight changes, nothing is trained.

Problem. The projector makes X (N, d) of an image, which takes the place of N placeholders in the text. Of these choose k = N − round(N ·
`share`), so that the decoder answers as with all. Every image loses as many, so that a batch stays a batch.

Algorithm, `by`, before the decoder begins:
    attention   in the block of the tower that makes what the projector reads, a_j = mean over heads of softmax_j(q_cls k_jᵀ / √width);
                the k largest stay. A tower without a class token: a_j is the mean over all tokens that look. (VisionZip)
    diversity   tokens are picked one by one, each the one whose nearest among those picked is farthest, by 1 − cosine of X. (DivPrune)
    norm        the k largest ‖X_j‖ stay: what nothing needs to be known for.
or behind its first `block` blocks, once, where the prompt is read:
    question    a_j = mean over heads of the attention that the prompt's last token gives in the last of these blocks; of a text's N the k
                largest stay, for all images in it together. (FastV)
and the `rest`:
    discard     goes.
    join        each joins the nearest token that stays, by cosine of X, which becomes the mean. (PruMerge, with equal weights)
    context     16 % of the k are not chosen but spread evenly over what was not; these alone become means of what goes. (VisionZip)

The text keeps all its placeholders: processor and prompt are as they were. The decoder takes out what was not chosen, with its mask; what
is left keeps its position in the whole text. Scores come back for every token of the text: for one that was taken out those of the last one
before it that was read. So labels, loss and measures need not know. `layers/token_thinning.py` and `layers/question_thinning.py` say how.

Cost. attention: one row of one block's attention, or where there is no class token all rows of that block; question: one row. diversity:
N² d, and k comparisons of N. All are less than a block of the decoder, which saves N − k of its tokens in every block and in the cache.

Fails on small print and on counting, where every patch is read by itself: the papers lose most on text in images. What is chosen before
the decoder knows nothing of the question; what is chosen by the question may lack what the next one asks for.

Departs from the papers: positions are not numbered anew. VisionZip finds the nearest by keys, and adds the mean of what goes to a context
token instead of taking the mean with it; PruMerge chooses k for each image, which leaves no batch.

By hand. Attention (0.1, 0.4, 0.3, 0.2), share 0.5: tokens 1 and 2 stay. X = (1, 0), (2, 0), (0, 2), (1, 1) with `rest: join`: token 0 is
nearest to 1, which becomes the mean (1.5, 0); token 3 is as near to both and joins the first of them, which is then (4/3, 1/3).
"""

from __future__ import annotations

from dataclasses import dataclass

from trimodal.core import Change, Layout, Place, Thin
from trimodal.core.change import MOST_UNREAD, ChosenBy, Rest
from trimodal.errors import TrimodalError
from trimodal.maths.token_choice import count_kept_tokens
from trimodal.methods.method import Method, Pace, Weights
from trimodal.methods.options import option
from trimodal.statistics import Statistic


@dataclass(frozen=True)
class TokensConfig:
    """Options of `prune.tokens`."""

    share: float = option(
        0.5, "fraction of an image's or a sound's tokens that is not read, rounded; one always is", low=0.0, high=MOST_UNREAD,
        search=(0.25, 0.5, 0.75),
    )  # fmt: skip
    by: ChosenBy = option(
        "attention", "how tokens are chosen: by the attention they get in the tower, how unlike one another they are, their size, or what "
        "the end of the prompt looks at in the decoder",
        choices=("attention", "diversity", "norm", "question"),
    )  # fmt: skip
    rest: Rest = option(
        "discard", "what becomes of the others: nothing, means with the nearest that is read, or a few tokens in their place",
        choices=("discard", "join", "context"),
    )  # fmt: skip
    block: int = option(
        2, "by: question: after how many of the decoder's blocks, at most all but one; else tokens are chosen before the first", low=1,
    )  # fmt: skip


def refuse(place: Place, config: TokensConfig) -> str | None:
    """Why a tower is left alone."""
    tower = place.whole_tower
    if tower is None:
        return "only the tokens of a tower can be chosen from"
    if tower.whole_reading:
        return tower.whole_reading
    if config.by == "question" and config.rest != "discard":
        return f"by: question, the rest can only be discarded ({config.rest} is asked for)"
    if config.by != "question" and not tower.handed:
        return f"how many tokens an {tower.modality} gives varies, so they can be chosen inside of the decoder alone; give by: question"
    if config.by == "attention" and not {"query", "key"} <= {site.role for site in place.sites}:
        return "its attention has no queries and keys that could be seen; choose by diversity"
    return None


def say_what_is_read(layout: Layout, place: Place, config: TokensConfig) -> str:
    """Tokens and operations before and after, as far as they are known before anything runs."""
    reader, tower = layout.find_reader(place.name), place.whole_tower
    if reader is None or tower is None:
        return ""
    if not tower.handed:
        return f"{reader.name} reads {1 - config.share:.3g} of the {tower.modality} tokens"
    kept = count_kept_tokens(tower.handed, config.share)
    first = min(config.block, len(reader.blocks) - 1) if config.by == "question" else 0
    inside = [site for site in layout.sites if site.tower == reader.name and site.block is not None and site.kind != "norm"]
    behind = sum(site.rows * site.columns for site in inside if (site.block or 0) >= first)
    whole = sum(site.rows * site.columns for site in inside)
    before, after = tower.handed * whole, tower.handed * (whole - behind) + kept * behind
    where = f" behind {first} of its {len(reader.blocks)} blocks" if first else ""
    return (
        f"{reader.name} reads {kept:,} of {tower.handed:,} {tower.modality} tokens{where}; they take its layers {_format_macs(after)} of "
        f"{_format_macs(before)} GMACs"
    )


def _format_macs(count: int) -> str:
    """Multiply-accumulates in units of 10⁹."""
    return f"{count / 1e9:,.0f}" if count >= 1e11 else f"{count / 1e9:.3g}"


def solve(place: Place, weights: Weights, statistic: Statistic | None, config: TokensConfig) -> Change:
    """How tokens are chosen; which they are is decided anew for every input.

    Raises:
        TrimodalError: the place is no tower.
    """
    if place.whole_tower is None:
        raise TrimodalError(f"{place.name} is no tower")
    return Change(thin=Thin(place.name, config.share, config.by, config.rest, config.block if config.by == "question" else 0))


METHOD = Method(
    name="prune.tokens",
    kind="prune",
    paper="Yang et al. 2024, arXiv 2412.04467; Alvar et al. 2025, arXiv 2503.02175; Chen et al. 2024, arXiv 2403.06764",
    idea="Let a decoder read only the tokens of an image that matter, by attention or diversity; no weight changes, no data needed.",
    config=TokensConfig,
    on="tower",
    refuse=refuse,
    says=say_what_is_read,
    reshaped=lambda layout, place, config: layout.mark_tokens_thinned(place.name, config.by),
    pace=Pace(passes=0, products=0, cubes=0),
    exports=False,
    solve=solve,
)
