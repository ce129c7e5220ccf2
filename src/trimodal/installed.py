"""What other packages and the running program add to ours: methods and families, by entry point or by `trimodal.register`.

    [project.entry-points."trimodal.methods"]
    random = "my_package.random_pruning:METHOD"

An entry point is loaded when somebody first asks for its group, and not before: it imports torch.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points
from typing import Any, TypeVar

from trimodal.errors import InputError

METHODS, FAMILIES, SOURCES = "trimodal.methods", "trimodal.families", "trimodal.sources"
_Record = TypeVar("_Record")
_registered: dict[str, list[Any]] = {}


def register_record(group: str, record: Any) -> None:
    """Add `record` to `group` in this process; one of the same name that was added before gives way."""
    others = [one for one in _registered.get(group, []) if one.name != record.name]
    _registered[group] = [*others, record]


def list_added(group: str, kind: type[_Record]) -> tuple[_Record, ...]:
    """What was added to `group`, all of type `kind`: first what the program registered, then what packages declare.

    Raises:
        InputError: a package's entry point cannot be loaded, or is something else.
    """
    found: list[_Record] = list(_registered.get(group, ()))
    for where, record in _load_entry_points(group):
        if not isinstance(record, kind):
            raise InputError(
                f"{where} is a {type(record).__name__}, expected a {kind.__module__}.{kind.__name__}; mend or uninstall that package"
            )
        found.append(record)
    return tuple(found)


def has_added(group: str) -> bool:
    """Whether anything was added to `group`; loads nothing."""
    return bool(_registered.get(group)) or bool(entry_points(group=group))


@cache
def _load_entry_points(group: str) -> tuple[tuple[str, Any], ...]:
    """Each entry point of `group` as an error calls it, and what it gives."""
    found = []
    for entry in sorted(entry_points(group=group), key=lambda one: one.name):
        package = f" of the package {entry.dist.name}" if entry.dist is not None else ""
        where = f"the entry point {entry.name!r}{package} ({entry.value}, group {group})"
        try:
            found.append((where, entry.load()))
        except Exception as error:  # another package's code may raise anything
            raise InputError(f"{where} cannot be loaded ({type(error).__name__}: {error}); mend or uninstall that package") from error
    return tuple(found)
