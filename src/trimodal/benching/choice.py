"""The fastest variant of an artifact that is faithful, remembered for this machine.

Which runtime is fastest turns round between processors, so it is measured, and what was chosen is written to OUT/runtime.json with the
machine that it was measured on; on another machine, or with other versions or files, it is measured anew.

Faithful means: on the same inputs no output's cosine to the reference is lower than that of the simulation, the artifact in PyTorch
whose quality was verified, by more than `MARGIN`; without an original to refer to, the simulation is the reference, and `LOOSE_MARGIN`
counts, since two that round at other places differ from each other by as much as each from the original.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trimodal.benching.bench import Bench, Row, Tell, bench
from trimodal.benching.conditions import Conditions, read_conditions
from trimodal.benching.torch_session import TorchSession, open_torch_components, use_torch_threads
from trimodal.benching.variants import TORCH, read_source
from trimodal.core import json_text
from trimodal.errors import InputError
from trimodal.exporting.export import export
from trimodal.formats import is_artifact, write_text_atomically
from trimodal.manifest import RUNTIME as RUNTIME_FILE
from trimodal.runtimes import RUNTIMES, Session
from trimodal.runtimes.exported_folder import EXPORT_FILE, is_exported, read_exported
from trimodal.writing.sums import sha256

MARGIN, LOOSE_MARGIN = 0.002, 0.01
_FORMAT = 1


@dataclass(frozen=True)
class Choice:
    """The variant that was chosen, its files by component relative to the artifact (empty for PyTorch), its milliseconds in all, what else
    was measured, and which were too far from the simulation."""

    variant: str
    runtime: str
    files: Mapping[str, str]
    milliseconds: Mapping[str, float]
    unfaithful: Mapping[str, str]
    conditions: Conditions
    exports: Mapping[str, str]

    def describe(self) -> str:
        """One or two lines for the screen."""
        lines = [f"fastest that is faithful: {self.variant}, remembered in {RUNTIME_FILE} for this machine"]
        lines += [f"not taken, {name}: {why}" for name, why in self.unfaithful.items()]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"format": _FORMAT, **asdict(self), "conditions": self.conditions.to_json()}


def bench_and_choose(out: str | Path, *models: str | Path, tell: Tell | None = None, **options: Any) -> tuple[Bench, Choice]:
    """Time the artifact `out` in all runtimes, beside `models`, and remember the fastest variant that is faithful. Where nothing was
    exported from it, OUT/onnx is made first. `options` are those of `bench`.

    Raises:
        InputError: `out` is no artifact.
    """
    folder = Path(out)
    if not is_artifact(folder):
        raise InputError(
            f"{folder} is no artifact of trimodal; the fastest runtime is remembered in one; give --runtime without `auto`, or compress"
        )
    if not read_source(folder).exports:
        export(folder, "onnx")
    found = bench(folder, *models, runtime="auto", tell=tell, **options)
    choice = choose_variant(found, folder)
    write_text_atomically(folder / RUNTIME_FILE, json_text(choice.to_json(), indent=1, ensure_ascii=False) + "\n")
    return found, choice


def choose_variant(found: Bench, folder: Path) -> Choice:
    """The variant of the artifact in `folder` with the least time in all tables, of those that are as faithful as the simulation."""
    source = read_source(folder)
    by_variant: dict[str, list[Row]] = {}
    for row in found.rows:
        if row.variant.rpartition(", ")[0] in (source.name, str(source.path)):
            by_variant.setdefault(row.variant, []).append(row)
    simulation = next(rows for rows in by_variant.values() if rows[0].runtime == TORCH)
    margin = LOOSE_MARGIN if found.reference in by_variant else MARGIN
    unfaithful = {name: why for name, rows in by_variant.items() if (why := find_loss(rows, simulation, margin))}
    times = {name: sum(row.timing.median for row in rows) * 1e3 for name, rows in by_variant.items()}
    chosen = min((name for name in times if name not in unfaithful), key=lambda name: times[name])
    runtime = by_variant[chosen][0].runtime
    files = {} if runtime == TORCH else {row.component: str(Path(row.file).relative_to(folder)) for row in by_variant[chosen]}
    return Choice(chosen, runtime, files, times, unfaithful, found.conditions, _sum_exports(folder))


def find_loss(rows: Sequence[Row], simulation: Sequence[Row], margin: float) -> str:
    """Why a variant is less faithful than the simulation, empty if it is not."""
    for row, simulated in zip(rows, simulation, strict=True):
        for output, cosine in row.cosines.items():
            least = simulated.cosines.get(output)
            if cosine is not None and least is not None and cosine < least - margin:
                return f"{output} has a cosine of {cosine:.5f}, the simulation {least:.5f}; {margin:g} less is allowed"
    return ""


def open_fastest(out: str | Path, threads: int | None = None, tell: Tell | None = None) -> dict[str, Session]:
    """The components of the artifact `out`, each open in the runtime that was fastest on this machine; measured first if that has not been
    done here, with these versions and these files.

    Args:
        out: the artifact.
        threads: for every runtime; by default as many as were measured with, or two.
        tell: is told what goes on.

    Returns:
        A session by component's name: `sessions["model"].run({"input_ids": …})` takes and gives arrays by name.

    Raises:
        InputError: `out` is no artifact.
        IntegrityError: an exported file has changed.
    """
    folder = Path(out)
    choice = read_choice(folder, threads)
    if choice is None:
        _, choice = bench_and_choose(folder, tell=tell, **({} if threads is None else {"threads": threads}))
    threads = choice.conditions.threads
    if choice.runtime == TORCH:
        use_torch_threads(threads)
        return {name: TorchSession(component) for name, component in open_torch_components(folder).items()}
    for inner in {folder / Path(file).parts[0] for file in choice.files.values()}:
        if is_exported(inner):
            read_exported(inner)  # holds its files to their sums
    return {name: RUNTIMES[choice.runtime](folder / file, threads) for name, file in choice.files.items()}


def read_choice(folder: Path, threads: int | None = None) -> Choice | None:
    """What was remembered in `folder`, None where there is nothing, or nothing that holds on this machine, now.

    Raises:
        InputError: runtime.json is not what was written.
    """
    file = folder / RUNTIME_FILE
    if not file.is_file():
        return None
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
        if said.pop("format") != _FORMAT:
            return None
        choice = Choice(**{**said, "conditions": Conditions.from_json(said["conditions"])})
    except (ValueError, KeyError, TypeError) as broken:
        raise InputError(f"{file} is not what trimodal writes there ({broken}); delete it, and measure again") from broken
    here = read_conditions(choice.conditions.threads if threads is None else threads)
    return choice if choice.conditions.is_same_machine(here) and choice.exports == _sum_exports(folder) else None


def _sum_exports(folder: Path) -> dict[str, str]:
    return {str(made.relative_to(folder)): sha256(made / EXPORT_FILE) for made in read_source(folder).exports.values()}
