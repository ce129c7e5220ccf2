"""Which parts of the contract only `make test-all` runs: reloading looks alike for methods that store alike."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

QUICK = ("llama", "resnet", "fusion", "lstm")
RELOADED_EVERYWHERE = (
    "quantize.rtn", "quantize.smooth", "quantize.entropy", "prune.wanda", "prune.neurons", "prune.heads",
    "factorize.eigen",
)  # fmt: skip


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Mark as slow what repeats on further families what is seen on the quick ones."""
    for item in items:
        if getattr(item, "originalname", "") == "test_artifact_reloads_to_the_same_outputs":
            name, method = item.callspec.params["case"]  # type: ignore[attr-defined]
            if name not in QUICK and method not in RELOADED_EVERYWHERE:
                item.add_marker(pytest.mark.slow)
