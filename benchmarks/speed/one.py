"""All rows of one model, in one process, timed in turn. Started by `__main__.py` in the environment that has the peers.

`python -m benchmarks.speed.one JOB.json` writes what it measured into the job's `result`, after every table.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.speed.models import CASES, Case, open_case
from benchmarks.speed.ours import FLOAT, WEIGHTS, list_kinds, make_ours
from benchmarks.speed.peers import NNCF, TORCH, Arrays, Run, make_graph_peers, make_torch_peers

_RUNTIMES = {"onnx": "onnxruntime", "openvino": "openvino"}
_LABELS = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
_FIDELITY_SAMPLES = 8


def name_ours(kind: str, runtime: str, exact: bool = False) -> str:
    """What our row is called; `exact` where the runtime was told not to round the inputs of products with coded weights."""
    return f"ours {kind}, {_LABELS[runtime]}{', inputs not rounded' if exact else ''}"


def list_makers(
    case: Case, component: Any, job: Mapping[str, Any], scratch: Path
) -> dict[str, Callable[[], Run]]:
    """By row: what makes it."""
    from trimodal.runtimes import RUNTIMES

    peers, threads = job["peers"], job["threads"]
    makers: dict[str, Callable[[], Run]] = dict(make_torch_peers(component, peers))
    if not peers:
        makers = {TORCH: makers[TORCH]}
    float_file = Path(make_ours(case, FLOAT)["onnx"][component.name])
    calibration = to_arrays(case.inputs(case.calibration, 0), component)
    graph = dict(make_graph_peers(float_file, calibration, case.transformer, threads, scratch))
    makers |= {name: make for name, make in graph.items() if peers or name != NNCF}
    for kind in list_kinds(case):
        for form, files in make_ours(case, kind).items():
            runtime = _RUNTIMES[form]
            for exact in (False, True) if kind == WEIGHTS else (False,):
                makers[name_ours(kind, runtime, exact)] = partial(
                    lambda file, runtime, exact: RUNTIMES[runtime](Path(file), threads, exact).run, files[component.name], runtime, exact
                )
    return {name: make for name, make in makers.items() if job["only"] in name or name == TORCH}


def to_arrays(inputs: Mapping[str, Any], component: Any) -> dict[str, Any]:
    """The component's share of a model's inputs; what the case leaves out is zero (which text a token is of)."""
    known = {name: value.numpy() for name, value in inputs.items()}
    return {name: known[name] if name in known else np.zeros_like(known["input_ids"]) for name in component.inputs}


def build_rows(makers: Mapping[str, Callable[[], Run]], inputs: Arrays) -> tuple[dict[str, Run], dict[str, str]]:
    """What runs, by row, and what was said where one does not."""
    rows: dict[str, Run] = {}
    failed: dict[str, str] = {}
    for name, make in makers.items():
        start = time.perf_counter()
        try:
            run = make()
            run(inputs)
            rows[name] = run
            print(f"  {name}: made in {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
        except Exception as error:  # whatever a peer throws belongs in the table
            failed[name] = f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
            print(f"  {name}: {failed[name]}", file=sys.stderr, flush=True)
    return rows, failed


def measure_fidelity(case: Case, rows: Mapping[str, Run], inputs: Arrays) -> dict[str, float | None]:
    """By row: the lowest mean cosine of an output to torch's, over samples that nothing was calibrated with; MiniLM's outputs are pooled
    as its users do."""
    from trimodal.benching.fidelity import compare_outputs

    outputs = {name: select_outputs(case, run(inputs), inputs) for name, run in rows.items()}
    found: dict[str, float | None] = {}
    for name, given in outputs.items():
        cosines = compare_outputs(given, outputs[TORCH]).values()
        found[name] = None if any(cosine is None for cosine in cosines) else min(c for c in cosines if c is not None)
    return found


def select_outputs(case: Case, outputs: Arrays, inputs: Arrays) -> Arrays:
    """Those that users look at."""
    if not case.real:
        return outputs
    mask = inputs["attention_mask"][:, :, None]
    return {"embedding": (outputs["last_hidden_state"] * mask).sum(axis=1) / mask.sum(axis=1)}


def measure_component(case: Case, component: Any, job: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One table for each batch size."""
    from trimodal.benching.conditions import read_conditions
    from trimodal.benching.timing import time_in_turn

    tables = []
    with tempfile.TemporaryDirectory() as scratch:
        makers = list_makers(case, component, job, Path(scratch))
        first = to_arrays(case.timed(job["batch"][0]), component)
        rows, failed = build_rows(makers, first)
        fidelity = measure_fidelity(case, rows, to_arrays(case.inputs(case.judged, 1), component))
        for batch in job["batch"]:
            inputs = to_arrays(case.timed(batch), component)
            calls = {name: partial(run, inputs) for name, run in rows.items()}
            found = time_in_turn(calls, read_conditions(job["threads"]), job["rounds"])
            tables.append({
                "component": component.name, "batch": batch, "noise": found.noise, "failed": failed,
                "rows": {
                    name: {"ms": t.median * 1e3, "low": t.low * 1e3, "high": t.high * 1e3, "noisy": t.noisy, "cosine": fidelity[name]}
                    for name, t in found.by_name.items()
                },
            })  # fmt: skip
    return tables


def measure_ceiling() -> float:
    """10⁹ multiply-adds per second of the quickest int8 product that torch has here, 2048 cubed."""
    import torch

    one, other = (torch.randint(-100, 100, (2048, 2048), dtype=torch.int8) for _ in range(2))
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    times = []
    for _ in range(5):
        start = clock()
        torch._int_mm(one, other)
        times.append(clock() - start)
    return float(2048**3 / min(times) / 1e9)


def main() -> None:
    """The job in the file that is named."""
    job = json.loads(Path(sys.argv[1]).read_text())
    import torch

    from trimodal.exporting.components import split_components
    from trimodal.inventory import inspect

    torch.set_num_threads(job["threads"])
    case = CASES[job["model"]]
    model = open_case(case)
    said: dict[str, Any] = {"tables": [], "ceiling": measure_ceiling(), "macs": inspect(model).macs or 0}
    for component in split_components(model):
        said["tables"] += measure_component(case, component, job)
        Path(job["result"]).write_text(json.dumps(said))


if __name__ == "__main__":
    main()
