"""`inventory.json`, the arrow between inspect and plan: written, read, and refused where it is another model's."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from trimodal.errors import InputError
from trimodal.inventory import Inventory, inspect, read_inventory
from trimodal.models.model import Model

MINE, OTHER = "ab" * 32, "cd" * 32


@pytest.fixture(scope="module")
def clip(tiny_model: Callable[..., Model]) -> Model:
    return tiny_model("clip")


@pytest.fixture(scope="module")
def inventory(clip: Model) -> Inventory:
    return replace(inspect(clip), fingerprint=MINE)


def as_file(inventory: Inventory) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(json.dumps(inventory.to_json()))
    return data


def test_what_was_written_is_read(inventory: Inventory, clip: Model, tmp_path: Path) -> None:
    assert inventory.macs and inventory.sites and inventory.in_no_place.alike
    assert Inventory.from_json(as_file(inventory)) == inventory
    (tmp_path / "inventory.json").write_text(json.dumps(inventory.to_json()))
    for source in (inventory, as_file(inventory), tmp_path / "inventory.json", str(tmp_path / "inventory.json")):
        assert read_inventory(source, clip, MINE) == inventory


def test_files_of_older_versions_count_operations(inventory: Inventory, clip: Model) -> None:
    def old(row: dict[str, Any]) -> dict[str, Any]:
        return {name.replace("macs", "operations"): value for name, value in row.items()}

    data = old(as_file(inventory))
    data["towers"] = [old(row) for row in data["towers"]]
    assert {"operations", "operations_note"} <= data.keys() and "operations" in data["towers"][0]
    assert read_inventory(data, clip, MINE) == inventory


def test_another_model(inventory: Inventory, clip: Model, tiny_model: Callable[..., Model]) -> None:
    found = r"the inventory is of another model \(clip, fingerprint abababababab; that of clip is cdcdcdcdcdcd\)"
    with pytest.raises(InputError, match=found):
        read_inventory(inventory, clip, OTHER)
    with pytest.raises(InputError, match="fingerprint unknown"):
        read_inventory(replace(inventory, fingerprint=""), clip, MINE)
    with pytest.raises(InputError, match="does not list the towers that bert has"):
        read_inventory(inventory, tiny_model("bert"), MINE)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data.pop("sites"), "there is no key 'sites'"),
        (lambda data: data.update(macs="many"), "macs is 'many', but must be a whole number"),
        (lambda data: data["towers"][0].update(bytes=1.5), r"towers\[0\].bytes is 1.5, but must be a whole number"),
        (lambda data: data.update(more=1), "there is an unknown key 'more'"),
        (lambda data: data.update(towers=[7]), r"towers\[0\] is 7, but must be a mapping"),
        (lambda data: data.update(input_shapes={"x": [1, "2"]}), r"input_shapes.x\[1\] is '2', but must be a whole number"),
    ],
)
def test_what_is_no_inventory(inventory: Inventory, clip: Model, tmp_path: Path, change: Callable[[Any], Any], words: str) -> None:
    data = as_file(inventory)
    change(data)
    (tmp_path / "mine.json").write_text(json.dumps(data))
    with pytest.raises(InputError, match=rf"mine\.json is no inventory: {words}.*rite it with `trimodal inspect MODEL"):
        read_inventory(tmp_path / "mine.json", clip, MINE)


def test_a_file_that_cannot_be_read(clip: Model, tmp_path: Path) -> None:
    (tmp_path / "half.json").write_text("{")
    with pytest.raises(InputError, match=r"half\.json is no inventory .*trimodal inspect"):
        read_inventory(tmp_path / "half.json", clip, MINE)
    with pytest.raises(InputError, match=r"none\.json cannot be read .*trimodal inspect"):
        read_inventory(tmp_path / "none.json", clip, MINE)
