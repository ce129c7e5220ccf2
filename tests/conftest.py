"""What all tests share: quiet libraries, one thread unless OMP_NUM_THREADS says otherwise, one seed, and miniatures
compressed without any file."""

from __future__ import annotations

import copy
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any

# Before torch is there, and for the processes that tests start too. MKL adds in an order that depends on where in memory
# a tensor happens to lie, unless it is told not to: a model read from a file would differ from itself in the last bits.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_CBWR", "AUTO")

import pytest
import torch
from forked_reload import ForkedReload
from hypothesis import HealthCheck, settings
from torch import Tensor, nn

from trimodal.compression import batches as batches_module
from trimodal.compression import compress_, solve_context, training_steps
from trimodal.core import Calibration, FitRecord, Layout, PlaceRecord, Plan, Sample, Source
from trimodal.formats import reload_check
from trimodal.graph.fusion_discovery import discover_folds
from trimodal.loading.load import build_model
from trimodal.models.model import Model
from trimodal.models.tensors import tensor_bytes, unique_tensors
from trimodal.networks.tiny import make_miniature, make_miniature_batch
from trimodal.planning import plan_edits, read_recipe

# No example may take too long: the machine may be busy. `make test` tries the same examples everywhere, `make test-all` new ones.
settings.register_profile("search", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("same", settings.get_profile("search"), derandomize=True)
settings.load_profile("same")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give the tests of a file to one worker, since they share what its fixtures make, and those that share more: a case of the contract,
    what serving exports.

    `xdist_group` would say it, but pytest 9.2 does not let xdist 3.8 change the names of tests, by which it groups.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByWhatIsShared(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file, _, test = nodeid.partition("::")
            if "tests/serving/" in file:
                return "tests/serving"
            return test.partition("[")[2] if file.endswith("contract/test_contract.py") and "[" in test else file

    return ByWhatIsShared(config, log)


@pytest.fixture(scope="session", autouse=True)
def _forked_reload() -> Iterator[None]:
    """Folders are reloaded in forks of one process that has imported already (`forked_reload.py`)."""
    forked = ForkedReload(reload_check._PROGRAM)
    if os.environ.get("TRIMODAL_TEST_FRESH") != "1":
        reload_check.subprocess = forked  # type: ignore[assignment]
    yield
    reload_check.subprocess = subprocess
    forked.close()


@pytest.fixture
def fresh_reload(monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders are reloaded by processes that are really new."""
    monkeypatch.setattr(reload_check, "subprocess", subprocess)


@pytest.fixture(autouse=True)
def _same_numbers() -> None:
    torch.manual_seed(0)


@pytest.fixture
def hears_signals() -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGHUP reach the test and the processes that it starts, also where whoever started pytest has
    them ignored, as nohup and background jobs have."""
    handlers = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL, signal.SIGHUP: signal.SIG_DFL}
    kept = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    yield
    for number, handler in kept.items():
        signal.signal(number, signal.SIG_DFL if handler is None else handler)


@dataclass
class Compressed:
    """A miniature after a recipe, and what it was before. `batches` is what it was calibrated on."""

    model: Model
    original: Model
    plan: Plan
    expected: Layout
    records: Sequence[PlaceRecord | FitRecord]
    batches: Sequence[Mapping[str, Tensor]]


def tiny(name: str, seed: int = 0) -> Model:
    """The miniature called `name` with its layout."""
    return build_model(make_miniature(name, seed), name)


@pytest.fixture(scope="session")
def tiny_model() -> Callable[..., Model]:
    return tiny


@contextmanager
def stand_in(batches: Sequence[Mapping[str, Tensor]]) -> Iterator[list[Sample]]:
    """Meanwhile `batches` are what the samples yielded, one for each, are encoded as."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (batches_module, solve_context, training_steps):
            patch.setattr(
                module, "make_batches", lambda model, samples, size, **rest: [batches[sample.line] for sample in samples]
            )
        yield [Sample(line) for line in range(len(batches))]


@pytest.fixture(scope="session")
def stand_in_samples() -> Callable[..., AbstractContextManager[list[Sample]]]:
    """The function `stand_in`."""
    return stand_in


def carry_out(
    name: str | nn.Module | Model, steps: Sequence[Mapping[str, Any]], samples: int = 4, data: bool = True,
    given: Sequence[Mapping[str, Tensor]] = (), **recipe: Any,
) -> Compressed:  # fmt: skip
    """Plan `steps` for the miniature called `name`, or any model, and carry them out; `recipe` holds the recipe's other keys.

    Two batches of so many `samples`, or those `given`, stand in for what would be read from files.
    """
    model = name if isinstance(name, Model) else tiny(name) if isinstance(name, str) else build_model(name.eval(), "net")
    original = replace(model, module=copy.deepcopy(model.module))
    batches = list(given)
    if isinstance(name, str) and data and not given:
        batches = [make_miniature_batch(name, samples, seed) for seed in (1, 2)]
    wanted = read_recipe({"steps": list(steps), **recipe})
    if any(step.method.on == "fold" for step in wanted.steps):
        model.layout = discover_folds(model, batches)
    edits, after = plan_edits(model.layout, wanted, data)
    before = tensor_bytes(unique_tensors(model.module).values())
    saved = sum(place.bytes_before - place.bytes_after for edit in edits for place in edit.places)
    source = Source(model.name, model.family.name, "", 0, before)
    calibration = Calibration(2 * samples, None, (), recipe.get("calibration", {}).get("balance", "modality"))
    plan = Plan(recipe.get("seed", 0), source, calibration, edits, before - saved)
    with stand_in(batches) as samples_:
        records = compress_(model, plan, samples_, samples_, original)
    return Compressed(model, original, plan, after, records, batches)


@pytest.fixture(scope="session")
def compressed() -> Callable[..., Compressed]:
    """The function `carry_out`."""
    return carry_out
