"""Try several options at one place: what a search asks for, and a person who wants to know before deciding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trimodal.compression.activations import Activations
from trimodal.compression.batches import make_sized_batches
from trimodal.compression.codebooks import assign_shared_tables
from trimodal.compression.sensitivity import gradient_sizes
from trimodal.compression.solve_context import SeenAt, SolveContext, Task, choose_observation
from trimodal.compression.trial import Trial, decline_place, try_task
from trimodal.core import Place, PlannedPlace, Sample
from trimodal.errors import RecipeError, suggest_names
from trimodal.methods import Method, get_method
from trimodal.methods.options import build_config
from trimodal.models.model import Model
from trimodal.planning import explain_held_weight, list_places
from trimodal.statistics import Balance

Option = str | Mapping[str, Mapping[str, Any]]


def open_context(
    model: Model, samples: Sequence[Sample] = (), original: Model | None = None, seed: int = 0, balance: Balance = "modality"
) -> SolveContext:
    """What `try_place` needs: `model` as it stands, which stays so, and calibration data.

    Args:
        model: what places are tried in.
        samples: calibration samples; without any, only what needs no data can be tried, and no output error is known.
        original: the model before any compression, which some methods compare inputs with; None if `model` is it.
        seed: of what methods draw at random.
        balance: how the samples' modalities are mixed into one statistic.
    """
    batches, whole = make_sized_batches(model, samples), original or model
    sizes = gradient_sizes(whole, batches, seed) if balance == "gradient" else {}
    activations = Activations(model, batches, Activations(whole, batches))
    return SolveContext(model, activations, (), samples, seed, balance, sizes)


def try_place(context: SolveContext, place: str, options: Sequence[Option]) -> list[Trial]:
    """What each of `options` would do at `place`, one trial per option and in their order. The model stays as it is, to the
    byte; the place's inputs are observed once for all options that want the same of them.

    Each trial has the `change`, its `error` by modality and `bytes_after`, or says why it is `declined`; `apply_trial_`
    carries one out. Places are best tried in running order: then no block runs more often than it has to. What a step
    decides over several places is decided for this one alone: it loses its own sparsity, and brings its own table.

    Args:
        context: from `open_context`.
        place: the place's name, as in a plan: a site's, a group of units', or a tower's.
        options: like a recipe's steps: a method's name, or `{name: {option: value}}`.

    Raises:
        RecipeError: there is no such method, option or place, or the method trains the whole model.

    Example:
        context = open_context(model, samples)
        for trial in try_place(context, "text.0.up", [{"quantize.rtn": {"bits": 4}}, {"quantize.gptq": {"bits": 3}}]):
            print(trial.task.method.name, trial.bytes_after, trial.error)
    """
    trials: list[Trial] = []
    seen: dict[Any, SeenAt] = {}
    for option in options:
        task, found = _make_task(context.model, place, option)
        reason = explain_held_weight(found) or task.method.refuse(found, task.config)
        if reason is not None:
            trials.append(decline_place(task, found, reason))
            continue
        (task,) = assign_shared_tables(context, [task])
        wanted = (task.planned.paths, choose_observation(task, found))
        if wanted not in seen:
            seen[wanted] = context.observe_places([task], [found])
        trials.append(try_task(context, task, seen[wanted]))
    return trials


def _make_task(model: Model, name: str, option: Option) -> tuple[Task, Place]:
    """The task for one option at the place called `name`, and that place."""
    ((called, values),) = ({option: {}} if isinstance(option, str) else option).items()
    method = get_method(called)
    config = build_config(method.config, values, called)
    found = _find_place(model, name, method)
    paths = tuple(site.path for site in found.sites)
    planned = PlannedPlace(name, paths, found.stored_bytes, found.stored_bytes, {}, fold=found.fold)
    return Task(0, method, config, planned), found


def _find_place(model: Model, name: str, method: Method) -> Place:
    if method.trains:
        raise RecipeError(f"{method.name} trains the whole model and cannot be tried at {name}")
    places = {place.name: place for place in list_places(model.layout, method)}
    if name not in places:
        raise RecipeError(f"{method.name} has no place '{name}' in this model; {suggest_names(name, places)}")
    return places[name]
