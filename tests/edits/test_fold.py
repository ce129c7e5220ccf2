"""Folds: hostile ones in a file, and the layout after one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded import fold, replay_
from torch import nn

from trimodal.core import Axis, Fold, Layout, Site
from trimodal.core.site import Folding
from trimodal.edits import FoldLayer, UnfitEditError, read_edit
from trimodal.edits.fold import sites_of_fold
from trimodal.errors import IntegrityError
from trimodal.networks.tiny import make_miniature

BLOCK = "vision_model.encoder.layers.0"


BAD_FORM: Mapping[str, Any] = {
    "further-key": fold("norm", "a", "b", code="print()"),
    "no-into": {"fold": {"what": "norm", "path": "a"}},
    "path-of-number": fold("norm", 1, "b"),
    "unknown": fold("pickle", "a", "b"),
    "removed-into-another": fold("idle", "a", "b"),
    "what-of-list": fold(["norm"], "a", "b"),
    "into-nothing": fold("norm", "a"),
    "into-text": {"fold": {"what": "norm", "path": "a", "into": "b"}},
    "into-number": fold("affine", "a", 1),
    "into-two": fold("norm", "a", "b", "c"),
    "into-itself": fold("affine", "a", "a"),
    "into-one-twice": fold("affine", "a", "b", "b"),
}


@pytest.mark.parametrize("case", BAD_FORM)
def test_folds_of_no_known_form(case: str) -> None:
    with pytest.raises(UnfitEditError, match="fold"):
        read_edit(BAD_FORM[case], 40_000)


BAD_FIT: Mapping[str, Any] = {
    "path-outside": fold("norm", "__class__", "visual_projection"),
    "into-outside": fold("affine", f"{BLOCK}.layer_norm1", "__class__"),
    "a-norm-that-does-not-run": fold("norm", f"{BLOCK}.layer_norm1", f"{BLOCK}.self_attn.q_proj"),
    "a-block": fold("scale", BLOCK, f"{BLOCK}.self_attn.q_proj"),
    "an-affine-of-a-layer": fold("affine", f"{BLOCK}.mlp.fc1", f"{BLOCK}.mlp.fc2"),
    "an-affine-of-another-width": fold("affine", f"{BLOCK}.layer_norm1", f"{BLOCK}.mlp.fc2"),
    "a-layer-of-another-width": fold("linear", f"{BLOCK}.mlp.fc1", f"{BLOCK}.mlp.fc1"[:-1] + "1.x"),
    "a-larger-product": fold("linear", "visual_projection", f"{BLOCK}.mlp.fc1"),
    "a-scale-of-an-embedding": fold("scale", f"{BLOCK}.layer_norm1", "text_model.embeddings.token_embedding"),
    "a-twin-of-another-shape": fold("twin", "visual_projection.weight", "logit_scale"),
    "removes-a-block": fold("idle", BLOCK),
    "removes-all": fold("idle", ""),
    "removes-a-method": fold("idle", "forward"),
    "removes-what-has-no-weights": fold("idle", f"{BLOCK}.mlp.activation_fn"),
    "a-twin-of-a-method": fold("twin", "forward", "logit_scale"),
}


@pytest.mark.parametrize("case", BAD_FIT)
def test_folds_that_do_not_fit_the_model(case: str) -> None:
    module = make_miniature("clip")
    before = module.state_dict()
    with pytest.raises(IntegrityError, match=r"recorded step 1 .* not recorded for this CLIPModel"):
        replay_(module, [BAD_FIT[case]])
    assert {name: id(t) for name, t in module.state_dict().items()}.keys() == before.keys()


def test_a_product_may_not_be_larger_than_both() -> None:
    module = nn.Sequential(nn.Linear(64, 2), nn.Linear(2, 64))
    with pytest.raises(IntegrityError, match="folds 0, here a Linear, into 1, which does not fit"):
        replay_(module, [fold("linear", "0", "1")])


def site(path: str, *shape: int, **rest: object) -> Site:
    return Site(path, "text", 0, "linear", "linear", shape, **rest)  # type: ignore[arg-type]


WIDE = Axis("text.0.neurons", 8)
LAYOUT = Layout((), (site("one", 4, 8, bias=True, input_axis=WIDE), site("two", 6, 4), site("three", 6, 4)))


def test_two_layers_become_one() -> None:
    (two, three) = FoldLayer("linear", "one", ("two",)).layout_after(LAYOUT).sites
    assert (two.path, two.shape, two.bias, two.input_axis) == ("two", (6, 8), True, WIDE)
    assert two.stored_bytes == (6 * 8 + 6) * 4 and three == LAYOUT.get_site("three")


def test_twins() -> None:
    (_, two) = FoldLayer("twin", "three.weight", ("two.weight",)).layout_after(LAYOUT).sites
    assert two.tied == ("three",)
    assert FoldLayer("twin", "positions", ("other",)).layout_after(LAYOUT) == LAYOUT
    assert sites_of_fold(Fold("twin", "positions", ("other",), tensor_bytes=8), LAYOUT) == ()


def test_what_is_gone_cannot_be_folded_again() -> None:
    fold = Fold("linear", "one", ("two",))
    after = FoldLayer("linear", "one", ("two",)).layout_after(LAYOUT)
    assert sites_of_fold(fold, LAYOUT) is not None and sites_of_fold(fold, after) is None


def test_folds_are_no_part_of_what_a_layout_is() -> None:
    seen = Layout((), LAYOUT.sites, folds=(Fold("linear", "one", ("two",)),))
    assert seen == LAYOUT and seen.to_json() == LAYOUT.to_json()


@given(st.sampled_from(get_args(Folding)), st.lists(st.text(), min_size=3, unique=True))
def test_what_is_written_is_read(what: Folding, paths: list[str]) -> None:
    path, *into = paths if what == "affine" else paths[: 1 if what == "idle" else 2]
    edit = FoldLayer(what, path, tuple(into))
    assert edit.to_json() == fold(what, path, *into) and read_edit(edit.to_json(), 0) == edit
    assert edit.aliases == ({path: into[0]} if what == "twin" else {})
