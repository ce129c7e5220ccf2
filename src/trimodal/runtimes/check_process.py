"""What the fresh process of `exporting/self_check.py` does, without torch: open each file in its runtime, run it, write what came out.

It lies here since a module of `exporting/` would bring all of that room into the process, and torch with it: 4 CPU seconds an export.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from trimodal.runtimes import RUNTIMES


def run_probes() -> None:
    """Carry out `jobs.json` in the folder that the first argument names."""
    scratch = Path(sys.argv[1])
    asked = json.loads((scratch / "jobs.json").read_text(encoding="utf-8"))
    nodes = []
    for job in asked["jobs"]:
        session = RUNTIMES[asked["runtime"]](Path(job["file"]), asked["threads"], exact=True)
        with np.load(scratch / job["inputs"]) as inputs:
            found = session.run({name: inputs[name] for name in inputs.files})
        np.savez(scratch / job["outputs"], **found)  # type: ignore[arg-type]
        nodes.append(list(session.list_integer_nodes()) if job["nodes"] else [])
        session.close()
    (scratch / "nodes.json").write_text(json.dumps(nodes), encoding="utf-8")
