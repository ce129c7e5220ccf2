"""Merged tokens: hostile merges in a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded import merge, replay_

from trimodal.core.change import LARGEST_SHARE
from trimodal.edits import MergeTokens, UnfitEditError, read_edit
from trimodal.errors import IntegrityError
from trimodal.networks.tiny import make_miniature

BAD_FORM: Mapping[str, Any] = {
    "of-text": {"merge": "image"},
    "without-share": {"merge": {"tower": "image"}},
    "with-more": merge(hook="os.system"),
    "of-number": merge(tower=1),
    "by-other-means": merge(kind="random"),
    "by-a-list": merge(kind=["matching"]),
    "of-all": merge(share=1.0),
    "of-less-than-none": merge(share=-0.1),
    "of-nan": merge(share=float("nan")),
    "of-share-in-words": merge(share="half"),
    "of-share-in-digits": merge(share="0.5"),
    "of-truth": merge(share=True),
    "before-the-first": merge(first=-1),
    "backwards": merge(first=1),
    "with-half-attention": merge(proportional=1),
}


@pytest.mark.parametrize("case", BAD_FORM)
def test_merges_of_no_known_form(case: str) -> None:
    with pytest.raises(UnfitEditError, match=r"is a merge of|merges tokens of"):
        read_edit(BAD_FORM[case], 40_000)


BAD_FIT: Mapping[str, Any] = {
    "of-no-tower": merge(tower="__class__"),
    "of-words": merge(tower="text"),
    "beyond": merge(last=2),
}


@pytest.mark.parametrize("case", BAD_FIT)
def test_merges_that_do_not_fit_the_model(case: str) -> None:
    module = make_miniature("clip")
    before = [type(part) for part in module.modules()]
    with pytest.raises(IntegrityError, match=r"recorded step 1 .* not recorded for this CLIPModel"):
        replay_(module, [BAD_FIT[case]])
    assert [type(part) for part in module.modules()] == before


def test_tokens_are_merged_once() -> None:
    with pytest.raises(IntegrityError, match=r"recorded step 2 merges tokens of image: its tokens are merged already"):
        replay_(make_miniature("clip"), [merge(), merge()])


@given(
    st.text(), st.sampled_from(["matching", "strided"]), st.floats(0, LARGEST_SHARE), st.integers(0, 2**40), st.integers(0, 9),
    st.booleans(),
)  # fmt: skip
def test_what_is_written_is_read(tower: str, kind: Any, share: float, first: int, more: int, proportional: bool) -> None:
    edit = MergeTokens(tower, kind, share, first, first + more, proportional)
    assert read_edit(edit.to_json(), 0) == edit
    assert edit.to_json() == merge(
        tower=tower, kind=kind, share=share, first=first, last=first + more, proportional=proportional
    )
