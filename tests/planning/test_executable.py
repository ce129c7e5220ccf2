"""Plans that a person may have edited: they are carried out as they say, or refused with the place and the reason."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from trimodal.core import DeclinedPlace, Edit, Layout, PlannedPlace
from trimodal.errors import RecipeError
from trimodal.graph.fusion_discovery import discover_folds
from trimodal.methods import METHODS
from trimodal.models.model import Model
from trimodal.networks.tiny import make_miniature_batch
from trimodal.planning import check_edits, plan_edits, read_recipe

NOT_HERE = {
    ("clip", "prune.channels"), ("resnet", "prune.neurons"), ("resnet", "prune.heads"), ("resnet", "prune.layers"),
    ("resnet", "prune.width"), ("resnet", "merge.tokens"), ("resnet", "share.layers"),
    ("clip", "prune.tokens"), ("resnet", "prune.tokens"), ("clip", "train.quantized"), ("resnet", "train.quantized"),
}  # fmt: skip
CASES = [(name, method.name) for name in ("clip", "resnet") for method in METHODS if (name, method.name) not in NOT_HERE]
OPTIONS = {"prune.layers": {"sparsity": 0.5}}
SEQUENCES: dict[str, list[dict[str, Any]]] = {
    "cut then factorize then round": [
        {"prune.neurons": {"where": "image.*", "sparsity": 0.5}}, {"factorize.eigen": {"where": "image.0.up", "rank": 5}},
        {"quantize.rtn": {"where": "*", "bits": 8, "but": {"text.*": {"bits": 4}}}},
    ],
    "drop blocks": [{"prune.layers": {"where": "text", "sparsity": 0.5}}, {"quantize.rtn": {"where": "text.*"}}],
    "ranked": [{"prune.heads": {"where": "*", "sparsity": 0.5, "scope": "global"}}, {"quantize.rtn": {"where": "*"}}],
    "rank by energy": [{"factorize.eigen": {"where": "image.0.*", "energy": 0.9}}, {"quantize.rtn": {"where": "image.*"}}],
    "one table": [{"quantize.rtn": {"where": "text.*", "bits": 4, "grid": "kmeans", "table": "tower"}}],
    "gradual": [{"prune.neurons": {"where": "*", "sparsity": 0.5, "gradual": {"times": 2, "recover": {"steps": 1}}}}],
    "train": [{"quantize.rtn": {"where": "image.*"}}, {"distill": {"steps": 2}}, {"train.quantized": {"steps": 2}}],
}  # fmt: skip


@pytest.fixture(scope="module")
def layouts(tiny_model: Callable[..., Model]) -> Callable[[str], Layout]:
    known: dict[str, Layout] = {}

    def layout(name: str) -> Layout:
        if name not in known:
            known[name] = discover_folds(tiny_model(name), [make_miniature_batch(name, 2, 0)])
        return known[name]

    return layout


def planned(layout: Layout, steps: Sequence[Any]) -> tuple[Edit, ...]:
    return plan_edits(layout, read_recipe({"steps": list(steps)}), True)[0]


def edited(edit: Edit, *places: PlannedPlace) -> tuple[Edit, ...]:
    return (replace(edit, places=places),)


@pytest.mark.parametrize(("name", "method"), CASES, ids=map("-".join, CASES))
def test_a_plan_of_any_method_is_what_it_was(layouts: Callable[[str], Layout], name: str, method: str) -> None:
    edits = planned(layouts(name), [{method: OPTIONS.get(method, {})}])
    assert any(edit.places for edit in edits) or method == "distill"
    assert check_edits(layouts(name), edits, True) == edits


@pytest.mark.parametrize("steps", SEQUENCES.values(), ids=SEQUENCES.keys())
def test_a_plan_of_several_steps_is_what_it_was(layouts: Callable[[str], Layout], steps: list[dict[str, Any]]) -> None:
    edits = planned(layouts("clip"), steps)
    assert check_edits(layouts("clip"), edits, True) == edits


@pytest.mark.parametrize("steps", SEQUENCES.values(), ids=SEQUENCES.keys())
def test_consequences_are_reckoned_anew(layouts: Callable[[str], Layout], steps: list[dict[str, Any]]) -> None:
    """Names and options are enough: bytes, paths, certainty and running order follow."""
    edits = planned(layouts("clip"), steps)
    bare = [
        replace(edit, places=tuple(PlannedPlace(p.name, (), 1, 1, p.config) for p in reversed(edit.places))) for edit in edits
    ]
    assert check_edits(layouts("clip"), bare, True) == edits


def test_other_bits_at_one_place(layouts: Callable[[str], Layout]) -> None:
    (edit,) = planned(layouts("clip"), [{"quantize.rtn": {"where": "image.0.*", "bits": 8, "group": 16}}])
    first, *rest = edit.places
    (found,) = check_edits(layouts("clip"), edited(edit, replace(first, config={"bits": 4}), *rest), True)
    (wanted,) = planned(layouts("clip"), [
        {"quantize.rtn": {"where": "image.0.*", "bits": 8, "group": 16, "but": {first.name: {"bits": 4}}}}
    ])  # fmt: skip
    assert found == wanted and found.places[0].bytes_after < first.bytes_after


def test_a_setting_of_the_whole_edit(layouts: Callable[[str], Layout]) -> None:
    (edit,) = planned(layouts("clip"), [{"prune.neurons": {"where": "image.*", "sparsity": 0.5}}])
    found = check_edits(layouts("clip"), [replace(edit, config={**edit.config, "sparsity": 0.25})], True)
    assert found == planned(layouts("clip"), [{"prune.neurons": {"where": "image.*", "sparsity": 0.25}}])


def test_an_edit_that_is_taken_out_leaves_whole_layers_to_the_next(layouts: Callable[[str], Layout]) -> None:
    _, rounded = planned(layouts("clip"), [{"prune.neurons": {"where": "*", "sparsity": 0.5}}, {"quantize.rtn": {"where": "*.up"}}])
    (alone,) = check_edits(layouts("clip"), [rounded], True)
    assert (alone,) == planned(layouts("clip"), [{"quantize.rtn": {"where": "*.up"}}])
    assert all(now.bytes_before > then.bytes_before for now, then in zip(alone.places, rounded.places))


def test_places_are_taken_out_and_added_by_name(layouts: Callable[[str], Layout]) -> None:
    (edit,) = planned(layouts("clip"), [{"quantize.rtn": {"where": "image.0.*"}}])
    gone, *rest = edit.places
    declined = DeclinedPlace("text.1.up", "a person had thought so")
    wanted = replace(edit, left_alone=(*edit.left_alone, declined), places=(*rest, PlannedPlace("text.1.up", (), 0, 0)))
    (found,) = check_edits(layouts("clip"), [wanted], True)
    assert [place.name for place in found.places] == [*(place.name for place in rest), "text.1.up"]
    assert found.places[-1].paths == ("text_model.encoder.layers.1.mlp.fc1",)
    assert declined not in found.left_alone and gone.name not in {place.name for place in found.left_alone}


def test_the_next_place_stores_a_shared_table_whose_owner_is_taken_out(layouts: Callable[[str], Layout]) -> None:
    (edit,) = planned(layouts("clip"), SEQUENCES["one table"])
    owner, second, *rest = edit.places
    assert (owner.config.get("table"), second.config.get("table")) == (None, "borrowed")
    (found,) = check_edits(layouts("clip"), edited(edit, second, *rest), True)
    assert [place.config.get("table") for place in found.places] == [None, *["borrowed"] * len(rest)]
    assert found.places[0].bytes_after > second.bytes_after


def test_a_fold_is_what_was_seen_and_not_what_the_file_says(layouts: Callable[[str], Layout]) -> None:
    (edit,) = planned(layouts("clip"), ["fold.exact"])
    first, *rest = edit.places
    assert first.fold is not None
    told = replace(first, fold=replace(first.fold, into=("nowhere",), epsilon=5.0))
    assert check_edits(layouts("clip"), edited(edit, told, *rest), True) == (edit,)
    with pytest.raises(RecipeError, match=r"edits\[0\]\.places\[0\]: there is no place '.*' for fold\.exact"):
        check_edits(layouts("clip"), edited(edit, replace(first, fold=replace(first.fold, path="nowhere"))), True)


UP = PlannedPlace("image.0.up", (), 0, 0)
FIRST = r"edits\[0\]\.places\[0\]"


@pytest.mark.parametrize(
    ("method", "config", "places", "words"),
    [
        ("quantize.rtn", {}, [replace(UP, name="image.0.upp")],
         rf"plan\.json: {FIRST}: there is no place 'image\.0\.upp' for quantize\.rtn; did you mean 'image\.0\.up'\?"),
        ("quantize.rtn", {}, [replace(UP, name="zzz")], r"no place 'zzz' .*; its places are called like 'image\.patch'"),
        ("quantize.rtn", {}, [UP, UP], rf"places\[1\] is image\.0\.up again, which .*{FIRST} is; name each place once"),
        ("quantize.rtn", {}, [replace(UP, paths=("else.where",))],
         rf"{FIRST}\.paths do not fit: image\.0\.up stands for vision_model.*leave `paths` out"),
        ("quantize.rtn", {}, [replace(UP, config={"bitz": 4})], rf"{FIRST}\.config has no option 'bitz'; did you mean 'bits'\?"),
        ("quantize.rtn", {}, [replace(UP, config={"bits": 99})], rf"{FIRST}\.config: bits is 99, but must be"),
        ("quantize.rtn", {}, [replace(UP, name="image.0.mlp.norm")],
         r"quantize\.rtn cannot work at image\.0\.mlp\.norm: .*norm.*; take the place out of the plan"),
        ("quantise.rtn", {}, [UP], r"edits\[0\]: there is no method 'quantise\.rtn'; did you mean 'quantize\.rtn'\?"),
        ("prune.heads", {}, [replace(UP, name="image.0.neurons")], r"there is no place 'image\.0\.neurons' for prune\.heads"),
        ("prune.channels", {}, [replace(UP, name="image.0.channels")], r"no place at all that it could work at"),
        ("prune.heads", {"sparsity": "half"}, [replace(UP, name="image.0.heads")], r"edits\[0\]\.config: sparsity is 'half'"),
    ],
)  # fmt: skip
def test_what_cannot_be_carried_out_is_refused(
    layouts: Callable[[str], Layout], method: str, config: dict[str, Any], places: list[PlannedPlace], words: str
) -> None:
    with pytest.raises(RecipeError, match=words):
        check_edits(layouts("clip"), [Edit(method, ("*",), config, tuple(places))], True, "plan.json")


def test_a_place_that_an_earlier_edit_has_taken(layouts: Callable[[str], Layout]) -> None:
    edits = planned(layouts("clip"), [{"quantize.rtn": {"where": "image.0.up"}}, {"quantize.rtn": {"where": "image.0.down"}}])
    twice = [edits[0], replace(edits[1], places=(*edits[1].places, UP))]
    with pytest.raises(RecipeError, match=r"edits\[1\]\.places\[1\]: quantize\.rtn cannot work at image\.0\.up: already quantized"):
        check_edits(layouts("clip"), twice, True)


def test_without_data(layouts: Callable[[str], Layout]) -> None:
    edits = planned(layouts("clip"), [{"prune.sparsegpt": {"where": "image.0.up", "sparsity": 0.5}}])
    with pytest.raises(RecipeError, match=r"edits\[0\]\.places\[0\] \(prune\.sparsegpt\) needs calibration data for image\.0\.up"):
        check_edits(layouts("clip"), edits, False)
    with pytest.raises(RecipeError, match=r"edits\[1\] \(distill\) trains on calibration data, and there is none"):
        check_edits(layouts("clip"), planned(layouts("clip"), SEQUENCES["train"]), False)


def test_places_are_as_a_file_has_them(layouts: Callable[[str], Layout]) -> None:
    """Tuples became lists, which no comparison may notice."""
    edits = planned(layouts("clip"), SEQUENCES["one table"])
    config = json.loads(json.dumps(edits[0].config))
    assert check_edits(layouts("clip"), [replace(edits[0], config=config)], True) == edits
