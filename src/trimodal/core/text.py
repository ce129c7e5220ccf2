"""How everything that is written as JSON is written: valid for any reader, so that no NaN or Infinity stands in it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any


def json_text(data: Any, **style: Any) -> str:
    """`data` as JSON, with null for numbers that are not finite, which JSON cannot hold; `style` as `json.dumps` takes it."""
    return json.dumps(_replace_nonfinite(data), allow_nan=False, **style)


def _replace_nonfinite(data: Any) -> Any:
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, Mapping):
        return {_to_json_key(key): _replace_nonfinite(value) for key, value in data.items()}
    return [_replace_nonfinite(value) for value in data] if isinstance(data, list | tuple) else data


def _to_json_key(key: Any) -> Any:
    return str(key) if isinstance(key, float) and not math.isfinite(key) else key
