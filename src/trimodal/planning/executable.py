"""A plan that a person may have edited, walked as a recipe is: every place must exist, and its method must be able to work there.

What follows from the edits (bytes, certainty, running order, who stores a shared table) is reckoned anew, since a person who changes one
option will not reckon it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from trimodal.core import Edit, Layout, Place, Plan, PlannedPlace
from trimodal.errors import RecipeError, suggest_names
from trimodal.methods import Method, get_method
from trimodal.methods.options import build_config, config_to_dict
from trimodal.planning.planner import FOLDED_AWAY, EditDraft, limit_certainty, list_places


def check_edits(layout: Layout, edits: Sequence[Edit], data: bool, name: str = "the plan") -> tuple[Edit, ...]:
    """The edits of the plan called `name`, as they can be carried out; see `walk_edits`."""
    return walk_edits(layout, edits, data, name)[0]


def walk_edits(layout: Layout, edits: Sequence[Edit], data: bool, name: str = "the plan") -> tuple[tuple[Edit, ...], Layout]:
    """The edits of the plan called `name`, as they can be carried out on a model with `layout`, and its layout afterwards; `data`
    says whether there is any.

    Raises:
        RecipeError: an edit names a method, an option or a place that there is not, a place that its method declines, or
            needs data that is not there; naming where in the plan.
    """
    checked: list[Edit] = []
    for number, edit in enumerate(edits):
        where = f"{name}: edits[{number}]"
        method = get_method(edit.method, where)
        config = config_to_dict(build_config(method.config, edit.config, f"{where}.config"))
        if method.trains and not data:
            raise RecipeError(f"{where} ({method.name}) trains on calibration data, and there is none; give --data")
        draft = EditDraft(method, layout, tuple(checked))
        for at, found, options in _find_places(layout, method, edit, where):
            _take_place(draft, found, build_config(method.config, {**config, **options}, f"{at}.config"), config, data, at)
        layout = draft.layout
        names = {place.name for place in draft.planned}
        alone = tuple(declined for declined in edit.left_alone if declined.name not in names)
        checked.append(limit_certainty(checked, Edit(method.name, edit.where, config, tuple(draft.planned), alone), method))
    return tuple(checked), layout


def describe_recomputed(given: Plan, checked: Plan) -> str:
    """What `checked` says otherwise than the plan that was `given`, since it follows from the edits; empty if nothing."""
    known = {(number, place.name): place for number, edit in enumerate(given.edits) for place in edit.places}
    places = [(number, place) for number, edit in enumerate(checked.edits) for place in edit.places]
    other = [place.name for number, place in places if known.get((number, place.name)) != place]
    if not other and given.expected_tensor_bytes == checked.expected_tensor_bytes:
        return ""
    more = f" and {len(other) - 3} more places" if len(other) > 3 else ""
    at = f", at {', '.join(other[:3])}{more}" if other else ""
    return (
        f"recomputed from the plan's edits: {given.expected_tensor_bytes:,} → {checked.expected_tensor_bytes:,} bytes of tensors{at}, "
        "and what stays untouched"
    )


def _take_place(draft: EditDraft, found: Place, config: Any, base: dict[str, Any], data: bool, at: str) -> None:
    """Add one place to the draft, or say why that cannot be."""
    place = draft.locate_place(found)
    reason = FOLDED_AWAY if place is None else draft.explain_refusal(place, config)
    if place is None or reason is not None:
        raise RecipeError(f"{at}: {draft.method.name} cannot work at {found.name}: {reason}; take the place out of the plan")
    draft.add_place_(place, config, base)
    draft.check_data(data, f"{at} ({draft.method.name})")


def _find_places(layout: Layout, method: Method, edit: Edit, where: str) -> Iterator[tuple[str, Place, dict[str, Any]]]:
    """Where in the plan each place of an edit stands, the place in `layout`, and its own options; in running order."""
    candidates = list(list_places(layout, method)) if edit.places else []
    located: dict[int, tuple[str, dict[str, Any]]] = {}
    for number, planned in enumerate(edit.places):
        at = f"{where}.places[{number}]"
        index = _find_candidate(layout, method, planned, candidates, at)
        if index in located:
            raise RecipeError(f"{at} is {planned.name} again, which {located[index][0]} is; name each place once")
        located[index] = (at, planned.config)
    for index in sorted(located):
        at, options = located[index]
        yield at, candidates[index], options


def _find_candidate(layout: Layout, method: Method, planned: PlannedPlace, candidates: Sequence[Place], at: str) -> int:
    """The one of `candidates` that a plan means: by name, and by paths and fold where it gives these."""
    named = [index for index, place in enumerate(candidates) if place.name == planned.name and _is_fold(place, planned)]
    fitting = [index for index in named if not planned.paths or set(planned.paths) == {site.path for site in candidates[index].sites}]
    if len(fitting) == 1:
        return fitting[0]
    if len(fitting) > 1:
        raise RecipeError(f"{at}: {len(fitting)} places are called {planned.name}; say by `paths` which is meant")
    if named:
        paths = ", ".join(site.path for site in candidates[named[0]].sites)
        raise RecipeError(f"{at}.paths do not fit: {planned.name} stands for {paths:.300}; correct them, or leave `paths` out")
    raise RecipeError(f"{at}: there is no place '{planned.name}' for {method.name}; {_suggest_place(layout, planned.name, candidates)}")


def _is_fold(place: Place, planned: PlannedPlace) -> bool:
    """Whether `place` is the fold that a plan names, if it names one."""
    if planned.fold is None or place.fold is None:
        return planned.fold is None
    return (place.fold.what, place.fold.path) == (planned.fold.what, planned.fold.path)


def _suggest_place(layout: Layout, name: str, candidates: Sequence[Place]) -> str:
    """Why there is no place called `name`, or which could be meant."""
    fixed = next((fixed.reason for fixed in layout.uncuttable if fixed.label == name), None)
    if fixed is not None:
        return f"its units cannot be cut: {fixed}"
    if not candidates:
        return "by then the model has no place at all that it could work at"
    meant = suggest_names(name, [place.name for place in candidates])
    return meant if meant.startswith("did you mean") else f"its places are called like '{candidates[0].name}'"
