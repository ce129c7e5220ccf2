"""Methods and families of a program's own, without a package."""

from __future__ import annotations

from trimodal.errors import InputError
from trimodal.installed import FAMILIES, METHODS, register_record
from trimodal.methods import METHODS as OUR_METHODS
from trimodal.methods import Method
from trimodal.models.model import Family


def register(*records: Method | Family) -> None:
    """Add methods and families of your own, in this process; see docs/extending.md. A family goes before ours of the same model type.

    Other processes, such as the one that proves that a result reloads, know only what a package declares as an entry point.

    Args:
        records: each a `trimodal.methods.Method` or a `trimodal.models.model.Family`.

    Raises:
        InputError: something else is given, or a method has the name of one of ours.
    """
    for record in records:
        if not isinstance(record, Method | Family):
            raise InputError(
                f"{type(record).__name__} cannot be registered; expected a trimodal.methods.Method or a trimodal.models.model.Family"
            )
        if isinstance(record, Method) and any(known.name == record.name for known in OUR_METHODS):
            raise InputError(f"there is a method {record.name!r} already; give yours another name")
    for record in records:
        register_record(METHODS if isinstance(record, Method) else FAMILIES, record)
