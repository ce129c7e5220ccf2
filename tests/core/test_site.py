"""Axes: which entries of a dimension belong to a unit, and what is left after a cut."""

from __future__ import annotations

from trimodal.core import Axis, Site

FUSED = Axis("text.0.heads", 2, width=3, repeats=2)  # two runs of two heads of three entries
JOINED = Axis("one", 2, then=(Axis("", 1), Axis("two", 3)))


def test_entries_of_units_by_hand() -> None:
    assert FUSED.size == 12 and FUSED.entry_indices([1]) == [3, 4, 5, 9, 10, 11]
    assert JOINED.size == 6 and JOINED.labels == ("one", "two")
    assert JOINED.entry_indices([0, 2], "two") == [3, 5]
    assert JOINED.kept_entry_indices([1], "two") == [0, 1, 2, 4]


def test_what_stays_is_what_a_cut_leaves() -> None:
    for axis, label in ((FUSED, "text.0.heads"), (JOINED, "one"), (JOINED, "two")):
        assert axis.cut_units([1], label).size == len(axis.kept_entry_indices([1], label))


def test_a_site_is_cut_on_all_dimensions_that_carry_the_label() -> None:
    site = Site("down", "text", 0, "down", "linear", (6, 12), bias=True, input_axis=FUSED, output_axis=JOINED)
    assert site.cut_units("text.0.heads", [0]).shape == (6, 6)
    assert site.cut_units("two", [0]).shape == (4, 12)
    assert site.cut_units("two", [0]).stored_bytes == (4 * 12 + 4) * 4
    assert site.unit_columns("text.0.heads") == [[0, 1, 2, 6, 7, 8], [3, 4, 5, 9, 10, 11]]
