"""Try several options at one place: what a search asks for, and a person who wants to know before deciding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trimodal.compression.activations import Activations
from trimodal.compression.batches import make_sized_batches
from trimodal.compression.codebooks import assign_shared_tables
from trimodal.compression.sensitivity import gradient_sizes
from trimodal.compression.solve_context import SeenAt, SolveContext, Task, choose_observation, keep_modes
from trimodal.compression.trial import Trial, decline_place, try_task
from trimodal.core import Place, PlannedPlace, Sample
from trimodal.errors import InputError, RecipeError, suggest_names
from trimodal.methods import Method, get_method
from trimodal.methods.options import build_config
from trimodal.models.model import Model
from trimodal.planning import explain_held_weight, list_places
from trimodal.statistics import Balance

Option = str | Mapping[str, Mapping[str, Any]]


def open_context(
    model: Model, samples: Sequence[Sample] = (), original: Model | None = None, options: Sequence[Option] = (),
    seed: int = 0, balance: Balance = "modality",
) -> SolveContext:  # fmt: skip
    """What `try_place` needs: `model` as it stands, which stays so, and calibration data.

    Args:
        model: what places are tried in.
        samples: calibration samples; without any, only what needs no data can be tried, and no output error is known.
        original: a copy of the model before any compression, for methods that compare inputs with its (`target`), and for
            the balance `gradient`, which otherwise looks at `model`.
        options: those that will be tried at many places: gradients that they want are then taken for all places at once.
        seed: of what methods draw at random.
        balance: how the samples' modalities are mixed into one statistic.

    Raises:
        InputError: the model or the samples are names of such, or an option cannot be used.
    """
    _check_are_read(model, samples)
    batches = make_sized_batches(model, samples)
    whole = original or model
    with keep_modes(whole.module):
        sizes = gradient_sizes(whole, batches, seed) if balance == "gradient" else {}
    twin = None if original is None else Activations(original, batches)
    found = (_make_task(*_read_option(option), place) for option in options for place in _list_open_places(model, option))
    return SolveContext(model, Activations(model, batches, twin), list(found), samples, seed, balance, sizes)


def _check_are_read(model: Model, samples: Sequence[Sample]) -> None:
    """Refuse what would have to be opened or read first."""
    if not isinstance(model, Model):
        raise InputError(f"the model is a {type(model).__name__}; expected an opened one: trimodal.formats.open_model(MODEL)")
    wrong = samples if isinstance(samples, str) else next((s for s in samples if not isinstance(s, Sample)), None)
    if wrong is not None:
        raise InputError(f"among the samples is a {type(wrong).__name__}; expected those of trimodal.data.read_samples(DATA)")


def _list_open_places(model: Model, option: Option) -> Iterator[Place]:
    """The places where nothing speaks against `option`."""
    method, config = _read_option(option)
    return (place for place in list_places(model.layout, method) if _explain_refusal(place, method, config) is None)


def try_place(context: SolveContext, place: str, options: Sequence[Option]) -> list[Trial]:
    """What each of `options` would do at `place`, one trial per option and in their order. The model stays as it is, to the
    byte; the place's inputs are observed once for all options that want the same of them.

    Each trial has the `change`, its `error` by modality and `bytes_after`, or says why it is `declined`; `apply_trial_`
    carries one out. Places are best tried in running order: then no block runs more often than it has to, and what follows
    an applied trial sees what it gives; to go back to an earlier place after that, open a new context. What a step decides
    over several places is decided for this one alone: it loses its own sparsity, and brings its own table.

    Args:
        context: from `open_context`.
        place: the place's name, as in a plan: a site's, a group of units', or a tower's.
        options: like a recipe's steps: a method's name, or `{name: {option: value}}`.

    Raises:
        RecipeError: there is no such method, option or place, or the method trains the whole model.

    Example:
        context = open_context(open_model("MODEL"), read_samples("DATA"))
        for trial in try_place(context, "text.0.up", [{"quantize.rtn": {"bits": 4}}, {"quantize.gptq": {"bits": 3}}]):
            print(trial.task.method.name, trial.bytes_after, trial.error)
    """
    if isinstance(options, str | Mapping):
        raise RecipeError(f"the options to try are one, {options!r:.80}; expected a list of them")
    trials: list[Trial] = []
    seen: dict[Any, SeenAt] = {}
    for option in options:
        method, config = _read_option(option)
        found = _find_place(context.model, place, method)
        task = _make_task(method, config, found)
        reason = _explain_refusal(found, method, config)
        if reason is not None:
            trials.append(decline_place(task, found, reason))
            continue
        (task,) = assign_shared_tables(context, [task])
        wanted = (task.planned.paths, choose_observation(task, found))
        if wanted not in seen:
            seen[wanted] = context.observe_places([task], [found])
        trials.append(try_task(context, task, seen[wanted]))
    return trials


def _read_option(option: Option) -> tuple[Method, Any]:
    """The method, and its options as its config.

    Raises:
        RecipeError: it is neither a method's name nor a mapping with one method, or the method or its options cannot be used.
    """
    named = {option: {}} if isinstance(option, str) else option
    if not isinstance(named, Mapping) or len(named) != 1:
        raise RecipeError(f"an option is {named!r:.80}; expected a method's name, or a mapping of one method to its options")
    ((name, values),) = named.items()
    values = {} if values is None else values
    if not isinstance(name, str) or not isinstance(values, Mapping):
        raise RecipeError(f"{name} has the options {values!r:.80}; expected a mapping such as {{'bits': 4}}")
    method = get_method(name)
    if method.trains:
        raise RecipeError(f"{method.name} trains the whole model and cannot be tried at a place")
    return method, build_config(method.config, values, name)


def _explain_refusal(place: Place, method: Method, config: Any) -> str | None:
    return explain_held_weight(place) or method.refuse(place, config)


def _make_task(method: Method, config: Any, place: Place) -> Task:
    paths = tuple(site.path for site in place.sites)
    return Task(0, method, config, PlannedPlace(place.name, paths, place.stored_bytes, place.stored_bytes, {}, fold=place.fold))


def _find_place(model: Model, name: str, method: Method) -> Place:
    """The place called `name`, as it stands in the model."""
    places = {place.name: place for place in list_places(model.layout, method)}
    if name not in places:
        raise RecipeError(f"{method.name} has no place '{name}' in this model; {suggest_names(name, places)}")
    return places[name]
