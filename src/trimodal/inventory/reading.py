"""`inventory.json`, the arrow from inspect to plan: read back, and held against the model that is to be planned for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trimodal.errors import InputError
from trimodal.inventory.result import Inventory
from trimodal.models.model import Model

InventorySource = Inventory | str | Path | Mapping[str, Any]
_ANEW = "write it with `trimodal inspect MODEL -o inventory.json`"


def read_inventory(source: InventorySource, model: Model, fingerprint: str) -> Inventory:
    """The inventory that a file or mapping holds, which must be that of `model`, whose tensors have the `fingerprint`.

    Raises:
        InputError: it cannot be read, or is another model's.
    """
    found, name = (source, "the inventory") if isinstance(source, Inventory) else _read_source(source)
    if found.fingerprint != fingerprint:
        raise InputError(
            f"{name} is of another model ({found.name}, fingerprint {found.fingerprint[:12] or 'unknown'}; that of {model.name} is "
            f"{fingerprint[:12]}); {_ANEW}"
        )
    if {tower.name for tower in found.towers} != {tower.name for tower in model.layout.towers}:
        raise InputError(f"{name} does not list the towers that {model.name} has; {_ANEW}")
    return found


def _read_source(source: str | Path | Mapping[str, Any]) -> tuple[Inventory, str]:
    """The inventory, and what to call where it came from."""
    name = "the inventory" if isinstance(source, Mapping) else str(source)
    try:
        data = source if isinstance(source, Mapping) else json.loads(Path(source).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{name} cannot be read ({error.strerror}); {_ANEW}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name} is no inventory ({type(error).__name__}: {error}); {_ANEW}") from error
    return Inventory.from_json(data, f"{name} is no inventory", _ANEW), name
