"""Which parts of the contract only `make test-all` runs: what the other families repeat of the quick ones."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

FILES = ("test_contract.py", "test_trial_contract.py")
QUICK = ("llama", "resnet", "fusion")
EVERYWHERE = (
    "quantize.rtn", "quantize.smooth", "prune.neurons", "prune.heads",
    "factorize.eigen", "merge.tokens", "prune.tokens", "fold.exact",
)  # fmt: skip


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Mark as slow what repeats on further families what is seen on the quick ones, but for one method of each kind."""
    for item in (item for item in items if any(file in item.nodeid for file in FILES)):
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        name, method = parameters.get("case", (parameters.get("name"), parameters.get("method")))
        asked = getattr(item, "originalname", "")
        if asked == "test_known_refusals_are_errors_with_a_reason" or name is None or method is None:
            continue
        twice = asked == "test_same_seed_same_bytes"
        if name not in (QUICK[:2] if twice else QUICK) and (twice or method not in EVERYWHERE):
            item.add_marker(pytest.mark.slow)
