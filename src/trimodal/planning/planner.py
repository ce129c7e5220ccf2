"""From what the user asks for to what will happen: patterns become places, each by name, with its bytes.

Planning changes nothing and runs nothing, save that the neighbours which folding needs are watched beforehand
(`graph/fusion_discovery.py`). It walks the recipe with a layout in hand that it keeps up to date: after
a step that halves the neurons, the next step sees halved sites; after a factorisation it sees both factors.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from trimodal.core import (
    Certainty,
    DeclinedPlace,
    Edit,
    Fold,
    Layout,
    Place,
    PlannedPlace,
    Site,
    SkippedStep,
    lowest_certainty,
)
from trimodal.edits.fold import sites_of_fold
from trimodal.errors import RecipeError
from trimodal.methods import Method, get_method
from trimodal.methods.options import build_config, config_to_dict
from trimodal.methods.scope import rank_alone
from trimodal.planning.places import (
    NoPlaceError,
    explain_held_weight,
    explain_router,
    list_places,
    match_places,
    matches_pattern,
    place_of,
    quote_patterns,
    wants_uncuttable,
)
from trimodal.planning.recipe import Recipe, RecipeStep

__all__ = ["list_places", "place_of", "plan_edits", "plan_steps"]


def plan_edits(layout: Layout, recipe: Recipe, data: bool) -> tuple[tuple[Edit, ...], Layout]:
    """The recipe's steps as edits, and the layout as it will be after them; see `plan_steps`."""
    edits, _, layout = plan_steps(layout, recipe, data)
    return edits, layout


def plan_steps(layout: Layout, recipe: Recipe, data: bool) -> tuple[tuple[Edit, ...], tuple[SkippedStep, ...], Layout]:
    """The recipe's steps as edits, those that are optional and find nothing to do, and the layout as it will be after
    all of them. `data` says whether there is any.

    Raises:
        RecipeError: a pattern matches nothing, every place that it matches is declined, or a step needs data that
            is not there. Where a step is optional the first two are no errors, as long as any other step finds a place.
    """
    edits: list[Edit] = []
    skipped: list[SkippedStep] = []
    began, idle = layout, False
    for step in recipe.steps:
        if step.number == 1:
            began = layout
        if step.recovery and idle:
            continue
        try:
            edit, layout = _plan_step(layout, step, data, began, edits)
        except NoPlaceError as nothing:
            follows = step.method.on == "model" and bool(skipped)  # what it trains on was optional and found nothing either
            if not step.optional and not follows:
                raise RecipeError(f"{step.place} ({step.method.name}): {nothing.reason}") from None
            if not (idle and step.number > 1):  # the rest of a schedule of which nothing was said yet
                skipped.append(SkippedStep(step.place, step.method.name, nothing.reason))
            idle = True
            continue
        idle = False
        edits.append(limit_certainty(edits, edit, step.method))
    _check_any_place(recipe, edits, skipped)
    return tuple(edits), tuple(skipped), layout


def _check_any_place(recipe: Recipe, edits: Sequence[Edit], skipped: Sequence[SkippedStep]) -> None:
    """Refuse a recipe of which nothing is left but training."""
    if skipped and not any(edit.places for edit in edits):
        reasons = "; ".join(f"{step.method}: {step.reason}" for step in skipped[:3])
        raise RecipeError(f"{recipe.name} finds nothing to do in this model ({reasons}); choose another recipe")


def _plan_step(layout: Layout, step: RecipeStep, data: bool, began: Layout, earlier: Sequence[Edit]) -> tuple[Edit, Layout]:
    """The edit for `step`, and the layout after it; `began` is the layout when the step's schedule began, `earlier` are
    the edits before it."""
    method = step.method
    if method.trains and not data:
        raise RecipeError(f"{step.place} ({method.name}) trains on calibration data, and there is none; give --data")
    if method.on == "model":
        if (reason := method.unready(layout, step.config)) is not None:
            raise NoPlaceError(reason)
        return Edit(method.name, step.where, config_to_dict(step.config), ()), layout
    draft = EditDraft(method, layout, earlier)
    matching, left = match_places(layout, step)
    left += [DeclinedPlace(fixed.label, fixed.reason) for fixed in layout.uncuttable if wants_uncuttable(fixed, step)]
    left += _find_unmatched_exceptions(step, matching)
    for found in matching:
        place = draft.locate_place(found)
        if place is None:
            left.append(DeclinedPlace(found.name, FOLDED_AWAY))
            continue
        config = _config_for_place(step, place, began)
        reason = explain_router(place, step) or draft.explain_refusal(place, config)
        if reason is not None:
            left.append(DeclinedPlace(place.name, reason))
            continue
        draft.add_place_(place, config, config_to_dict(step.config))
        draft.check_data(data, f"{step.place} ({method.name})")
    if not draft.planned:
        reasons = dict.fromkeys(f"{alone.name}: {alone.reason}" for alone in left)
        why = f"{'; '.join(list(reasons)[:3])}{' …' if len(reasons) > 3 else ''}"
        raise NoPlaceError(f"nothing that {quote_patterns(step)} matches can be worked on; {why}")
    return Edit(method.name, step.where, config_to_dict(step.config), tuple(draft.planned), tuple(left)), draft.layout


FOLDED_AWAY = "a layer that it needs was folded into another"


@dataclass
class EditDraft:
    """An edit in the making: the `layout` as it will be after the places taken so far, and the `earlier` edits. A recipe's
    patterns and a plan's names become places through this alone."""

    method: Method
    layout: Layout
    earlier: Sequence[Edit]
    planned: list[PlannedPlace] = field(default_factory=list)
    _taken: list[tuple[Place, Any]] = field(default_factory=list)

    def locate_place(self, found: Place) -> Place | None:
        """`found`, seen before the first place was taken, as it stands now; None where a fold took a layer of it. Of two
        labels on one site the first may have been cut by now."""
        if found.fold is not None and sites_of_fold(found.fold, self.layout) is None:
            return None
        return replace(found, sites=tuple(self.layout.get_site(site.path) for site in found.sites))

    def explain_refusal(self, place: Place, config: Any) -> str | None:
        """Why the method cannot work at `place` with `config`; None if it can."""
        reason = explain_held_weight(place) or self.method.refuse(place, config)
        reason = reason or _explain_stale_fold(place.fold, self.earlier, self.planned)
        if reason is None and self.method.compares_shapes:
            return _explain_unknown_shapes(place, self.method.forecast(place, config), self.earlier)
        return reason

    def add_place_(self, place: Place, config: Any, base: Mapping[str, Any]) -> None:
        """Take `place` with `config`, of which the plan will say what differs from the edit's own, `base`."""
        if self.method.tables is not None:
            config = self.method.tables.assign_owner(place, config, self._taken)
        after, note = self.method.forecast(place, config), self.method.says(self.layout, place, config)
        self.layout = self.method.reshaped(self.layout.replace_sites(place.sites, after), place, config)
        self._taken.append((place, config))
        paths = tuple(site.path for site in place.sites)
        differing = {name: value for name, value in config_to_dict(config).items() if value != base[name]}
        sizes = place.stored_bytes, place.bytes_with(after)
        self.planned.append(PlannedPlace(place.name, paths, *sizes, differing, fold=place.fold, note=note))

    def check_data(self, data: bool, where: str) -> None:
        """Whether there is the `data` that the place taken last wants; `where` says who asks.

        Raises:
            RecipeError: there is none, and the method cannot do without.
        """
        place, config = self._taken[-1]
        if not data and not self.method.without_data and self.method.wants(place, config) is not None:
            raise RecipeError(
                f"{where} needs calibration data for {place.name}, and there is none; give --data, "
                "or use a method that needs none such as quantize.rtn"
            )


def _explain_stale_fold(fold: Fold | None, earlier: Iterable[Edit], here: Iterable[PlannedPlace]) -> str | None:
    """Why a fold that was found before the first step no longer holds after the `earlier` edits and those folded `here`
    already. What sites tell is left to the method: this is about tensors outside of them, and values that were equal."""
    if fold is None or fold.what not in ("scale", "twin", "idle"):
        return None
    edits = list(earlier)
    done = [place.fold for places in (*(edit.places for edit in edits), here) for place in places if place.fold]
    if any((other.what, other.path) == (fold.what, fold.path) for other in done):
        return "an earlier step folds it already"
    if fold.what == "scale":
        return None
    if fold.what == "idle":
        names = (name for other in done if other.what == "twin" for name in (other.path, *other.into))
        twin = next((name for name in names if name.rpartition(".")[0] == fold.path), None)
        return f"{twin} is stored once already" if twin and fold.tensor_bytes else None
    (kept,) = fold.into
    trains = next((edit.method for edit in edits if get_method(edit.method).trains), None)
    if trains is not None:
        return f"{trains} trains before that, and then it may differ from {kept}; fold before training"
    owners = {name.rpartition(".")[0] for name in (fold.path, kept)}
    other = next((o for o in done if o.what != "twin" and owners.intersection((o.path, *o.into))), None)
    return None if other is None else f"folding {other.path} changes it or {kept}"


def _explain_unknown_shapes(place: Place, after: Iterable[Site], earlier: Iterable[Edit]) -> str | None:
    """Why it is not known which layers of a tower will be of one shape: an earlier edit leaves open how much each loses."""
    left = set(after)
    doubts = [path for path, _ in _find_inexact_paths(earlier)]
    changed = (site for site in place.sites if site not in left)
    unsure = next((site for site in changed if any(f"{site.path}.".startswith(f"{path}.") for path in doubts)), None)
    if unsure is None:
        return None
    return (
        f"an earlier step leaves open how much {unsure.name} loses, so it is not known which blocks are of one shape; "
        "leave its scope or energy out"
    )


def _find_inexact_paths(earlier: Iterable[Edit]) -> list[tuple[str, Certainty]]:
    """The paths whose bytes `earlier` edits could but estimate, with what is known of them."""
    places = (place for edit in earlier for place in edit.places if place.certainty != "exact")
    return [(path, place.certainty) for place in places for path in place.paths]


def limit_certainty(earlier: Iterable[Edit], edit: Edit, method: Method) -> Edit:
    """`edit` with what the bytes of its places are worth: no more than those of `earlier` edits at the same sites."""
    doubts = _find_inexact_paths(earlier)

    def certainty(place: PlannedPlace) -> Certainty:
        own = method.certainty(build_config(method.config, {**edit.config, **place.config}, edit.method))
        return lowest_certainty(
            [own, *(c for path, c in doubts if any(f"{p}.".startswith(f"{path}.") for p in place.paths))]
        )

    return replace(edit, places=tuple(replace(place, certainty=certainty(place)) for place in edit.places))


def _config_for_place(step: RecipeStep, place: Place, began: Layout) -> Any:
    """The step's options at `place`: those of the last exception that fits it, else the step's own. Where an exception
    gives the sparsity, it is not left to a ranking; and in a schedule that removes units, it is a share of those left."""
    config = next((config for pattern, config in reversed(step.but) if matches_pattern(place, pattern)), step.config)
    given = getattr(config, "sparsity", None) != getattr(step.config, "sparsity", None)
    config = rank_alone(config) if given else config
    return _rescale_sparsity(config, place, began) if step.number and step.method.on in ("axis", "tower") else config


def _rescale_sparsity(config: Any, place: Place, began: Layout) -> Any:
    """The options with a sparsity that is a share of the units that `place` has now, not of those it had when the
    schedule began: units that were cut are gone, while a mask still counts what it has removed."""
    if place.whole_tower is not None:
        whole, left = len(began.get_tower(place.name).blocks), len(place.whole_tower.blocks)
    else:
        whole, left = (_count_units(sites, place.label) for sites in (began.sites, place.sites))
    stay = max(1, whole - round(whole * config.sparsity))
    return replace(config, sparsity=max(0.0, round(1 - stay / left, 12)))


def _count_units(sites: Iterable[Site], label: str | None) -> int:
    return next(axis.units for site in sites for axis in (site.input_axis, site.output_axis) if axis and axis.label == label)


def _find_unmatched_exceptions(step: RecipeStep, matching: list[Place]) -> Iterator[DeclinedPlace]:
    """The exceptions that fit none of the places, which only an optional step may have."""
    for pattern, _ in step.but:
        if any(matches_pattern(place, pattern) for place in matching):
            continue
        if not step.optional:
            raise RecipeError(
                f"{step.place} ({step.method.name}): the exception '{pattern}' matches none of the places that "
                f"{quote_patterns(step)} matches, such as '{matching[0].name}'"
            )
        yield DeclinedPlace(f"but {pattern}", "the exception matches none of the places")
