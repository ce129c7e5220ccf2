"""The 86 bad inputs of a served model: what comes of each, and whether the service is as it was before.

`python -m benchmarks.serving.bad_inputs` serves a small CLIP, a small Whisper and a model of tensors by `trimodal serve`, two workers,
and sends every variant of every row over a socket of its own. Behind each variant a good request must get its right answer from the same
processes. Folders that must not be served are given to the command line. Faults of operation (81 to 86) are made to services of their
own. Then 10,000 bad requests are sent, and memory is measured before and after. `--quick` leaves out the largest variants and sends 500;
`--only 13,27` takes these rows; `--no-soak` leaves the end out.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmarks.passlines import finish
from benchmarks.serving.bad_inputs import embeddings, grpc_calls, images, sounds, tensors, texts, transport
from benchmarks.serving.bad_inputs.cases import Outcome, Place, Row
from benchmarks.serving.bad_inputs.good import take_answers
from benchmarks.serving.bad_inputs.models import write_models
from benchmarks.serving.bad_inputs.running import run_service
from benchmarks.serving.bad_inputs.trying import Known, try_rows


def list_rows(quick: bool) -> list[Row]:
    """The rows that one service is asked."""
    rows = [
        *transport.list_rows(quick), *tensors.list_rows(), *grpc_calls.list_rows(), *embeddings.list_rows(), *images.list_rows(quick),
        *sounds.list_rows(quick), *texts.list_rows(),
    ]  # fmt: skip
    return sorted(rows, key=lambda row: row.number)


def main() -> None:
    """The table and the lines."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer variants, a short soak")
    parser.add_argument("--only", default="", help="numbers of rows, with commas between them")
    parser.add_argument("--no-soak", action="store_true", help="leave out the soak")
    asked = parser.parse_args()
    only = {int(number) for number in asked.only.split(",") if number}
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        models = write_models(scratch / "models")
        outcomes: list[Outcome] = []
        with run_service(models, scratch) as running:
            place = Place(running.port, running.grpc_port, scratch, models, running.process.pid, asked.quick)
            known = Known(take_answers(running.port), running.list_workers())
            rows = [row for row in list_rows(asked.quick) if not only or row.number in only]
            outcomes += try_rows(rows, place, running, known)
    finish([])


if __name__ == "__main__":
    main()
