"""Cuts: hostile ones in a file, and what one touches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded import cut, quantized, replay_, share

from trimodal.core.model_edit import Resize
from trimodal.edits import CutUnits, UnfitEditError, read_edit
from trimodal.errors import IntegrityError
from trimodal.graph.layout import find_layout
from trimodal.networks.tiny import make_miniature

HEADS = "image.0.heads"
BAD_FORM: Mapping[str, Any] = {
    "of-text": {"cut": "all"},
    "without-label": {"cut": {"kept": [0]}},
    "without-units": {"cut": {"label": HEADS}},
    "of-fractions": cut(HEADS, [0.5]),
    "of-negatives": cut(HEADS, [-1]),
    "of-truth": cut(HEADS, [True]),
    "of-digits": cut(HEADS, ["0"]),
    "of-a-text": cut(HEADS, "01"),
    "label-of-number": cut(1, [0]),
    "with-more": cut(HEADS, [0], code="print()"),
}


@pytest.mark.parametrize("case", BAD_FORM)
def test_cuts_of_no_known_form(case: str) -> None:
    with pytest.raises(UnfitEditError, match="is a cut of"):
        read_edit(BAD_FORM[case], 40_000)


BAD_FIT: Mapping[str, Any] = {
    "of-nothing": cut("__dict__", [0]),
    "of-all": cut(HEADS, []),
    "beyond": cut(HEADS, [0, 4]),
    "of-a-stream-beyond": cut("image.width", [0, 32]),
    "of-no-stream": cut("fusion.width", [0]),
    "twice-the-same": cut(HEADS, [1, 1]),
}


@pytest.mark.parametrize("case", BAD_FIT)
def test_cuts_that_do_not_fit_the_model(case: str) -> None:
    module = make_miniature("clip")
    before = [(name, tuple(tensor.shape)) for name, tensor in module.state_dict().items()]
    with pytest.raises(IntegrityError, match=r"recorded step 1 .* not recorded for this CLIPModel"):
        replay_(module, [BAD_FIT[case]])
    assert [(name, tuple(tensor.shape)) for name, tensor in module.state_dict().items()] == before


def test_cut_where_the_weight_is_packed() -> None:
    path = "vision_model.encoder.layers.0.self_attn.q_proj"
    first = quantized(path=path, options_shape=[32, 32])
    with pytest.raises(IntegrityError, match=r"recorded step 2 cuts 'image.0.heads' where a weight is no longer plain"):
        replay_(make_miniature("clip"), [first, cut(HEADS, [0])])


@pytest.mark.parametrize(("label", "reason"), [
    (HEADS, "cuts 'image.0.heads' where a weight is shared"),
    ("image.1.heads", "cuts 'image.1.heads' where a weight is no longer plain"),
])  # fmt: skip
def test_what_is_shared_is_not_cut(label: str, reason: str) -> None:
    paths = [f"vision_model.encoder.layers.{i}.self_attn.q_proj" for i in (0, 1)]
    with pytest.raises(IntegrityError, match=f"recorded step 2 .*{reason}"):
        replay_(make_miniature("clip"), [share(*paths), cut(label, [0])])


@given(st.text(), st.lists(st.integers(0, 2**40)))
def test_what_is_written_is_read(label: str, kept: list[int]) -> None:
    edit = CutUnits(label, tuple(kept))
    assert edit.to_json() == cut(label, kept) and read_edit(edit.to_json(), 0) == edit


def test_what_a_cut_resizes_and_touches() -> None:
    layout = find_layout(make_miniature("clip"))
    heads, width = CutUnits(HEADS, (0, 2)), CutUnits("image.width", tuple(range(24)))
    assert heads.find_resize(layout) == Resize(frozenset({(32, 16), (4, 2)}), head_dim=8)
    assert width.find_resize(layout) == Resize(frozenset({(32, 24)}), head_dim=8, stream=True)
    assert (heads.narrows_stream, width.narrows_stream) == (False, True)
    assert CutUnits("nothing", (0,)).find_resize(layout) is None
    block = "vision_model.encoder.layers.0.self_attn"
    assert heads.find_touched_paths(layout) == {f"{block}.{name}_proj" for name in ("q", "k", "v", "out")}
