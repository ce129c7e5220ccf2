"""What is written as JSON can be read by any reader."""

from __future__ import annotations

import json
from math import inf, nan
from typing import Any

import pytest

from trimodal.core import json_text


def refuse(token: str) -> Any:
    raise ValueError(token)


@pytest.mark.parametrize("bad", [nan, inf, -inf])
def test_what_json_cannot_hold_becomes_null(bad: float) -> None:
    text = json_text({"a": bad, "b": [1.5, (bad, "x")], "c": {"d": bad}})
    assert json.loads(text, parse_constant=refuse) == {"a": None, "b": [1.5, [None, "x"]], "c": {"d": None}}


def test_all_else_is_as_json_writes_it() -> None:
    data = {"é": [1, 2.5, True, None, "x"]}
    assert json_text(data, indent=1, ensure_ascii=False) == json.dumps(data, indent=1, ensure_ascii=False)
