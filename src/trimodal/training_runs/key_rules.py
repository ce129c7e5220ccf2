"""What the parts of a training configuration have in common."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict

RULES = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, populate_by_name=True)


def _read_exponent(value: Any) -> Any:
    """YAML takes 1e-3 for text; whoever writes it means a number."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


Number = Annotated[float, BeforeValidator(_read_exponent)]
