"""Ask a fresh process what a variant's component takes to open and run (`probe.py`)."""

from __future__ import annotations

import json
import subprocess
import sys

from trimodal.benching.probe import Facts
from trimodal.benching.variants import TORCH, Variant
from trimodal.errors import IntegrityError
from trimodal.runtimes.model_limits import count_safe_words

_SECONDS = 600


def probe_component(variant: Variant, component: str, batch: int, tokens: int, threads: int) -> Facts:
    """Open and run the component once in a fresh process.

    Raises:
        IntegrityError: it does not run.
    """
    job = {
        "runtime": variant.runtime, "file": str(variant.files[component]), "component": component, "shapes": variant.shapes[component],
        "batch": batch, "tokens": tokens, "threads": threads, "words": count_safe_words(variant.folder),
    }  # fmt: skip
    module = "trimodal.benching.torch_probe" if variant.runtime == TORCH else "trimodal.benching.probe"
    done = subprocess.run(
        [sys.executable, "-m", module], input=json.dumps(job), capture_output=True, text=True, timeout=_SECONDS, check=False
    )
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise IntegrityError(f"{variant.name} does not run in a fresh process: {said[:300]}")
    return Facts(**json.loads(done.stdout.splitlines()[-1]))
