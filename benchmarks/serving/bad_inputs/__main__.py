"""The 86 bad inputs of a served model: what comes of each, and whether the service is as it was before.

`python -m benchmarks.serving.bad_inputs` serves a small CLIP, a small Whisper and a model of tensors by `trimodal serve`, two workers,
and sends every variant of every row over a socket of its own. Behind each variant a good request must get its right answer from the same
processes. Folders that must not be served are given to the command line. Faults of operation (81 to 86) are made to services of their
own. Then 10,000 bad requests are sent, and memory is measured before and after. `--quick` leaves out the largest variants and sends 500;
`--only 13,27` takes these rows; `--no-soak` leaves the end out.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.passlines import PassLine, finish, table
from benchmarks.serving.bad_inputs import (
    computing,
    embeddings,
    endpoints,
    folders,
    fuzz,
    grpc_calls,
    images,
    lifecycle,
    sounds,
    tensors,
    texts,
    transport,
)
from benchmarks.serving.bad_inputs.cases import Outcome, Place, Row
from benchmarks.serving.bad_inputs.good import take_answers
from benchmarks.serving.bad_inputs.models import write_artifact, write_models
from benchmarks.serving.bad_inputs.soak import Soak, soak
from benchmarks.serving.bad_inputs.trying import Known, try_row, try_rows
from benchmarks.serving.running import run_service

ROWS = 86
_DRAWN = {True: 3, False: 25}
"""Requests that schemathesis draws for each operation, with --quick and without."""
_DECLARED_SECONDS, _GROWTH = 0.05, 0.05


def list_asked(quick: bool) -> list[Row]:
    """The rows that one service is asked."""
    rows = [
        *transport.list_rows(quick), *tensors.list_rows(), *grpc_calls.list_rows(), *embeddings.list_rows(), *images.list_rows(quick),
        *sounds.list_rows(quick), *texts.list_rows(), *endpoints.list_rows(),
    ]  # fmt: skip
    return sorted(rows, key=lambda row: row.number)


def list_all(quick: bool) -> list[Row]:
    """All rows, each once."""
    return sorted([*list_asked(quick), *folders.list_rows(), *computing.list_rows(), *lifecycle.list_rows()], key=lambda row: row.number)


@dataclass
class Results:
    """What came of each row, of the soak and of drawn requests, where there were any."""

    outcomes: list[Outcome] = field(default_factory=list)
    soaked: Soak | None = None
    statuses: Counter[int] = field(default_factory=Counter)
    drawn_faults: list[str] = field(default_factory=list)


def run(scratch: Path, quick: bool, only: set[int], soaked: int) -> Results:
    """Everything; without a soak where `soaked` is 0."""
    models = write_models(scratch / "models")
    served = dict(models)
    results = Results()
    outcomes = results.outcomes

    def choose(rows: list[Row]) -> list[Row]:
        return [row for row in rows if not only or row.number in only]

    if rows := choose(list_asked(quick)):
        with run_service(served, scratch) as running:
            place = Place(running.port, running.grpc_port, scratch, models, running.process.pid, quick)
            known = Known(take_answers(running.port), running.list_workers())
            outcomes += try_rows(rows, place, running, known)
            if soaked:
                results.soaked = soak(rows, place, running, known.right, soaked // 5, soaked)
                results.statuses, results.drawn_faults = fuzz.fuzz(running.port, _DRAWN[quick])
                print("\n".join(describe_soak(results)), file=sys.stderr, flush=True)
    if rows := choose(computing.list_rows()):
        with run_service(served, scratch, workers=1) as running:
            place = Place(running.port, running.grpc_port, scratch, models, running.process.pid, quick)
            outcomes += try_rows(rows, place, running, Known(take_answers(running.port), running.list_workers()))
    place, nothing = Place(0, 0, scratch, models, 0, quick), Known({}, ())
    outcomes += [try_row(row, place, None, nothing) for row in choose(lifecycle.list_rows())]
    if rows := choose(folders.list_rows()):
        models["artifact"] = write_artifact(scratch / "artifact", models["clip"])
        begun = folders.begin_all(rows, place)
        outcomes += [try_row(row, place, None, nothing, begun) for row in rows]
    outcomes.sort(key=lambda one: one.row.number)
    return results


def describe(outcomes: Sequence[Outcome]) -> str:
    """The table."""
    rows = [
        (
            str(one.row.number), one.row.what, one.row.required, str(sum(one.said.values())),
            ", ".join(said if len(one.said) == 1 else f"{said} × {count}" for said, count in one.said.items()),
            f"{1e3 * one.slowest:.0f}" if one.slowest else "", "; ".join(one.faults[:1]) if one.faults else one.row.note,
        )
        for one in outcomes
    ]  # fmt: skip
    return table(("#", "bad input", "required", "variants", "what came", "slowest, ms", ""), rows)


def judge(results: Results, rows: int) -> list[PassLine]:
    """The lines, fixed before: issue 16, and serving.md §3.1."""
    outcomes, found = results.outcomes, results.soaked
    faults = [fault for one in outcomes for fault in one.faults]
    declared = sorted(pair for one in outcomes for pair in one.declared)
    lines = [
        PassLine(f"rows of {rows} as required", sum(not one.faults for one in outcomes), least=rows),
        PassLine("good requests behind a bad one that got another answer", sum("then " in fault for fault in faults), most=0),
        PassLine("workers that were lost or replaced by a bad input", sum("workers were" in fault for fault in faults), most=0),
    ]
    if declared:
        lines.append(PassLine(f"seconds to refuse what a head declares, slowest of {len(declared)}", declared[-1][0],
            most=_DECLARED_SECONDS))
    if found is not None:
        errors = sum(count for said, count in found.said.items() if said.startswith("5") and said not in ("503", "504"))
        lines += [
            PassLine("soak: answers that are not as required, good ones among them", len(found.faults), most=0),
            PassLine("soak: 5xx", errors, most=0), PassLine("soak: memory after over before, less 1", found.growth, most=_GROWTH),
            PassLine("schemathesis: 5xx", sum(n for s, n in results.statuses.items() if s >= 500), most=0),
            PassLine("schemathesis: answers that are not as our OpenAPI file says", len(results.drawn_faults), most=0),
        ]  # fmt: skip
    return lines


def main() -> None:
    """The table and the lines."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer variants, a short soak")
    parser.add_argument("--only", default="", help="numbers of rows, with commas between them; without a soak")
    parser.add_argument("--no-soak", action="store_true", help="leave out the soak")
    asked = parser.parse_args()
    only = {int(number) for number in asked.only.split(",") if number}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that services are ended too
    soaked = 0 if asked.no_soak or only else 500 if asked.quick else 10_000
    with tempfile.TemporaryDirectory() as name:
        results = run(Path(name), asked.quick, only, soaked)
    print(describe(results.outcomes))
    print(f"{sum(sum(one.said.values()) for one in results.outcomes)} variants")
    print("\n".join(describe_soak(results)))
    finish(judge(results, len(only) or ROWS))


def describe_soak(results: Results) -> list[str]:
    """What was sent by thousands, in a few lines."""
    found = results.soaked
    if found is None:
        return []
    said = ", ".join(f"{status} × {count}" for status, count in sorted(found.said.items()))
    drawn = ", ".join(f"{status} × {count}" for status, count in sorted(results.statuses.items()))
    sizes = f"{found.before / 2**20:.1f} MiB before, {found.after / 2**20:.1f} after"
    return [
        f"soak: {sum(found.said.values()):,} bad requests in {found.seconds:.0f} s ({said})",
        f"soak: good answers looked at {found.asked_well} times; {sizes}", f"schemathesis: {drawn}",
        *(f"not as required: {fault}" for fault in [*found.faults[:10], *results.drawn_faults[:10]]),
    ]  # fmt: skip


if __name__ == "__main__":
    main()
