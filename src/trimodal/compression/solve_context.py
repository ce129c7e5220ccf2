"""What a method is given at a place: the weights, and the statistic that it wants, of the model as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from trimodal.compression.activations import Activations
from trimodal.compression.sensitivity import Examples, mask_gradients, weight_gradients
from trimodal.core import Change, Edit, Place, PlannedPlace, Sample, Site
from trimodal.data import batch_samples as make_batches
from trimodal.edits.fold import collect_fold_tensors
from trimodal.errors import TrimodalError, UnreachedError
from trimodal.layers import SparseWeight
from trimodal.methods import Method, get_method
from trimodal.methods.options import build_config
from trimodal.models.model import Model, device_of
from trimodal.planning import place_of
from trimodal.statistics import (
    Balance,
    ColumnNorm,
    GroupedMoment,
    MaskGradient,
    Moment,
    Seen,
    Statistic,
    StatisticKind,
    WeightGradient,
    mix_grouped,
    mix_moments,
)

GRADIENT_SAMPLES = 64
_LEAST, _MOST = 2.0**-60, 2.0**60
SeenAt = Mapping[str, Mapping[str, Seen]]


@dataclass(frozen=True)
class Task:
    """One place of one edit; `note` goes into its record, and what is `lent` (a table of numbers, the range of an input) is given
    to its method with the weights."""

    edit: int
    method: Method
    config: Any
    planned: PlannedPlace
    note: str = ""
    lent: Mapping[str, Tensor] = field(default_factory=dict)


def make_tasks(number: int, edit: Edit) -> list[Task]:
    """The tasks of edit `number`, in running order."""
    used = get_method(edit.method)
    return [
        Task(number, used, build_config(used.config, {**edit.config, **planned.config}, edit.method), planned)
        for planned in edit.places
    ]


@dataclass(frozen=True)
class Problem:
    """What a method is given at a place: the `weights` of its sites in float32 by name, and the `statistic` that it wants, if
    there is one."""

    task: Task
    place: Place
    weights: Mapping[str, Tensor]
    statistic: Statistic | None

    def solve(self) -> Change:
        """What the method makes of it.

        Raises:
            TrimodalError: the method solves nothing by itself.
        """
        solve = self.task.method.solve
        if solve is None:
            raise TrimodalError(f"{self.task.method.name} has nothing to solve at {self.place.name}")
        return solve(self.place, {**self.weights, **self.task.lent}, self.statistic, self.task.config)

    def score_units(self) -> Tensor | None:
        """What the removal of each unit costs, (k,) for the units that are left; None where the method cannot say."""
        scores = self.task.method.scores
        return None if scores is None else scores(self.place, self.weights, self.statistic, self.task.config)


@dataclass
class SolveContext:
    """What the methods of one sweep over `model` are given; `tasks` are all of the sweep's. Of `samples`, which `activations`
    has in batches, gradients are taken one by one; `sizes` are those of the outputs' gradients per path and modality, for
    balance `gradient`."""

    model: Model
    activations: Activations
    tasks: Sequence[Task]
    samples: Sequence[Sample]
    seed: int
    balance: Balance
    sizes: Mapping[str, Mapping[str, float]]
    _gradients: Mapping[str, WeightGradient] = field(default_factory=dict, init=False)
    _masks: Mapping[str, MaskGradient] = field(default_factory=dict, init=False)

    def find_place(self, task: Task) -> Place:
        """The task's place as it stands in the model now."""
        return place_of(self.model.layout, task.method, task.planned)

    def observe_places(self, tasks: Sequence[Task], places: Sequence[Place], errors: bool = True) -> SeenAt:
        """Statistics of the inputs at the `places` of `tasks`, by path and modality. With `errors` the second moment is
        taken everywhere, asked for or not, so that output errors can be measured; of an embedding which rows were used,
        and of a convolution in groups the moment of each. Of what a method surveys or folds nothing is taken."""
        wants: dict[str, StatisticKind] = {}
        for task, place in zip(tasks, places, strict=True):
            if not self.activations.batches or not _is_observed(task, place):
                continue
            site = place.observed_site
            if errors:
                wants |= _statistics_for_errors(place)
            if has_moment(site) and (errors or task.method.wants(place, task.config) not in (None, "gradient", "mask")):
                wants[site.path] = choose_observation(task, place)
            elif site.is_grouped and task.method.wants(place, task.config) == "grouped":
                wants[site.path] = "grouped"
        seen: dict[str, Mapping[str, Seen]] = {}
        here = [place for task, place in zip(tasks, places, strict=True) if _is_observed(task, place)]
        observed = [place.observed_site for place in here if place.observed_site.path in wants]
        observed += [replace(s, path=path) for s in observed if s.kind == "embedding" for path in s.tied if path in wants]
        with keep_modes(self.model.module):
            for _, sites in groupby(sorted(observed, key=locate_block), key=locate_block):
                seen |= self.activations.collect_statistics(list(sites), wants)
        return seen

    def iterate_problems(self, pairs: Sequence[tuple[Task, Place]], what: str, tell: Callable[[str], None]) -> Iterator[Problem]:
        """What the methods of `pairs` are given with the model as it is, before anything is solved. Neighbours in one block
        are observed together, and no output error can be told from it; `tell` hears `what` this is for, and where."""
        for _, group in groupby(pairs, key=lambda pair: locate_block(pair[1].observed_site)):
            tasks, places = zip(*group, strict=True)
            tell(f"{tasks[0].method.name}: {what} {places[0].name}")
            seen = self.observe_places(tasks, places, errors=False)
            for task, place in zip(tasks, places, strict=True):
                statistic = self.select_statistic(task, place, seen.get(place.observed_site.path, {}))
                yield Problem(task, place, self.read_weights(place), statistic)

    def read_weights(self, place: Place) -> dict[str, Tensor]:
        """What a method may read at a place, in float32 by name: weights and biases of its sites; of a fold all tensors of
        its layers; of a whole tower nothing."""
        if place.fold is not None:
            return collect_fold_tensors(self.model.module, place.fold)
        return {} if place.whole_tower is not None else weights_of(self.model, place)

    def select_statistic(self, task: Task, place: Place, seen: Mapping[str, Seen]) -> Statistic | None:
        """What the task's method wants, out of what was `seen` at its place; None where it wants nothing, or can do
        without what no data was there for. Columns that no token reached are filled in, see `maths/unseen.py`; of a
        layer that no sample came to (its tower's modality is missing, or its weight is read without a call) that is all.

        Raises:
            UnreachedError: the method needs real rows of the input, and none came there.
        """
        wanted = task.method.wants(place, task.config)
        if wanted is None:
            return None
        moments = {name: part for name, part in seen.items() if isinstance(part, Moment)}
        grouped = {name: part for name, part in seen.items() if isinstance(part, GroupedMoment)}
        site, gradients = place.observed_site, self.sizes.get(place.observed_site.path)
        found: Statistic | None = None
        if wanted == "gradient":
            found = self._get_gradient(place)
        elif wanted == "mask":
            found = self._get_mask_gradient(place)
        elif moments:
            found = mix_moments(moments, self.balance, gradients)
        elif grouped:
            found = mix_grouped(grouped, self.balance, gradients)
        elif wanted == "grouped" and self.samples:
            found = GroupedMoment(site.groups, site.columns)
        elif wanted != "sample" and self.samples and has_moment(site):
            found = Moment(site.columns, device=device_of(self.model.module))
        if isinstance(found, ColumnNorm | Moment | GroupedMoment | WeightGradient):
            found = found.fill_unseen()
        if found is None and (self.samples or not task.method.without_data):
            raise UnreachedError(
                f"{task.method.name} at {place.name}: no calibration sample ran through it; give data that uses the "
                f"{place.observed_site.tower} tower, or leave the place out if its weight is read without a call"
            )
        return found

    def _get_gradient(self, place: Place) -> WeightGradient | None:
        """The gradient of the place's observed weight. Where it is not known, or is of a weight that was cut since, it is
        taken for all plain weights that this sweep ranks so, at the model as it is now."""
        site = place.observed_site
        path, shape = site.path, (site.rows, site.columns)
        known = self._gradients.get(path)
        if known is None or (known.rows, known.columns) != shape:
            paths = [p.observed_site.path for p in self._find_places_wanting("gradient")]
            paths += [path] if site.stored == "dense" else []
            self._gradients = weight_gradients(self.model, self._make_examples(), dict.fromkeys(paths), self.seed)
        return self._gradients.get(path)

    def _get_mask_gradient(self, place: Place) -> MaskGradient | None:
        """The gradient of the masks of the place's units; like `_get_gradient`, for all places that want theirs at once."""
        axis = place.observed_site.input_axis
        known = self._masks.get(place.name)
        if self.samples and (known is None or axis is None or known.units != axis.units_of(place.name)):
            readers = {
                p.name: {site.path: torch.tensor(site.unit_columns(p.name)) for site in p.consumers}
                for p in (*self._find_places_wanting("mask"), place)
            }
            self._masks = mask_gradients(self.model, self._make_examples(), readers, self.seed)
        return self._masks.get(place.name)

    def _find_places_wanting(self, kind: StatisticKind) -> list[Place]:
        """The places of this sweep, of plain weights as they are now, whose methods want `kind`."""
        plain = {site.path for site in self.model.layout.sites if site.stored == "dense"}
        tasks = [(task, self.find_place(task)) for task in self.tasks if plain.issuperset(task.planned.paths)]
        return [place for task, place in tasks if task.method.wants(place, task.config) == kind]

    def _make_examples(self) -> Examples:
        """Up to 64 samples, each with the batch that it makes alone."""
        samples = self.samples[:: -(-len(self.samples) // GRADIENT_SAMPLES)] if self.samples else ()
        return ((sample, batch) for sample in samples for batch in make_batches(self.model, [sample], 1))


@contextmanager
def keep_modes(module: nn.Module) -> Iterator[None]:
    """Meanwhile parts of `module` may be set to training or evaluation; afterwards they are what they were."""
    was = [(part, part.training) for part in module.modules()]
    try:
        yield
    finally:
        for part, training in was:
            part.training = training


def choose_observation(task: Task, place: Place) -> StatisticKind:
    """What is taken of the place's input: what the method wants, or the second moment where that tells as much."""
    wanted = task.method.wants(place, task.config)
    return "moment" if wanted is None or wanted in ("norm", "gradient", "mask") else wanted


def _is_observed(task: Task, place: Place) -> bool:
    """Whether the input of the place's observed site says anything: not of towers and folds, and not to what surveys."""
    return place.whole_tower is None and place.fold is None and task.method.survey is None


def has_moment(site: Site) -> bool:
    """Whether the site's input has one second moment."""
    return site.kind in ("linear", "conv") and site.groups == 1


def _statistics_for_errors(place: Place) -> dict[str, StatisticKind]:
    """What tells the error of a site that no method takes statistics of. What is tied to an embedding, its own way to read
    the same weight, is seen there."""
    site = place.observed_site
    if site.kind == "embedding":
        return dict.fromkeys((site.path, *site.tied), "uses")
    return {site.path: "grouped"} if site.is_grouped and place.label is None else {}


def locate_block(site: Site) -> tuple[str, int]:
    """Where the site runs: its tower and block, -1 outside of blocks."""
    return site.tower, -1 if site.block is None else site.block


def find_number_overflow(place: Place, weights: Mapping[str, Tensor]) -> str | None:
    """Why the numbers of a place, weights float32 (rows, columns, …), cannot be computed with: so large or so small that their
    squares, or what a method makes of them in their own type, would overflow or vanish. None if they can."""
    for site in place.sites:
        weight = weights.get(f"{site.path}.weight")
        largest = 0.0 if weight is None or not weight.numel() else float(weight.abs().max())
        most = min(_MOST, torch.finfo(getattr(torch, site.dtype)).max / 4)
        if largest and not _LEAST <= largest <= most:
            return f"the largest weight of {site.name} is {largest:.3g}, and computing needs {_LEAST:.2g} to {most:.2g}"
    return None


def weights_of(model: Model, place: Place) -> dict[str, Tensor]:
    """Weight and bias of every site of the place and the parameters beside them, in float32, and the mask of what is pruned."""
    found = {bare.path: model.module.get_parameter(bare.path).detach().float() for bare in place.free_parameters}
    for site in place.sites:
        layer = model.module.get_submodule(site.path)
        for name in ("weight", "bias"):
            tensor = getattr(layer, name, None)
            if isinstance(tensor, Tensor):
                found[f"{site.path}.{name}"] = tensor.detach().float()
        if isinstance(stored := getattr(layer, "stored", None), SparseWeight):
            found[f"{site.path}.mask"] = stored.kept_mask
    return found
