"""How fast large data start, and what they hold: a JSONL of 100,000 lines of audio beside one of 1,000.

`python -m benchmarks.lazy_data [--lines N]` writes both, whose lines share a few short WAV files, and starts a process for each:
seconds until the lines are read, checked, split and the first batch of calibration is encoded (of the processor, which other
work on the machine does not change, and of the clock), and what memory that took beyond what was in use before, in MiB. A
miniature Whisper takes the sounds. A process of its own goes through a tenth of the batches of the large one, and another has
20,000 rows in memory that are made when they are asked for.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.passlines import PassLine, finish, table

FEW, MANY, CLIPS, ROWS = 1_000, 100_000, 16, 20_000
RATE, SECONDS = 16_000, 0.5


def write_data(folder: Path, lines: int) -> Path:
    """A data file of `lines` lines that share `CLIPS` sounds, with a label each."""
    import numpy as np
    import soundfile

    folder.mkdir(parents=True)
    chance = np.random.default_rng(0)
    for number in range(CLIPS):
        soundfile.write(folder / f"{number}.wav", chance.uniform(-0.5, 0.5, round(RATE * SECONDS)), RATE)
    file = folder / "data.jsonl"
    with file.open("w") as opened:
        for line in range(lines):
            row = {"audio": f"{line % CLIPS}.wav", "target": f"word {line}", "group": f"speaker {line // 20}"}
            opened.write(json.dumps(row) + "\n")
    return file


def resident_mib() -> float:
    """The most memory that this process has had so far, in MiB."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(what: str, given: str) -> None:
    """Print the seconds and MiB that it takes to come to the first batch, or through many of them."""
    import torch

    from trimodal import data
    from trimodal.formats import open_model
    from trimodal.networks.tiny import write_miniature

    with tempfile.TemporaryDirectory() as scratch:
        model = open_model(write_miniature("whisper", Path(scratch) / "whisper"))
        one = [{"audio": (torch.randn(round(RATE * SECONDS)) / 9, RATE), "target": "word"}]
        data.encode_samples(model, data.read_samples(one))  # what is imported and set up once does not count
    before, began, worked = resident_mib(), time.perf_counter(), time.process_time()
    samples = data.read_samples(Table() if what == "rows" else given)
    data.check_modalities(model, samples)
    calibration, held_out = data.split_calibration_and_held_out(samples, 0)
    data.check_media([*data.choose_samples(calibration, 256, 0), *held_out])
    batches = data.batch_samples(model, calibration, data.CALIBRATION.samples, kept_bytes=0)
    found = batches[0]
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - worked
    for batch in batches[: len(batches) // 10] if what == "through" else ():
        found = batch
    size = sum(tensor.numel() * tensor.element_size() for tensor in found.values()) / 2**20
    more = resident_mib() - before
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds, "mib": more, "batch": size, "batches": len(batches)}))


class Table:
    """Rows of half a second of sound each, made when they are asked for, as a torch Dataset or a Hugging Face one has them."""

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, index: int) -> dict[str, Any]:
        import numpy as np

        if index >= ROWS:
            raise IndexError(index)
        wave = np.random.default_rng(index).uniform(-0.5, 0.5, round(RATE * SECONDS)).astype(np.float32)
        return {"audio": {"array": wave, "sampling_rate": RATE}, "target": f"word {index}", "group": f"speaker {index // 20}"}


def in_a_process(what: str, given: Path | str = "") -> dict[str, float]:
    """What `measure` says in a process of its own."""
    code = "import sys; from benchmarks.lazy_data import measure; measure(*sys.argv[1:])"
    path = os.pathsep.join(part or str(Path.cwd()) for part in sys.path)
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", code, what, str(given)], stdout=subprocess.PIPE, text=True, check=True, env=environment)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Print the table and the pass lines."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--lines", type=int, default=MANY, help="of the large file")
    lines = parser.parse_args().lines
    with tempfile.TemporaryDirectory() as scratch:
        few, many = (write_data(Path(scratch) / name, count) for name, count in (("few", FEW), ("many", lines)))
        found = {
            f"{FEW:,} lines": in_a_process("first", few), f"{lines:,} lines": in_a_process("first", many),
            f"{lines:,} lines, a tenth of their batches": in_a_process("through", many), f"{ROWS:,} rows in memory": in_a_process("rows"),
        }  # fmt: skip
    rows = [
        (name, f"{one['cpu_seconds']:.2f}", f"{one['seconds']:.2f}", f"{one['mib']:.0f}", f"{one['batch']:.1f}", f"{one['batches']:,}")
        for name, one in found.items()
    ]
    print(table(("", "CPU seconds to the first batch", "seconds", "MiB", "MiB of a batch", "batches"), rows), flush=True)
    small, large, through, held = found.values()
    finish([
        PassLine(f"CPU seconds until the first batch of {lines:,} lines", large["cpu_seconds"], most=10),
        PassLine(f"MiB more for {lines:,} lines than for {FEW:,}", large["mib"] - small["mib"], most=200),
        PassLine("MiB more after a tenth of the batches than after the first", through["mib"] - large["mib"], most=50),
        PassLine(f"MiB more for {ROWS:,} rows in memory than for {FEW:,} lines", held["mib"] - small["mib"], most=200),
    ])  # fmt: skip


if __name__ == "__main__":
    main()
