"""Which parts of the contract only `make test-all` runs: what the other families repeat of the quick ones."""

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
    for item in (item for item in items if "test_contract.py" in item.nodeid):
        asked = getattr(item, "originalname", "")
        if asked == "test_same_seed_same_bytes":
            repeated = item.callspec.params["name"] not in QUICK  # type: ignore[attr-defined]
        elif asked == "test_artifact_reloads_to_the_same_outputs":
            name, method = item.callspec.params["case"]  # type: ignore[attr-defined]
            repeated = name not in QUICK and method not in RELOADED_EVERYWHERE
        else:
            continue
        if repeated:
            item.add_marker(pytest.mark.slow)
