"""How: what a compression method is to the rest of the library. A frozen record, not a base class."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from trimodal.core import Certainty, Change, FitRecord, Layout, Place, Site
from trimodal.core.site import Kind as SiteKind
from trimodal.core.site import is_width
from trimodal.statistics import Moment, Statistic, StatisticKind

if TYPE_CHECKING:
    from torch import Tensor

    from trimodal.models.model import Batch, Model

Weights = Mapping[str, "Tensor"]
MethodKind = Literal["prune", "quantize", "factorize", "share", "merge", "fold", "distill", "train"]
Mix = Callable[[Mapping[str, Moment]], Moment]


@dataclass(frozen=True)
class Pace:
    """What solving a weight (m, n) takes, measured once: `passes` over the weight, and `products` · 2 m n² + `cubes` · 2 n³
    operations. The default is what column-wise rounding with feedback takes."""

    passes: float = 600
    products: float = 2
    cubes: float = 4

    @property
    def looks(self) -> bool:
        """Whether it does more than rounding, and so looks at the layers' inputs."""
        return bool(self.products or self.cubes)


@dataclass(frozen=True)
class SharedTables:
    """What a method says whose places can share one table of numbers.

    Attributes:
        uses: whether a place with this config shares a table.
        group_of: what is the same for all places of a step that share one.
        assign_owner: the config at a place when others of the step come before it: whether it stores the table or borrows it.
        gather: what one place puts into its table; like `solve`, but not for long.
        fit: the table (k,) for what its places have gathered.
        name_at: what the table is called among a method's weights, when the layer at this path stores it.
    """

    uses: Callable[[Any], bool]
    group_of: Callable[[Place, Any], Hashable]
    assign_owner: Callable[[Place, Any, Sequence[tuple[Place, Any]]], Any]
    gather: Callable[[Place, Weights, Statistic | None, Any], Any]
    fit: Callable[[Sequence[Any], Any], Tensor]
    name_at: Callable[[str], str]


@dataclass(frozen=True)
class InputChoice:
    """How one input is to be quantized for all layers that read it.

    Attributes:
        config: the options with what is settled now; they are those of all these layers.
        tensors: lent to the method with the weights of each.
        factor: what every column of the input (n,), float32, is to be multiplied by, and every layer's column divided by, before
            they are quantized; None where nothing is, or where each layer keeps the factor itself.
        note: for the records of these layers.
    """

    config: Any
    tensors: Mapping[str, Tensor]
    factor: Tensor | None = None
    note: str = ""


@dataclass(frozen=True)
class SharedInputs:
    """What a method says that quantizes inputs: how layers which read one input get it quantized once for all of them.

    Attributes:
        folds: whether factors of the columns may go into the layer before it (or norm), where that is exact.
        fit: the choice for places with one input, their weights, the statistic of the input and the options that they have in
            common. The last argument is None where factors cannot be folded, else (n,) int64: columns of one number are made
            by one channel of the layer before, and have one factor.
        join: the choices for one tensor that layers read in unlike patches, as those are that then quantize it alike.
    """

    folds: Callable[[Any], bool]
    fit: Callable[[Sequence[tuple[Place, Weights]], Statistic | None, Any, Tensor | None], InputChoice]
    join: Callable[[Sequence[InputChoice]], Sequence[InputChoice]] = lambda choices: choices


@dataclass(frozen=True)
class AdaptedPlace:
    """A place that is trained beside others: its options, and what `begin` made of it, by name."""

    place: Place
    config: Any
    start: Mapping[str, Tensor]


@dataclass(frozen=True)
class Adaptation:
    """What training at places came to: a record per step, by the name of each place the change that stores what was learned (an empty
    one where the weight took it up), or the reason why nothing was done there."""

    records: Sequence[FitRecord]
    changes: Mapping[str, Change]
    declined: Mapping[str, str]


@dataclass(frozen=True)
class Adapting:
    """What a method says that trains something at its places, of which each is stored anew afterwards.

    Attributes:
        begin: what a place begins with, from its weights (those of the model as it was by `path.original`) and its statistic.
        train: (student, teacher, places, batches, config, seed); changes weights in place, and gives what else is to change.
    """

    begin: Callable[[Place, Weights, Statistic | None, Any], Mapping[str, Tensor]]
    train: Callable[[Model, Model, Sequence[AdaptedPlace], Callable[[int], Sequence[Batch]], Any, int], Adaptation]


@dataclass(frozen=True, repr=False)
class Method:
    """One method, of one of four shapes, by the one that it has of `solve`, `survey`, `fit` and `adapt`.

    A *solving* method has `solve(place, weights, statistic, config) -> Change`: pure and deterministic, tensors
    in, tensors out. `weights` maps `path.weight` and `path.bias` of the place's sites to their tensors in float32, and
    of a `sparse` site `path.mask` to the mask (rows, columns) of the weights that are left; where the layers of a tower
    share a table of numbers, `path.levels` is that table (2^bits,), with the path of the layer that stores it;
    `statistic` is what `wants` asked for, taken at the place's observed site, or None. A *gradient* method has
    `fit(student, teacher, batches, config, seed) -> records` and changes the student. A *surveying* method looks
    at a whole tower, or at all that shares an axis label: `survey(model, place, batches, mix, config) -> Change` runs the
    calibration batches through the model as it stands when its turn has come, and leaves it as it was; `mix` weighs
    moments per modality into one. An *adapting* method has places like a solving one, and trains the whole model with something at each
    of them (`Adapting`).

    Attributes:
        name: how recipes call it, `kind.name`.
        paper: authors, year, identifier.
        idea: one sentence.
        config: the frozen dataclass of its options.
        on: what one place is: a `site`, the sites that share an axis label ending in `unit`, a `tower`, the sites of one
            `fold`, or the whole `model`.
        refuse: reason why it cannot work at this place with this config, or None.
        wants: the statistic it needs of the observed site's input, or None; of a surveying method whether it needs data.
        without_data: what is lost where there is no data for the statistic that it wants; empty if it cannot do without.
        forecast: the sites as they will stand afterwards, with shapes and stored bytes, from the place alone.
        certainty: what the forecast's bytes are worth with this config.
        scores: one number per unit of the place (or weight, if it is a site) that is still there, in any order: what its
            removal costs, comparable with other places'. None where there is no such number. Methods with a `scope` have it.
        reshaped: the layout after it, where more changes than the place's sites.
        says: what a plan should say of a place beside its bytes, from the layout before it; empty where that is all.
        compares_shapes: whether it works on layers of one shape, so that it must be known what shapes earlier steps leave.
        tables: where its places can share a table of numbers, all about that.
        inputs: where it quantizes inputs, how layers with one input share what it chooses.
        pace: what it takes, for the estimate of a plan's time.
        unready: of a gradient method, why it cannot train a model of this layout; None if it can.
        exports: whether any export format can say what it leaves behind.
    """

    name: str
    kind: MethodKind
    paper: str
    idea: str
    config: type
    on: Literal["site", "axis", "tower", "fold", "model"] = "site"
    unit: str = ""
    refuse: Callable[[Place, Any], str | None] = lambda place, config: None
    wants: Callable[[Place, Any], StatisticKind | None] = lambda place, config: None
    without_data: str = ""
    forecast: Callable[[Place, Any], Sequence[Site]] = lambda place, config: place.sites
    certainty: Callable[[Any], Certainty] = lambda config: "exact"
    scores: Callable[[Place, Weights, Statistic | None, Any], Tensor | None] | None = None
    reshaped: Callable[[Layout, Place, Any], Layout] = lambda layout, place, config: layout
    says: Callable[[Layout, Place, Any], str] = lambda layout, place, config: ""
    compares_shapes: bool = False
    tables: SharedTables | None = None
    inputs: SharedInputs | None = None
    pace: Pace = Pace()
    unready: Callable[[Layout, Any], str | None] = lambda layout, config: None
    exports: bool = True
    solve: Callable[[Place, Weights, Statistic | None, Any], Change] | None = None
    fit: Callable[[Model, Model, Callable[[int], Sequence[Batch]], Any, int], Iterable[FitRecord]] | None = None
    survey: Callable[[Model, Place, Sequence[Batch], Mix, Any], Change] | None = None
    adapt: Adapting | None = None

    def __post_init__(self) -> None:
        if sum(function is not None for function in (self.solve, self.survey, self.fit, self.adapt)) != 1:
            raise TypeError(f"{self.name} must have one of solve, survey, fit and adapt")

    @property
    def trains(self) -> bool:
        """Whether it trains the whole model, in place of solving a place of it."""
        return self.fit is not None or self.adapt is not None

    def __repr__(self) -> str:
        return f"<Method {self.name}: {self.idea}>"


def needs_dense(site: Site) -> str | None:
    """The reason why a site whose weight is no longer a plain tensor is left alone, or None."""
    if site.kind == "norm":
        return "a norm's few weights stay as they are"
    if site.stored == "codebook":
        return "already quantized (with a codebook)"
    return None if site.stored == "dense" else f"already {site.stored}"


def needs_dense_or_sparse(site: Site) -> str | None:
    """The reason why a site is left alone by what works on plain and on pruned weights, or None."""
    return None if site.kind != "norm" and site.stored == "sparse" else needs_dense(site)


def works_on(method: Method) -> str:
    """What one place of `method` can be, in words; for layers, asked of the method itself."""
    if method.on != "site":
        whole = {"model": "the whole model", "tower": "tower", "fold": "a layer and its neighbours"}
        return whole.get(method.on, f"{method.unit} of a {'tower' if is_width(f'.{method.unit}') else 'block'}")
    shapes: dict[SiteKind, tuple[int, ...]]
    shapes = {"linear": (64, 64), "conv": (64, 64, 3, 3), "embedding": (64, 64), "experts": (128, 64)}
    sites = [Site("layer", "", None, "", kind, shape, groups=2 if kind == "experts" else 1) for kind, shape in shapes.items()]
    kinds = [site.kind for site in sites if method.refuse(Place("", (site,)), method.config()) is None]
    return ", ".join(kinds)
