"""What all kinds of edits use: how one is read from a file that anybody may have written, and how values get into a module."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from torch import Tensor, nn

Whole = Annotated[int, Field(ge=0, strict=True)]  # strict: neither a text nor a truth value stands for a number
Truth = Annotated[bool, Field(strict=True)]

_Record = TypeVar("_Record")


class UnfitEditError(Exception):
    """An edit that cannot be carried out, and why."""


def read_fields(kind: type[_Record], verb: str, what: Any) -> _Record:
    """The record of `kind` that holds `what`, which has exactly its fields, each of the type that the record declares.

    Raises:
        UnfitEditError: it has not.
    """
    try:
        return _adapter_of(kind).validate_python(what)  # type: ignore[no-any-return, arg-type]
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise UnfitEditError(f"is a {verb} of {what!r:.40}: {where or 'it':.80}: {first['msg']:.120}") from error


@cache
def _adapter_of(kind: type[Any]) -> TypeAdapter[Any]:
    """Checks data against the fields of the dataclass `kind`."""
    kind.__pydantic_config__ = ConfigDict(extra="forbid")
    return TypeAdapter(kind)


def set_values_(module: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Set parameters by name, keeping their shapes and types."""
    for name, value in values.items():
        path, _, tensor = name.rpartition(".")
        layer = module.get_submodule(path)
        old: Tensor = getattr(layer, tensor)
        setattr(layer, tensor, nn.Parameter(value.to(old).view_as(old), requires_grad=old.requires_grad))


def replace_module_(module: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Let `new` stand wherever `old` does, which may be in several places."""
    for parent in list(module.modules()):
        for name, child in parent._modules.items():
            if child is old:
                parent._modules[name] = new
