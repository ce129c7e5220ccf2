"""Blocks that are dropped: hostile drops in a file, and what one resizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded import drop, merge, replay_

from trimodal.core.model_edit import Resize
from trimodal.edits import DropBlocks, UnfitEditError, read_edit
from trimodal.errors import IntegrityError
from trimodal.graph.layout import find_layout
from trimodal.networks.tiny import make_miniature

BAD_FORM: Mapping[str, Any] = {
    "of-text": {"drop": "image"},
    "without-tower": {"drop": {"kept": [0]}},
    "of-negatives": drop("image", [-1]),
    "of-truth": drop("image", [True]),
    "with-more": drop("image", [0], code="print()"),
}


@pytest.mark.parametrize("case", BAD_FORM)
def test_drops_of_no_known_form(case: str) -> None:
    with pytest.raises(UnfitEditError, match="is a drop of"):
        read_edit(BAD_FORM[case], 40_000)


BAD_FIT: Mapping[str, Any] = {
    "of-no-tower": drop("__class__", [0]),
    "of-all": drop("image", []),
    "beyond": drop("image", [0, 2]),
    "in-another-order": drop("image", [1, 0]),
}


@pytest.mark.parametrize("case", BAD_FIT)
def test_drops_that_do_not_fit_the_model(case: str) -> None:
    module = make_miniature("clip")
    before = [name for name, _ in module.named_modules()]
    with pytest.raises(IntegrityError, match=r"recorded step 1 .* not recorded for this CLIPModel"):
        replay_(module, [BAD_FIT[case]])
    assert [name for name, _ in module.named_modules()] == before


def test_merged_towers_and_stages_keep_their_blocks() -> None:
    with pytest.raises(IntegrityError, match="step 2 drops blocks of image: its tokens are merged block by block"):
        replay_(make_miniature("clip"), [merge(), drop("image", [0])])
    with pytest.raises(IntegrityError, match="step 1 drops blocks of image: its blocks come in stages"):
        replay_(make_miniature("resnet"), [drop("image", [0])])


@given(st.text(), st.lists(st.integers(0, 2**40)))
def test_what_is_written_is_read(tower: str, kept: list[int]) -> None:
    edit = DropBlocks(tower, tuple(kept))
    assert edit.to_json() == drop(tower, kept) and read_edit(edit.to_json(), 0) == edit


def test_what_a_drop_resizes_and_touches() -> None:
    layout = find_layout(make_miniature("clip"))
    edit = DropBlocks("image", (1,))
    assert edit.find_resize(layout) == Resize(frozenset({(2, 1)}))
    assert edit.find_touched_paths(layout) == {f"vision_model.encoder.layers.{i}" for i in (0, 1)}
    assert [len(edit.layout_after(layout).get_tower(name).blocks) for name in ("image", "text")] == [1, 2]
    assert edit.moves_paths and edit.is_expressible
