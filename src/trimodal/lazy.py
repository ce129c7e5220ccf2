"""Modules that are imported when something of them is first used: help and lists must not wait for torch."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Any

from trimodal.garbage import freeze_imports


class _LazyModule(ModuleType):
    """Stands in for the module called `__name__`; nothing is imported before one of its names is asked for."""

    def __getattr__(self, name: str) -> Any:
        loaded = self.__dict__.get("_loaded")
        if loaded is None:
            with freeze_imports():
                loaded = self.__dict__["_loaded"] = import_module(self.__name__)
        return getattr(loaded, name)


def lazy_module(name: str) -> Any:
    """The module called `name`, imported at its first use, in a process that is ours alone (see `garbage.py`)."""
    return _LazyModule(name)
