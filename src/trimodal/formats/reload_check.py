"""The proof that an artifact reloads: load it in a fresh process, run it, and compare with the model in memory.

`_PROGRAM` is the fresh process, with the arguments FOLDER PROBE RESULT [FACTORY].
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from trimodal.core import Check, StockLoad
from trimodal.errors import IntegrityError, OutputError
from trimodal.formats import stock_load_check
from trimodal.formats.artifact import open_model
from trimodal.formats.stock_load_check import collect_outputs
from trimodal.models.model import Batch, Model, device_of
from trimodal.writing import open_scratch_folder

_PROGRAM = """
from trimodal.garbage import skip_final_collection, freeze_imports
with freeze_imports():
    from trimodal.formats.reload_check import run_reload_probe
skip_final_collection()
run_reload_probe()
"""
_TOLERANCE = 1e-6
_ROUNDING = 1e-5  # of the largest output


def digest_decoded_weights(model: Model) -> str:
    """sha256 over every site's weight as the forward pass sees it."""
    digest = hashlib.sha256()
    for site in model.layout.sites:
        weight: Any = model.module.get_submodule(site.path).weight
        plain = weight.detach().cpu().contiguous()
        digest.update(f"{site.path}|{plain.dtype}|{tuple(plain.shape)}\n".encode())
        digest.update(plain.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def run_fresh_checks(model: Model, folder: Path, batch: Batch | None, factory: str | None, stock: StockLoad) -> list[Check]:
    """The checks in fresh processes of what was written into `folder`: that it reloads, and with stock Transformers too where
    `stock` says so.

    Raises:
        IntegrityError: one of them fails.
    """
    if model.folder is None and factory is None:
        return [Check("reloads in a fresh process", "not run", "the function has no name that another process could import")]
    checks = run_reload_checks(model, folder, batch, factory)
    if stock.alone:
        checks.append(run_stock_check(model, folder, batch))
    failed = [check for check in checks if check.failed]
    if failed:
        raise IntegrityError(
            f"what was written does not reload to the same model ({failed[0].name}: {failed[0].detail}); nothing was kept"
        )
    return checks


def run_reload_checks(model: Model, folder: Path, batch: Batch | None, factory: str | None) -> list[Check]:
    """Load `folder` in a fresh process and compare decoded weights and, for `batch`, outputs with `model`."""
    environment = {"PYTHONPATH": os.pathsep.join(sys.path)} if factory else {}  # what could be imported here can be there
    program = ["-P", "-c", _PROGRAM]
    try:
        found, said = _run_process(program, [str(folder)], [factory] if factory else [], batch, environment)
    except _ProcessFailedError as reason:
        return [Check.from_outcome("reloads in a fresh process", False, str(reason))]
    with _keep_on_cpu(model.module):
        same = json.loads(said)["digest"] == digest_decoded_weights(model)
        expected = {} if batch is None else collect_outputs(model.module, _batch_to_cpu(batch))
    weights = Check.from_outcome("decoded weights equal after reload", same, "sha256 over all sites" + ("" if same else " differs"))
    checks = [Check.from_outcome("reloads in a fresh process", True, "loaded from the folder alone"), weights]
    if batch is not None:
        checks.append(_compare_outputs("outputs equal after reload", expected, found))
    return checks


def run_stock_check(model: Model, folder: Path, batch: Batch | None) -> Check:
    """Load `folder` with stock Transformers where trimodal cannot be imported, and compare outputs for `batch`."""
    name = "loads with stock Transformers alone"
    try:
        found, _ = _run_process(["-P", str(Path(stock_load_check.__file__))], [str(folder)], [], batch, {})
    except _ProcessFailedError as reason:
        return Check.from_outcome(name, False, str(reason))
    if batch is None:
        return Check.from_outcome(name, True, "all tensors of the class are there, and no other")
    with _keep_on_cpu(model.module):
        return _compare_outputs(name, collect_outputs(model.module, _batch_to_cpu(batch)), found)


@contextmanager
def _keep_on_cpu(module: nn.Module) -> Iterator[None]:
    """Meanwhile `module` is where the fresh process computes: other devices round otherwise."""
    device = device_of(module)
    module.to("cpu")
    try:
        yield
    finally:
        module.to(device)


def _batch_to_cpu(batch: Batch) -> dict[str, Tensor]:
    return {name: tensor.cpu() for name, tensor in batch.items()}


class _ProcessFailedError(Exception):
    """The other process did not end well; the last line that it said."""


def _run_process(
    program: list[str], before: list[str], after: list[str], batch: Batch | None, environment: Mapping[str, str]
) -> tuple[dict[str, Tensor], str]:
    """Run `program` with the arguments `before`, a file with `batch`, one for its results, and `after`: the results, and
    the last line that it printed."""
    with open_scratch_folder("the inputs of the reload check") as scratch:
        probe, result = scratch / "probe.safetensors", scratch / "result.safetensors"
        save_file({k: v.contiguous().cpu() for k, v in (batch or {}).items()}, probe)
        threads = str(torch.get_num_threads())
        # What the other process writes for a moment lies in here too, so that it goes when that process is killed.
        whole = {**os.environ, "TMPDIR": str(scratch), "OMP_NUM_THREADS": threads, "TRANSFORMERS_VERBOSITY": "error", **environment}
        command = [sys.executable, *program, *before, str(probe), str(result), *after]
        done = subprocess.run(command, env=whole, capture_output=True, text=True)
        if done.returncode != 0:
            said = (done.stderr.strip().splitlines() or ["no message"])[-1]
            if "os error 28" in said or "No space left" in said:
                raise OutputError(f"the reload check has no room in {scratch.parent.parent}; set TMPDIR to a place with more")
            raise _ProcessFailedError(said)
        return load_file(result), (done.stdout.strip().splitlines() or [""])[-1]


def _compare_outputs(name: str, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> Check:
    if expected.keys() != found.keys():
        return Check.from_outcome(name, False, f"found {sorted(found)}, expected {sorted(expected)}")
    differences = {key: _max_difference(expected[key], found[key]) for key in expected}
    same = all(difference <= _allowed_difference(expected[key]) for key, difference in differences.items())
    worst = max(differences.values(), default=0.0)
    return Check.from_outcome(name, same, f"largest absolute difference {worst:g} over {len(expected)} outputs")


def _allowed_difference(output: Tensor) -> float:
    """How far the output of a second process may be from `output`: a product of the same matrices differs in its last bits
    by where in memory they lie, and a file puts them elsewhere."""
    sizes = output[output.isfinite()].double().abs() if output.is_floating_point() else output[:0]
    return max(_TOLERANCE, _ROUNDING * float(sizes.max())) if sizes.numel() else _TOLERANCE


def _max_difference(a: Tensor, b: Tensor) -> float:
    """Largest |a − b|; equal non-finite entries count as equal."""
    if a.shape != b.shape:
        return float("inf")
    different = (a != b) & ~(a.isnan() & b.isnan()) if a.is_floating_point() else a != b
    return float((a.double() - b.double()).abs()[different].max()) if bool(different.any()) else 0.0


def run_reload_probe() -> None:
    """What the fresh process does: load the folder, write its outputs for the probe, and print a digest of its weights."""
    folder, probe, result, *factory = sys.argv[1:]
    model = open_model(folder, factory[0] if factory else None)
    batch = load_file(probe)
    save_file({k: v.clone() for k, v in collect_outputs(model.module, batch).items()} if batch else {}, result)
    print(json.dumps({"digest": digest_decoded_weights(model)}))
