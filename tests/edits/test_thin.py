"""Fewer tokens read: hostile thinnings in a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded import replay_, thin

from trimodal.core.change import MOST_UNREAD, ChosenBy, Rest
from trimodal.edits import ThinTokens, UnfitEditError, read_edit
from trimodal.errors import IntegrityError
from trimodal.networks.tiny import make_miniature

BAD_FORM: Mapping[str, Any] = {
    "of-text": {"thin": "image"},
    "without-share": {"thin": {"tower": "image"}},
    "with-more": thin(hook="os.system"),
    "of-number": thin(tower=1),
    "by-other-means": thin(by="random"),
    "with-another-rest": thin(rest="keep"),
    "of-all": thin(share=1.0),
    "of-nan": thin(share=float("nan")),
    "of-share-in-digits": thin(share="0.5"),
    "before-the-first": thin(block=-1),
    "behind-half-a-block": thin(block=0.5),
}


@pytest.mark.parametrize("case", BAD_FORM)
def test_thinnings_of_no_known_form(case: str) -> None:
    with pytest.raises(UnfitEditError, match="is a thin of"):
        read_edit(BAD_FORM[case], 40_000)


BAD_FIT: Mapping[str, tuple[str, Any]] = {
    "of-no-tower": ("llava", thin(tower="__class__")),
    "of-words": ("llava", thin(tower="text")),
    "of-what-nobody-reads": ("clip", thin()),
    "before-the-first-block": ("llava", thin(by="question")),
}


@pytest.mark.parametrize("case", BAD_FIT)
def test_thinnings_that_do_not_fit_the_model(case: str) -> None:
    name, step = BAD_FIT[case]
    module = make_miniature(name)
    before = [type(part) for part in module.modules()]
    with pytest.raises(IntegrityError, match=r"recorded step 1 thins tokens of .* not recorded for this"):
        replay_(module, [step])
    assert [type(part) for part in module.modules()] == before


def test_tokens_are_thinned_once() -> None:
    with pytest.raises(IntegrityError, match=r"recorded step 2 thins tokens of image: a decoder reads fewer of its tokens already"):
        replay_(make_miniature("llava"), [thin(), thin()])


@given(
    st.text(), st.floats(0, MOST_UNREAD), st.sampled_from(get_args(ChosenBy)), st.sampled_from(get_args(Rest)), st.integers(0, 2**40),
)  # fmt: skip
def test_what_is_written_is_read(tower: str, share: float, by: ChosenBy, rest: Rest, block: int) -> None:
    edit = ThinTokens(tower, share, by, rest, block)
    assert read_edit(edit.to_json(), 0) == edit
    assert edit.to_json() == thin(tower=tower, share=share, by=by, rest=rest, block=block)
