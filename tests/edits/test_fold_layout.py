"""The layout after a fold."""

from __future__ import annotations

from trimodal.core import Axis, Fold, Layout, Site
from trimodal.edits.fold_layout import fold_layout, sites_of_fold


def site(path: str, *shape: int, **rest: object) -> Site:
    return Site(path, "text", 0, "linear", "linear", shape, **rest)  # type: ignore[arg-type]


WIDE = Axis("text.0.neurons", 8)
LAYOUT = Layout((), (site("one", 4, 8, bias=True, input_axis=WIDE), site("two", 6, 4), site("three", 6, 4)))


def test_two_layers_become_one() -> None:
    (two, three) = fold_layout(Fold("linear", "one", ("two",)), LAYOUT).sites
    assert (two.path, two.shape, two.bias, two.input_axis) == ("two", (6, 8), True, WIDE)
    assert two.stored_bytes == (6 * 8 + 6) * 4 and three == LAYOUT.get_site("three")


def test_twins() -> None:
    (_, two) = fold_layout(Fold("twin", "three.weight", ("two.weight",)), LAYOUT).sites
    assert two.tied == ("three",)
    assert fold_layout(Fold("twin", "positions", ("other",), tensor_bytes=8), LAYOUT) == LAYOUT


def test_what_is_gone_cannot_be_folded_again() -> None:
    fold = Fold("linear", "one", ("two",))
    assert sites_of_fold(fold, LAYOUT) is not None and sites_of_fold(fold, fold_layout(fold, LAYOUT)) is None


def test_folds_are_no_part_of_what_a_layout_is() -> None:
    seen = Layout((), LAYOUT.sites, folds=(Fold("linear", "one", ("two",)),))
    assert seen == LAYOUT and seen.to_json() == LAYOUT.to_json()
