"""Make stock Transformers know our artifacts and our fused models, without importing Transformers.

`import trimodal` has to stay light, and afterwards `AutoModel.from_pretrained(OUT)` has to work. So the registration
waits: it runs right after Transformers imports the module that holds the table in question, or at once if it has.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

_REGISTER = {
    "transformers.quantizers.auto": "trimodal.stock.quantizer",
    "transformers.models.auto.modeling_auto": "trimodal.networks",
}


def register_with_transformers() -> None:
    """Register now what Transformers has imported, and the rest when it does."""
    if not any(isinstance(finder, _RegistrationFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _RegistrationFinder())  # first: registering with one table may import the other
    for table, ours in _REGISTER.items():
        if table in sys.modules:
            import_module(ours).register()


class _RegistrationFinder(MetaPathFinder):
    """Finds the tables' modules as everybody else does, and adds our registration behind their execution."""

    def __init__(self) -> None:
        self._busy = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The usual spec with a loader that registers afterwards; None for all other modules."""
        if fullname not in _REGISTER or self._busy:
            return None
        self._busy = True
        try:
            spec = find_spec(fullname)
        finally:
            self._busy = False
        if spec is not None and spec.loader is not None:
            ours = _REGISTER[fullname]
            spec.loader = _RegistrationLoader(spec.loader, lambda: import_module(ours).register())
        return spec


class _RegistrationLoader(Loader):
    """Another loader's work, and then `then`."""

    def __init__(self, loader: Loader, then: Callable[[], None]) -> None:
        self._loader = loader
        self._then = then

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """As the other loader does."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """As the other loader does, then register."""
        self._loader.exec_module(module)
        self._then()
