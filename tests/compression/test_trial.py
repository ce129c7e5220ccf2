"""Trials: several options at one place, what is declined, and that only what still holds is applied."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from trimodal.compression import apply_trial_, open_context, solve_context, try_place
from trimodal.compression.activations import Activations
from trimodal.compression.changed_weight import decode_treatment
from trimodal.compression.solve_context import SolveContext
from trimodal.core import Treatment
from trimodal.core.record import LEFT_ALONE
from trimodal.errors import InputError, RecipeError, TrimodalError
from trimodal.methods import METHODS, Method
from trimodal.models.model import Model
from trimodal.networks.tiny import make_miniature_batch

UP = "text.0.up"


@pytest.fixture
def context(tiny_model: Callable[..., Model], stand_in_samples: Any) -> Iterator[SolveContext]:
    """A decoder with data."""
    with stand_in_samples([make_miniature_batch("llama", 4, seed) for seed in (1, 2)]) as samples:
        yield open_context(tiny_model("llama"), samples, original=tiny_model("llama"))


def test_each_option_gets_the_trial_that_it_would_get_alone(context: SolveContext) -> None:
    options: list[Any] = [
        *({"quantize.rtn": {"bits": bits}} for bits in (3, 4, 8)), {"quantize.gptq": {"bits": 3}},
        {"quantize.learned": {"bits": 3, "steps": 3}}, {"prune.wanda": {}}, {"prune.gradient": {}}, "factorize.eigen",
    ]  # fmt: skip
    together = try_place(context, UP, options)
    for option, trial in zip(options, together, strict=True):
        (alone,) = try_place(context, UP, [option])
        assert (alone.error, alone.bytes_after, alone.after) == (trial.error, trial.bytes_after, trial.after)
    assert [trial.bytes_after for trial in together[:3]] == sorted(trial.bytes_after for trial in together[:3])
    errors = [trial.error["text"] for trial in together[:4]]
    assert errors[0] > errors[3] > errors[1] > errors[2] > 0, "more bits lose less, and with feedback less is lost"


def test_what_options_want_alike_is_observed_once(context: SolveContext, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    collect = Activations.collect_statistics

    def counted(self: Activations, sites: Any, wants: Any) -> Any:
        asked.append(dict(wants))
        return collect(self, sites, wants)

    monkeypatch.setattr(Activations, "collect_statistics", counted)
    try_place(context, UP, [{"quantize.gptq": {"bits": bits}} for bits in (2, 3, 4)] + ["prune.wanda", "factorize.eigen", "quantize.rtn"])
    assert len(asked) == 1
    try_place(context, UP, ["quantize.gptq", {"quantize.gptq": {"target": 0.5}}])
    assert len(asked) == 3 and len(set(map(str, asked[1:]))) == 2, "what the original is given there is asked for once more"


@pytest.mark.parametrize(("option", "places", "taken"), [
    ({"prune.gradient": {}}, (UP, "text.1.up"), "weight_gradients"),
    ({"prune.neurons": {"score": "fisher"}}, ("text.0.neurons", "text.1.neurons"), "mask_gradients"),
])  # fmt: skip
def test_gradients_are_taken_once_for_all_places_where_the_options_are_known(
    context: SolveContext, monkeypatch: pytest.MonkeyPatch, option: Any, places: Any, taken: str
) -> None:
    calls: list[int] = []
    take = getattr(solve_context, taken)

    def counted(model: Model, examples: Any, of: Any, seed: int) -> Any:
        calls.append(len(of))
        return take(model, examples, of, seed)

    monkeypatch.setattr(solve_context, taken, counted)
    known = open_context(context.model, context.samples, options=[option])
    together = [try_place(known, place, [option])[0] for place in places]
    assert len(calls) == 1 and calls[0] > 1
    alone = [try_place(open_context(context.model, context.samples), place, [option])[0] for place in places]
    assert len(calls) == 3 and all(a.error == b.error and a.after == b.after for a, b in zip(together, alone, strict=True))


def test_one_trial_applied_is_what_was_tried(context: SolveContext) -> None:
    few, many = try_place(context, UP, [{"quantize.gptq": {"bits": 2}}, {"quantize.gptq": {"bits": 8}}])
    record = apply_trial_(context.model, few)
    assert (record.error, record.bytes_after) == (few.error, few.bytes_after) and record.bytes_before == many.bytes_before
    (site,) = [site for site in context.model.layout.sites if site.name == UP]
    assert site.stored == "quantized" and site.stored_bytes == few.bytes_after
    with pytest.raises(TrimodalError, match=r"quantize\.gptq at text\.0\.up: .* has changed since this was tried; try it again"):
        apply_trial_(context.model, many)


def test_what_cannot_be_done_is_declined_with_the_reason(context: SolveContext) -> None:
    (trial,) = try_place(context, UP, ["quantize.rtn"])
    apply_trial_(context.model, trial)
    (again,) = try_place(context, UP, ["quantize.rtn"])
    assert again.change is None and again.declined == "already quantized" and again.bytes_after == again.bytes_before
    steps = list(context.model.steps)
    record = apply_trial_(context.model, again)
    assert record.notes == (f"{LEFT_ALONE}already quantized",) and context.model.steps == steps


@pytest.mark.parametrize(("place", "option", "words"), [
    ("text.0.upp", "quantize.rtn", r"quantize\.rtn has no place 'text\.0\.upp' in this model; did you mean 'text\.0\.up'"),
    ("text.0.neurons", "quantize.rtn", r"has no place 'text\.0\.neurons'"),
    (UP, "quantize.rtm", r"there is no method 'quantize\.rtm'"),
    (UP, {"quantize.rtn": {"bit": 4}}, r"quantize\.rtn has no option 'bit'"),
    (UP, "distill", r"distill trains the whole model and cannot be tried at a place"),
])  # fmt: skip
def test_what_is_not_there_is_an_error(context: SolveContext, place: str, option: Any, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        try_place(context, place, [option])


def test_a_model_in_training_stays_in_training(context: SolveContext) -> None:
    context.model.module.train()
    frozen = next(iter(context.model.module.parameters())).requires_grad_(False)
    asked: dict[str, list[Any]] = {
        UP: ["quantize.gptq", "prune.gradient"], "text.0.neurons": [{"prune.neurons": {"score": "fisher"}}],
        "text": [{"prune.layers": {"sparsity": 0.5}}, "share.layers"], "text.width": ["prune.width"],
    }  # fmt: skip
    for place, options in asked.items():
        assert all(trial.change is not None for trial in try_place(context, place, options)), place
        assert all(part.training for part in context.model.module.modules()), place
    assert not frozen.requires_grad and all(p.requires_grad for p in context.model.module.parameters() if p is not frozen)


def test_a_place_that_would_share_a_table_brings_its_own(context: SolveContext) -> None:
    options = {"bits": 4, "grid": "kmeans", "table": "tower"}
    shared, own = try_place(context, UP, [{"quantize.rtn": options}, {"quantize.rtn": {**options, "table": "group"}}])
    assert shared.change is not None and shared.error["text"] < 0.05 and own.error["text"] < 0.05
    record = apply_trial_(context.model, shared)
    assert record.error == shared.error and record.bytes_after == shared.bytes_after


def test_without_data_no_error_is_claimed(tiny_model: Callable[..., Model]) -> None:
    trials = try_place(open_context(tiny_model("llama")), UP, ["quantize.rtn", "quantize.gptq"])
    assert trials[0].error == {} and trials[0].unmeasured == "no data was given" and (trials[0].weight_error or 0) > 0
    assert trials[1].change is None and "no calibration sample ran through it" in trials[1].declined


@pytest.mark.parametrize("kind", ["dense", "low_rank"])
def test_a_treatment_is_decoded_beside_the_layer(kind: str) -> None:
    """[1, 2]ᵀ [3, 4] is [[3, 4], [6, 8]]."""
    layer = torch.nn.Linear(2, 2)
    before = layer.weight.detach().clone()
    tensors = {"first": torch.tensor([[3.0, 4.0]]), "second": torch.tensor([[1.0], [2.0]])}
    if kind == "dense":
        tensors = {"weight": torch.tensor([[3.0, 4.0], [6.0, 8.0]])}
    found = decode_treatment(torch.nn.Sequential(layer), layer, Treatment(kind, {}, tensors))
    assert found.tolist() == [[3.0, 4.0], [6.0, 8.0]] and torch.equal(layer.weight, before)


def test_a_method_has_one_shape() -> None:
    rtn = next(method for method in METHODS if method.name == "quantize.rtn")
    for shape in ({"solve": None}, {"survey": lambda *given: None}, {"fit": lambda *given: ()}):
        with pytest.raises(TypeError, match=r"quantize\.rtn must have one of solve, survey, fit and adapt"):
            replace(rtn, **shape)
    assert isinstance(rtn, Method) and not rtn.trains


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("quantize.rtn", r"expected a list of them"),
        ({"quantize.rtn": {}}, r"expected a list of them"),
        ([{"quantize.rtn": {}, "prune.wanda": {}}], r"a mapping of one method to its options"),
        ([{}], r"a mapping of one method to its options"),
        ([4], r"expected a method's name"),
        ([{"quantize.rtn": 4}], r"quantize\.rtn has the options 4; expected a mapping"),
    ],
)
def test_options_of_another_form_are_refused(context: SolveContext, options: Any, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        try_place(context, UP, options)


def test_null_stands_for_no_options(context: SolveContext) -> None:
    (null,), (none,) = try_place(context, UP, [{"quantize.rtn": None}]), try_place(context, UP, ["quantize.rtn"])  # type: ignore[dict-item]
    assert (null.error, null.bytes_after) == (none.error, none.bytes_after)


def test_names_of_models_and_data_are_refused(tiny_model: Callable[..., Model]) -> None:
    with pytest.raises(InputError, match=r"the model is a str; expected an opened one"):
        open_context("clip")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"among the samples is a str; expected those of trimodal\.data\.read_samples"):
        open_context(tiny_model("llama"), "data.jsonl")  # type: ignore[arg-type]
