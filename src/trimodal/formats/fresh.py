"""The proof that an artifact reloads: load it in a fresh process, run it, and compare with the model in memory.

Run as a program it is the fresh process: `python -m trimodal.formats.fresh FOLDER PROBE RESULT [FACTORY]`.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from trimodal.core import Check
from trimodal.formats.artifact import open_model
from trimodal.models.model import Batch, Model

_TOLERANCE = 1e-6


def decoded_digest(model: Model) -> str:
    """sha256 over every site's weight as the forward pass sees it."""
    digest = hashlib.sha256()
    for site in model.layout.sites:
        weight: Any = model.module.get_submodule(site.path).weight
        plain = weight.detach().cpu().contiguous()
        digest.update(f"{site.path}|{plain.dtype}|{tuple(plain.shape)}\n".encode())
        digest.update(plain.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def outputs(module: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Every tensor of the module's output for `batch`, by name."""
    with torch.inference_mode():
        result = module(**batch)
    if isinstance(result, Tensor):
        return {"output": result.contiguous().cpu()}
    named = result.items() if isinstance(result, Mapping) else enumerate(result)
    return {str(name): value.contiguous().cpu() for name, value in named if isinstance(value, Tensor)}


def reload_checks(model: Model, folder: Path, batch: Batch | None, factory: str | None) -> list[Check]:
    """Load `folder` in a fresh process and compare decoded weights and, for `batch`, outputs with `model`."""
    with tempfile.TemporaryDirectory() as scratch:
        probe, result = Path(scratch) / "probe.safetensors", Path(scratch) / "result.safetensors"
        save_file({k: v.contiguous().cpu() for k, v in (batch or {}).items()}, probe)
        arguments = [str(folder), str(probe), str(result), *([factory] if factory else [])]
        threads = str(torch.get_num_threads())
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "TRANSFORMERS_VERBOSITY": "error"}
        if factory:
            environment["PYTHONPATH"] = os.pathsep.join(sys.path)  # what could be imported here can be there
        command = [sys.executable, "-P", "-m", "trimodal.formats.fresh", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode != 0:
            reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
            return [Check("reloads in a fresh process", False, reason)]
        found = load_file(result)
        digest = json.loads(done.stdout.strip().splitlines()[-1])["digest"]
    same = digest == decoded_digest(model)
    weights = Check("decoded weights equal after reload", same, "sha256 over all sites" + ("" if same else " differs"))
    checks = [Check("reloads in a fresh process", True, "loaded from the folder alone"), weights]
    if batch is not None:
        checks.append(_compare(outputs(model.module, batch), found))
    return checks


def _compare(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> Check:
    name = "outputs equal after reload"
    if expected.keys() != found.keys():
        return Check(name, False, f"found {sorted(found)}, expected {sorted(expected)}")
    worst = max((_difference(expected[key], found[key]) for key in expected), default=0.0)
    return Check(name, worst <= _TOLERANCE, f"largest absolute difference {worst:g} over {len(expected)} outputs")


def _difference(a: Tensor, b: Tensor) -> float:
    """Largest |a − b|; equal non-finite entries count as equal."""
    if a.shape != b.shape:
        return float("inf")
    different = (a != b) & ~(a.isnan() & b.isnan()) if a.is_floating_point() else a != b
    return float((a.double() - b.double()).abs()[different].max()) if bool(different.any()) else 0.0


def _main() -> None:
    folder, probe, result, *factory = sys.argv[1:]
    model = open_model(folder, factory[0] if factory else None)
    batch = load_file(probe)
    save_file({k: v.clone() for k, v in outputs(model.module, batch).items()} if batch else {}, result)
    print(json.dumps({"digest": decoded_digest(model)}))


if __name__ == "__main__":
    _main()
