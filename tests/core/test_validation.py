"""Plain data as one of our dataclasses: what is taken, and how the mistake is named."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Literal

import pytest

from trimodal.core.validation import Measured, read_record
from trimodal.errors import IntegrityError, RecipeError


@dataclass(frozen=True)
class Wheel:
    """A part."""

    size: int
    side: Literal["left", "right"] = "left"


@dataclass(frozen=True)
class Cart:
    """A whole."""

    name: str
    wheels: tuple[Wheel, ...]
    load: float | None = None
    error: dict[str, Measured] = field(default_factory=dict)
    new: bool = False

    def __post_init__(self) -> None:
        if not self.wheels:
            raise ValueError("a cart without wheels")


WHOLE: dict[str, Any] = {"name": "c", "wheels": [{"size": 2}, {"size": 3, "side": "right"}], "load": 1}


def test_parts_become_dataclasses_and_lists_tuples() -> None:
    cart = read_record(Cart, WHOLE, "cart.json")
    assert cart == Cart("c", (Wheel(2), Wheel(3, "right")), 1.0)
    assert type(cart.load) is float and type(cart.wheels) is tuple and type(cart.wheels[0]) is Wheel


def test_null_is_a_measured_number_that_is_not_finite() -> None:
    error = read_record(Cart, {**WHOLE, "error": {"image": None, "text": 0.5}}, "cart.json").error
    assert math.isnan(error["image"]) and error["text"] == 0.5


@pytest.mark.parametrize(("change", "message"), [
    ({"name": 3}, "cart.json: name is 3, but must be text"),
    ({"name": None}, "cart.json: name is None, but must be text"),
    ({"wheels": {}}, "cart.json: wheels is {}, but must be a list"),
    ({"wheels": [{"size": "2"}]}, "cart.json: wheels[0].size is '2', but must be a whole number"),
    ({"wheels": [{"size": 2}, {"size": True}]}, "cart.json: wheels[1].size is True, but must be a whole number"),
    ({"wheels": [{"size": 2.0}]}, "cart.json: wheels[0].size is 2.0, but must be a whole number"),
    ({"wheels": [7]}, "cart.json: wheels[0] is 7, but must be a mapping"),
    ({"wheels": [{"side": "left"}]}, "cart.json: there is no key 'size' in wheels[0]"),
    ({"wheels": [{"size": 2, "sise": 2}]},
     "cart.json: there is an unknown key 'sise' in wheels[0], mistyped or of a newer trimodal; did you mean 'size'?"),
    ({"wheels": [{"sise": 2}]},
     "cart.json: there is an unknown key 'sise' in wheels[0], mistyped or of a newer trimodal; did you mean 'size'? (and 1 more)"),
    ({"wheels": [{"size": 2, "side": "top"}]}, "cart.json: wheels[0].side is 'top', but must be one of 'left' or 'right'"),
    ({"load": "much"}, "cart.json: load is 'much', but must be a number"),
    ({"load": True}, "cart.json: load is True, but must be a number"),
    ({"error": {"text": "0.1"}}, "cart.json: error.text is '0.1', but must be a number"),
    ({"error": [1]}, "cart.json: error is [1], but must be a mapping"),
    ({"new": 1}, "cart.json: new is 1, but must be true or false"),
    ({"nwe": True}, "cart.json: there is an unknown key 'nwe', mistyped or of a newer trimodal; did you mean 'new'?"),
])  # fmt: skip
def test_mistake_is_named_with_its_place(change: dict[str, Any], message: str) -> None:
    with pytest.raises(IntegrityError) as caught:
        read_record(Cart, {**WHOLE, **change}, "cart.json")
    assert str(caught.value) == message


def test_refusal_of_the_dataclass_itself_is_passed_on() -> None:
    with pytest.raises(IntegrityError, match=r"^cart\.json: a cart without wheels$"):
        read_record(Cart, {**WHOLE, "wheels": []}, "cart.json")


@pytest.mark.parametrize("data", [None, 3, [], "text", [WHOLE]])
def test_what_is_no_mapping_is_refused(data: Any) -> None:
    with pytest.raises(IntegrityError, match=r"cart\.json: found .*, but must be a mapping"):
        read_record(Cart, data, "cart.json")


def test_what_json_cannot_hold_is_refused() -> None:
    with pytest.raises(IntegrityError, match=r"cart\.json holds what JSON cannot"):
        read_record(Cart, {**WHOLE, "name": date(2024, 1, 1)}, "cart.json")


def test_caller_says_what_kind_of_error_it_is() -> None:
    with pytest.raises(RecipeError, match="name is 3"):
        read_record(Cart, {**WHOLE, "name": 3}, "cart.json", RecipeError)


def test_importing_it_loads_no_part_of_pydantic() -> None:
    code = "import sys, trimodal.core.validation; print(sorted(name for name in sys.modules if name.startswith('pydantic.type_adapter')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
