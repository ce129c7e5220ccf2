"""Exact folding: what two neighbours compute in two steps is computed in one, and the bytes of the other go.

Idea. A model that no longer learns carries what was there for learning: a batch norm behind every convolution, gains
behind every norm. They are linear maps next to other linear maps, and two linear maps are one.

Problem. Find W', b' with W' x + b' = (what both layers did) for every x; no statistic is needed and nothing is traded.
All that can go wrong is the structure: somebody else reads what is in between.

What is folded (x of n entries, W (m, n), see `maths/affine_folding.py`):
    norms      batch norm into the convolution or linear layer before it: W' = diag(g) W, b' = g b + β − g μ with
               g = γ / √(σ² + ε) (m,); Jacob et al. 2018, arXiv 1712.05877, section 3.2
    affine     weight γ and bias β of a layer or RMS norm into all the linear layers that read it: W' = W diag(γ),
               b' = b + W β; what is left of the norm has no weights. Saves few bytes; it is the first step of rotating
               (QuaRot, arXiv 2404.00456, section 3), and one scale less between the stream and a quantized weight
    linears    two linear layers with nothing between: W' = W₂ W₁, b' = b₂ + W₂ b₁, unless the product is larger
    scales     a scale per channel (LayerScale) into the layer before it: W' = diag(s) W
    twins      tensors of equal values, type and shape are stored once
    dead       layers with weights that never run; asked for only, see below

Dropout that is off and identities need nothing: they hand on the tensor that they are given and have no bytes.

What is dead. Nobody can see from outside that a layer will never run, only that it did not (`graph/unused_layers.py`): neither on
the data, nor on the model's own example, nor when the model is asked for features, generates, or gets labels. Another use
may need it: so by default the plan only lists such layers with their bytes, and `dead: true` removes them. In their place
stays a stub that says so when it is called. Even then stay layers of a tower that no sample used, those of which others of
the same kind did run (experts), the model's input and output embeddings, and whatever the model asks for its values.

Algorithm. 1. Before the plan is made the model runs once on calibration data (else on its own example, with noise for
zeros) and is watched (`graph/fusion_discovery.py`): which layer's output is read by whom, and by nothing else; how often each
runs; whether anybody else touches its weights. 2. Each candidate is computed in float64, rounded to the layer's type,
and compared with the two layers as they were, on the same inputs. More than 1e-5 relative (‖Δy‖/‖y‖): refused.
3. The rest become the plan's places, with exact bytes.

Cost: one forward pass of a few samples, and one product per fold. Fails, and is refused: weights in half precision
(rounding alone is more than 1e-5), a norm behind an activation, norms of which the residual stream is a reader (BERT),
outputs that the model or an inner model hands out, tied or quantized weights. Fold before anything else in a recipe.

By hand. W = [1, 2], b = 0, γ = 2, β = 1, μ = 3, σ² + ε = 4: g = 1, so W' = [1, 2] and b' = 1 − 3 = −2. For x = (1, 1):
before ((3 − 3) / 2) · 2 + 1 = 1, after 3 − 2 = 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trimodal.core import Change, Folded, Layout, Place, Site
from trimodal.edits.fold import fold_sites, forbid_stream_cuts
from trimodal.errors import TrimodalError
from trimodal.maths.affine_folding import fold_into_layers
from trimodal.methods.method import Method, Pace, Weights
from trimodal.methods.options import option
from trimodal.statistics import Statistic


@dataclass(frozen=True)
class ExactConfig:
    """Options of `fold.exact`."""

    norms: bool = option(True, "batch norms go into the layer before them")
    affine: bool = option(True, "weight and bias of norms go into the linear layers that read them")
    linears: bool = option(True, "two linear layers in a row become one")
    scales: bool = option(True, "scales per channel go into the layer before them")
    twins: bool = option(True, "tensors with equal values are stored once")
    dead: bool = option(False, "layers that never run, in nothing that could be tried, are removed")


_OPTION = {"norm": "norms", "affine": "affine", "linear": "linears", "scale": "scales", "twin": "twins", "idle": "dead"}


def refuse(place: Place, config: ExactConfig) -> str | None:
    """Why a fold is left alone."""
    fold = place.fold
    if fold is None or fold.reason:
        return "nobody has watched its neighbours" if fold is None else fold.reason
    if fold.what == "idle" and not config.dead:
        return f"never runs in what was seen; the option dead: true removes it and its {place.stored_bytes:,} bytes"
    if not getattr(config, _OPTION[fold.what]):
        return f"the option {_OPTION[fold.what]} is off"
    for site in place.sites:
        if site.stored != "dense":
            return f"{site.path} is already {site.stored}"
        if site.tied and fold.what != "twin":
            return f"the weight of {site.path} is tied to {site.tied[0]}"
    if sum(site.stored_bytes for site in forecast(place, config)) >= place.stored_bytes:
        return "what takes it over would need more bytes than it frees"
    return None


def forecast(place: Place, config: ExactConfig) -> Sequence[Site]:
    """The sites that are left."""
    return place.sites if place.fold is None else fold_sites(place.fold, place.sites)


def reshaped(layout: Layout, place: Place, config: ExactConfig) -> Layout:
    """The layout without the widths that can no longer be cut."""
    return layout if place.fold is None else forbid_stream_cuts(place.fold, place.sites, layout)


def solve(place: Place, weights: Weights, statistic: Statistic | None, config: ExactConfig) -> Change:
    """The weights and biases of the layers that take over.

    Raises:
        TrimodalError: the place is no fold.
    """
    fold = place.fold
    if fold is None:
        raise TrimodalError(f"{place.name} is no fold")
    said = f"folded into {', '.join(fold.into)}" if fold.into else "removed, as it never runs"
    return Change(fold=Folded(fold, fold_into_layers(fold, weights)), notes=(said,), error={"all": fold.error**2})


METHOD = Method(
    name="fold.exact",
    kind="fold",
    paper="Jacob, Kligys, Chen, Zhu, Tang, Howard, Adam, Kalenichenko 2018, arXiv 1712.05877",
    idea="Two linear maps in a row are one: norms, scales and doubles go, what is computed stays.",
    config=ExactConfig,
    on="fold",
    refuse=refuse,
    forecast=forecast,
    reshaped=reshaped,
    pace=Pace(passes=10, products=0, cubes=0),
    solve=solve,
)
