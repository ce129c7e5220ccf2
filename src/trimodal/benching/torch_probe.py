"""As `probe.py`, of a model in PyTorch."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict

START = time.perf_counter()

from trimodal.benching.probe import run_job  # noqa: E402 - the import of torch belongs to what is measured
from trimodal.benching.torch_session import TorchSession, open_torch_components, use_torch_threads  # noqa: E402


def main() -> None:
    """One job from standard input."""
    job = json.load(sys.stdin)
    use_torch_threads(job["threads"])
    print(json.dumps(asdict(run_job(job, lambda: TorchSession(open_torch_components(job["file"])[job["component"]]), START))))


if __name__ == "__main__":
    main()
