"""Layouts after blocks are gone: numbers, paths, labels and counters, and the way back to what they were."""

from __future__ import annotations

import json
from dataclasses import replace

from trimodal.core import Axis, Fold, Layout, Site, SizeAttribute, Tower


def layout() -> Layout:
    """Three blocks of two layers that share neurons, joined with those of a neighbour, and an embedding before."""
    tower = Tower("text", "text", tuple(f"net.layers.{i}" for i in range(3)), ("net",), whole_blocks="")
    sites = [Site("net.words", "text", None, "embedding", "embedding", (9, 4))]
    for i in range(3):
        axis = Axis(f"text.{i}.neurons", 6, then=(Axis(f"text.{i}.heads", 2),))
        sites.append(Site(f"net.layers.{i}.up", "text", i, "up", "linear", (8, 4), output_axis=axis))
        sites.append(Site(f"net.layers.{i}.down", "text", i, "down", "linear", (4, 8), input_axis=axis))
    counters = tuple(SizeAttribute(f"text.{i}.heads", f"net.layers.{i}", "heads") for i in range(3))
    other = Site("seen", "image", 1, "up", "linear", (2, 2), output_axis=Axis("image.1.neurons", 2))
    return Layout((tower, Tower("image", "image")), (*sites, other), counters)


def test_what_stays_is_numbered_anew() -> None:
    left = layout().drop_blocks("text", [0, 2])
    assert left.get_tower("text").blocks == ("net.layers.0", "net.layers.1")
    assert left.get_tower("text").numbers == (0, 2)
    assert [(s.path, s.block) for s in left.sites] == [
        ("net.words", None), ("net.layers.0.up", 0), ("net.layers.0.down", 0), ("net.layers.1.up", 1),
        ("net.layers.1.down", 1), ("seen", 1),
    ]  # fmt: skip
    assert left.list_labels() == ("text.0.neurons", "text.0.heads", "text.1.neurons", "text.1.heads", "image.1.neurons")
    assert [(c.label, c.path) for c in left.size_attributes] == [
        ("text.0.heads", "net.layers.0"),
        ("text.1.heads", "net.layers.1"),
    ]


def test_alike_blocks_leave_the_same_layout_whichever_stay() -> None:
    assert layout().drop_blocks("text", [0, 2]) == layout().drop_blocks("text", [1, 2]) == layout().drop_blocks("text", range(2))
    assert layout().drop_blocks("text", range(3)) == layout()


def test_numbers_are_those_of_the_bare_architecture_after_two_steps() -> None:
    left = layout().drop_blocks("text", [1, 2]).drop_blocks("text", [1])
    assert left.get_tower("text").numbers == (2,)
    assert left.find_original_path(layout(), "net.layers.0.up") == "net.layers.2.up"
    assert left.find_original_path(layout().drop_blocks("text", [0, 2]), "net.layers.0.up") == "net.layers.1.up"
    assert left.find_original_path(layout(), "net.words") == "net.words"
    assert left.find_original_path(layout(), "net.layers.0") == "net.layers.2"


def test_survives_a_file() -> None:
    left = layout().drop_blocks("text", [0, 2])
    again = Layout.from_json(json.loads(json.dumps(left.to_json())))
    assert again == left and again.get_tower("text").numbers == (0, 2)
    assert replace(again.get_tower("text"), numbers=()) == left.get_tower("text")


def test_a_file_from_before_blocks_could_go() -> None:
    data = json.loads(json.dumps(layout().to_json()))
    for tower in data["towers"]:
        for name in ("whole_blocks", "counted", "read_by", "numbers"):
            del tower[name]
    assert Layout.from_json(data).get_tower("text").whole_blocks


def test_a_fold_in_a_block_is_not_known_to_hold_once_blocks_go() -> None:
    folds = (Fold("scale", "net.layers.0.scale", ("net.layers.0.up",)), Fold("twin", "one", ("two",)))
    left = replace(layout(), folds=folds).drop_blocks("text", [0, 2]).folds
    assert "an earlier step removes blocks of text" in left[0].reason and left[1] == folds[1]
