"""Layers that share a weight: hostile ones in a file, and what can no longer be done to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded import PATH, quantized, replay_, share

from trimodal.edits import ShareWeight, UnfitEditError, read_edit
from trimodal.errors import IntegrityError
from trimodal.graph.layout import find_layout
from trimodal.networks.tiny import make_miniature

PATHS = [f"vision_model.encoder.layers.{i}.self_attn.q_proj" for i in (0, 1)]
BAD_FORM: Mapping[str, Any] = {
    "of-text": {"share": "image"},
    "of-numbers": share(1, 2),
    "alone": share("a"),
    "of-none": share(),
    "with-itself": share("a", "a"),
    "with-more": {"share": {"paths": ["a", "b"], "code": "print()"}},
}


@pytest.mark.parametrize("case", BAD_FORM)
def test_sharing_of_no_known_form(case: str) -> None:
    with pytest.raises(UnfitEditError, match="share"):
        read_edit(BAD_FORM[case], 40_000)


BAD_FIT: Mapping[str, Any] = {
    "outside": share(PATH, "__class__"),
    "of-another-shape": share(PATH, "text_projection.weight"),
    "of-two-shapes": share(PATH, PATHS[0]),
    "of-norms": share(*(f"vision_model.{norm}" for norm in ("pre_layrnorm", "post_layernorm"))),
}


@pytest.mark.parametrize("case", BAD_FIT)
def test_sharing_that_does_not_fit_the_model(case: str) -> None:
    module = make_miniature("clip")
    before = [name for name, _ in module.named_modules()]
    with pytest.raises(IntegrityError, match=r"recorded step 1 .* not recorded for this CLIPModel"):
        replay_(module, [BAD_FIT[case]])
    assert [name for name, _ in module.named_modules()] == before


@pytest.mark.parametrize(("step", "reason"), [
    (share(*PATHS), "share a weight, which is no plain linear layer"),
    (quantized(path=PATHS[1], options_shape=[32, 32]), "which uses another layer's weight"),
])  # fmt: skip
def test_what_is_shared_is_nobodys_own(step: Any, reason: str) -> None:
    with pytest.raises(IntegrityError, match=f"recorded step 2 .*{reason}"):
        replay_(make_miniature("clip"), [share(*PATHS), step])


@given(st.lists(st.text(), min_size=2, unique=True))
def test_what_is_written_is_read(paths: list[str]) -> None:
    edit = ShareWeight(tuple(paths))
    assert edit.to_json() == share(*paths) and read_edit(edit.to_json(), 0) == edit


def test_the_weight_takes_its_bytes_once() -> None:
    before = find_layout(make_miniature("clip"))
    after = ShareWeight(tuple(PATHS)).layout_after(before)
    owner, other = map(after.get_site, PATHS)
    assert owner.tied == (PATHS[1],) and other.stored == "shared"
    assert other.stored_bytes == before.get_site(PATHS[1]).bias_bytes == 32 * 4
