"""The verbs, end to end. Each is a function with typed arguments and a typed result; the command line only calls these.

load ──> inspect ──> plan ──> compress ──> verify ──> report
"""

from __future__ import annotations

import copy
import json
import math
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trimodal.compression import LEFT_ALONE, compress_
from trimodal.core import (
    Calibration,
    Check,
    DiskSize,
    FitRecord,
    Packing,
    PlaceRecord,
    Plan,
    Sample,
    Source,
    StockLoad,
    TowerSize,
    Verdict,
    json_text,
)
from trimodal.core.record import PackName
from trimodal.core.showing import html_table
from trimodal.data import (
    VERIFICATION,
    Data,
    batch_samples,
    check_media,
    check_modalities,
    choose_samples,
    digest_samples,
    encode_samples,
    is_no_data,
    read_samples,
    require_samples,
    split_calibration_and_held_out,
)
from trimodal.errors import DataError, InputError, IntegrityError, RecipeError
from trimodal.formats import (
    check_disk_space,
    check_not_inside_artifact,
    check_not_replaced,
    check_output_place,
    check_pack_name,
    copy_artifact,
    find_changed_side_files,
    find_uncarried_files,
    finite_outputs_check,
    finite_weights_check,
    is_artifact,
    measure_folder_size,
    open_atomic_folder,
    open_model,
    pack_name_of,
    pack_weights_,
    run_reload_checks,
    run_stock_check,
    stock_support_of,
    unpack_weights_,
    write_artifact,
    write_checksums,
)
from trimodal.formats.artifact import PLAN, RECORD, VERDICT, Factory, Manifest, check_listed_files, read_manifest
from trimodal.formats.packed import measure_packing
from trimodal.graph.fusion_discovery import discover_folds
from trimodal.inventory import Inventory
from trimodal.inventory import inspect as take_inventory
from trimodal.methods import Method, select_methods
from trimodal.models.files import PACKED, weight_files
from trimodal.models.model import Batch, Model
from trimodal.models.process import leaves_process_unchanged
from trimodal.models.tensors import fingerprint_module, tensor_bytes, unique_tensors
from trimodal.planning import (
    LARGEST_SEED,
    Recipe,
    Workload,
    add_declined_places,
    check_memory_for,
    estimate_cost,
    find_untouched,
    measure_speed,
    plan_steps,
    read_recipe,
)
from trimodal.reporting import build_page, report
from trimodal.reporting.page import PAGE_NAME
from trimodal.verification import check_comparable, peak_memory_bytes
from trimodal.verification import make_verdict as compare
from trimodal.writing import check_writable, replace_files

RecipeSource = str | Path | Mapping[str, Any]
Progress = Callable[[str, int, int], None]
VERSIONS_OF = ("trimodal", "torch", "transformers", "numpy", "safetensors")
_STATISTICS_SAMPLES = 256
_VERIFY_BATCH = VERIFICATION.samples
_PROBE_SAMPLES = 4
_ESTIMATE = 0.05  # by how much an estimate of the bytes may be off
_WATCHED_SAMPLES = 16
_SIZED_SAMPLES = 8
_IMPORT_SECONDS = 5.0  # what a process needs before it can read a model

__all__ = ["Result", "compress", "inspect", "list_methods", "pack", "plan", "report", "verify"]


def _ignore_progress(what: str, done: int, total: int) -> None:
    """Progress for nobody."""


def _ignore_plan(plan: Plan) -> None:
    """A plan for nobody."""


class _PhaseProgress:
    """Progress of a whole run, in thousandths: each phase has the part of it that it is expected to take."""

    def __init__(self, progress: Progress, seconds: Mapping[str, float]) -> None:
        self._progress = progress
        total = sum(seconds.values()) or 1.0
        self._shares = {name: value / total for name, value in seconds.items()}
        self._begun, self._share = 0.0, 0.0

    def enter_phase(self, phase: str, what: str) -> None:
        """The phase before is over; `phase` begins with `what`."""
        self._begun, self._share = self._begun + self._share, self._shares.get(phase, 0.0)
        self(what, 0, 1)

    def __call__(self, what: str, done: int, total: int) -> None:
        """So much of this phase is done."""
        part = min(1.0, done / total) if total else 0.0
        self._progress(what, round(1000 * (self._begun + self._share * part)), 1000)


@dataclass(frozen=True, repr=False)
class Result:
    """What `compress` hands over."""

    folder: Path
    plan: Plan
    records: tuple[PlaceRecord | FitRecord, ...]
    verdict: Verdict

    def __repr__(self) -> str:
        return f"<Result in {self.folder}: {self.verdict!r}>"

    def _repr_html_(self) -> str:
        return f"{html_table(f'Result in {self.folder}', (), ())}{self.verdict._repr_html_()}{self.plan._repr_html_()}"


@dataclass(frozen=True)
class _SampleSets:
    """Samples by use: for statistics, for gradient methods (all of calibration), and held out for verification."""

    statistics: Sequence[Sample] = ()
    calibration: Sequence[Sample] = ()
    held_out: Sequence[Sample] = ()


@dataclass
class _StageClock:
    """Wall seconds per stage."""

    last: float = field(default_factory=time.perf_counter)
    seconds: dict[str, float] = field(default_factory=dict)

    def mark_stage(self, stage: str) -> None:
        """The stage that has just ended is called `stage`."""
        now = time.perf_counter()
        self.seconds[stage] = round(now - self.last, 3)
        self.last = now


@leaves_process_unchanged
def inspect(model: Factory | Path, *, device: str = "cpu") -> Inventory:
    """Towers, blocks, sites, parameters, bytes and operations of a model, per tower and in all.

    Raises:
        ModelError: it cannot be found, loaded or understood.
    """
    return take_inventory(_move_to_device(open_model(model), device))


@leaves_process_unchanged
def plan(
    model: Factory | Path,
    recipe: RecipeSource,
    data: Data | None = None,
    *,
    seed: int | None = None,
    device: str = "cpu",
) -> Plan:
    """What a recipe will do to a model, every place by name. Changes nothing.

    Args:
        model: folder, hub id, artifact or `package.module:function`.
        recipe: YAML file, name of a built-in recipe, or its content as a mapping.
        data: JSONL file or folder, rows in memory or a source (docs/guide.md); None where nothing needs data.
        seed: replaces the recipe's.
        device: where the model is put.

    Raises:
        InputError: the model, recipe or data cannot be used.
    """
    clock = _StageClock()
    wanted = _with_seed(read_recipe(recipe), seed)
    opened = _move_to_device(open_model(model), device)
    samples = _prepare_samples(opened, wanted, data)
    return _estimate_cost(_make_plan(opened, wanted, samples), opened, samples, take_inventory(opened), clock)


@leaves_process_unchanged
def compress(
    model: Factory | Path,
    recipe: RecipeSource,
    data: Data | None,
    out: str | Path,
    *,
    pack: PackName | None = None,
    seed: int | None = None,
    device: str = "cpu",
    force: bool = False,
    ignore_limits: bool = False,
    progress: Progress = _ignore_progress,
    on_plan: Callable[[Plan], None] = _ignore_plan,
) -> Result:
    """Plan, compress, save, reload in a fresh process, verify and report: the main job.

    Args:
        model: folder, hub id, artifact or `package.module:function`.
        recipe: YAML file, name of a built-in recipe, or its content as a mapping.
        data: JSONL file or folder, rows in memory or a source (docs/guide.md); None where nothing needs data. Lines with
            `split: test`, or else a fifth of the groups, are held out for verification.
        out: folder to write; it is complete afterwards, or as it was before.
        pack: how the weights are stored: `plain`, or `entropy` for the smallest file, which is decoded when it is loaded;
            replaces what the recipe says.
        seed: replaces the recipe's.
        device: where to compute.
        force: replace `out` if it is not empty.
        ignore_limits: begin even where the free memory or disk seem too small.
        progress: called with what is going on, how much is done, and how much there is.
        on_plan: called with the plan, which says what it will take, before the work begins.

    Raises:
        InputError: the model, recipe, data or output place cannot be used, or the work does not fit into memory or disk.
        IntegrityError: what was written does not reload to the same model; nothing is left behind.
    """
    out, clock = Path(out), _StageClock()
    if pack is not None:
        check_pack_name(pack)
    check_output_place(out, force)
    check_not_inside_artifact(out)
    wanted = _with_seed(read_recipe(recipe), seed)
    wanted = wanted if pack is None else replace(wanted, pack=pack)
    if not ignore_limits:
        _check_fits_memory(model)
    opened = _move_to_device(open_model(model), device)
    _check_sources_stay(out, opened, data)
    samples = _prepare_samples(opened, wanted, data)
    if wanted.floors and not samples.held_out and not wanted.built_in:
        raise DataError(
            f"{wanted.name} sets floors, but there are no held-out samples to measure against them; give more --data"
        )
    check_comparable(opened, samples.held_out)
    before, before_inventory = _measure_disk_size(opened), take_inventory(opened)
    planned = _estimate_cost(_make_plan(opened, wanted, samples), opened, samples, before_inventory, clock)
    if planned.estimate is not None and not ignore_limits:
        check_memory_for(planned.estimate.more_memory_bytes, f"compressing {planned.source.name}")
        check_disk_space(out, planned.expected_tensor_bytes)
    on_plan(planned)
    phases = _PhaseProgress(progress, planned.estimate.seconds if planned.estimate else {})
    phases.enter_phase("compress", "compress")
    original = replace(opened, module=copy.deepcopy(opened.module)) if samples.calibration else None
    clock.mark_stage("plan")
    records = compress_(opened, planned, samples.statistics, samples.calibration, original, phases)
    opened.module.eval()
    clock.mark_stage("compress")
    phases.enter_phase("save", "save")
    with open_atomic_folder(out, force, needs_bytes=planned.expected_tensor_bytes) as part:
        factory = model if isinstance(model, str) and opened.folder is None else None
        stock = write_artifact(opened, planned, part, factory)
        packing = pack_weights_(part) if planned.pack == "entropy" else None
        stock = stock_support_of(part) if packing else stock
        (part / RECORD).write_text("".join(json_text(asdict(record)) + "\n" for record in records), encoding="utf-8")
        clock.mark_stage("save")
        phases.enter_phase("reload", "reload in a fresh process")
        checks = [_bytes_check(opened, planned, records), *_run_finite_checks(original or opened, opened, samples),
                  *_run_fresh_checks(opened, samples, part, factory, stock)]
        clock.mark_stage("reload")
        phases.enter_phase("verify", "verify")
        verdict = compare(
            original or opened, opened, samples.held_out, size=_make_size(before, measure_folder_size(part)),
            towers=_make_tower_sizes(before_inventory, take_inventory(opened, count=False)), checks=checks, floors=wanted.floors,
            batch_size=_VERIFY_BATCH, seed=planned.seed, versions=collect_versions(), progress=phases,
        )  # fmt: skip
        clock.mark_stage("verify")
        verdict = replace(
            verdict, seconds=clock.seconds, packing=packing, stock=stock,
            untouched=add_declined_places(planned, _find_skipped_places(records)), left_out=_find_left_out(opened), peak_bytes=peak_memory_bytes(),
        )  # fmt: skip
        _write_verdict(part, verdict, out.name)
        write_checksums(part)
    return Result(out, planned, tuple(records), verdict)


@leaves_process_unchanged
def verify(
    out: str | Path,
    against: Factory | Path,
    data: Data,
    *,
    seed: int | None = None,
    device: str = "cpu",
    progress: Progress = _ignore_progress,
) -> Verdict:
    """Measure an artifact beside the original again, and write the verdict into its folder.

    From data that the artifact was calibrated with only the held-out part is used; from other data, all but the
    lines with `split: train`.

    Raises:
        InputError: the artifact, model or data cannot be used.
        IntegrityError: a file of the artifact is missing or has changed.
    """
    out, clock = Path(out), _StageClock()
    if is_no_data(data):
        raise DataError("verify measures both models, which needs data; give a JSONL file or a folder with data.jsonl")
    if not is_artifact(out):
        raise InputError(f"{out} is no artifact (it has no trimodal.json); expected a folder that compress wrote")
    check_writable(out)
    planned, written = read_plan(out), read_manifest(out)
    unchanged = _files_check(out, written)
    original = _move_to_device(open_model(against), device)
    compressed = _move_to_device(open_model(out, factory=against if original.folder is None else None), device)  # type: ignore[arg-type]
    found = fingerprint_module(original.module)
    samples = read_samples(data)
    check_modalities(original, samples)
    calibration, held_out = split_calibration_and_held_out(samples, planned.seed)
    if digest_samples(calibration) != planned.calibration.sha256:
        held_out = [sample for sample in samples if sample.split != "train"]
    require_samples(held_out, 1, "verification samples")
    check_media(held_out)
    same = found == planned.source.fingerprint
    checks = [
        unchanged,
        _side_files_check(out),
        Check.from_outcome(
            "compared with the model it was made from",
            same,
            f"fingerprint {found[:12]}, in the plan {planned.source.fingerprint[:12]}",
        ),
    ]
    verdict = compare(
        original, compressed, held_out, size=_make_size(_measure_disk_size(original), measure_folder_size(out)),
        towers=_make_tower_sizes(take_inventory(original, count=False), take_inventory(compressed, count=False)), checks=checks,
        floors=planned.recipe.get("floors", {}), batch_size=_VERIFY_BATCH, seed=planned.seed if seed is None else seed,
        versions=collect_versions(), progress=progress,
    )  # fmt: skip
    clock.mark_stage("verify")
    verdict = replace(
        verdict, seconds=clock.seconds, packing=_read_packing(out), stock=stock_support_of(out), untouched=planned.untouched,
        left_out=_find_left_out(original), peak_bytes=peak_memory_bytes(),
    )  # fmt: skip
    if read_manifest(out) != written:
        raise IntegrityError(f"{out} was replaced while it was measured; verify it again")
    _write_verdict(out, verdict, out.resolve().name)  # what else was changed stays so by its checksum
    return verdict


@leaves_process_unchanged
def pack(folder: str | Path, out: str | Path, pack: PackName = "entropy", *, force: bool = False) -> Packing | None:
    """Write an artifact again with its weights entropy-coded, or plain. They decode to the very same bytes either way.

    Args:
        folder: an artifact.
        out: folder to write; it is complete afterwards, or as it was before.
        pack: `entropy` or `plain`.
        force: replace `out` if it is not empty.

    Returns:
        Both sizes and the time that decoding takes, where the weights are entropy-coded.

    Raises:
        InputError: the artifact or the output place cannot be used.
        IntegrityError: a file of the artifact is missing or has changed.
    """
    folder, out = Path(folder), Path(out)
    check_pack_name(pack)
    if not is_artifact(folder):
        raise InputError(f"{folder} is no artifact (it has no trimodal.json); expected a folder that compress wrote")
    check_output_place(out, force)
    check_not_inside_artifact(out)
    check_not_replaced(out, folder, "the artifact")
    check_listed_files(folder, read_manifest(folder))
    with open_atomic_folder(out, force, needs_bytes=measure_folder_size(folder)[1]) as part:
        copy_artifact(folder, part)
        check_listed_files(part, read_manifest(part))  # it may have been replaced while it was copied
        if pack == "plain" and pack_name_of(part) == "entropy":
            unpack_weights_(part)
        packed = pack == "entropy" and pack_name_of(part) == "plain"
        packing = pack_weights_(part) if packed else _read_packing(part)
        if (part / VERDICT).is_file():
            verdict = _read_verdict(part)
            after, weights = measure_folder_size(part)
            size = replace(verdict.size, after_bytes=after, weights_after_bytes=weights)
            verdict = replace(verdict, size=size, packing=packing, stock=stock_support_of(part))
            _write_verdict(part, verdict, out.name)
        write_checksums(part)
    return packing


def _read_packing(folder: Path) -> Packing | None:
    """Both sizes and the time that decoding takes, where the weights are entropy-coded."""
    return measure_packing(folder / PACKED) if pack_name_of(folder) == "entropy" else None


def list_methods(name: str | None = None) -> tuple[Method, ...]:
    """All methods, or the one called `name`.

    Raises:
        RecipeError: there is no such method; the nearest name is suggested.
    """
    return select_methods(name)


def read_plan(folder: Path) -> Plan:
    """The plan of an artifact.

    Raises:
        IntegrityError: it is missing or does not hold a plan.
    """
    try:
        return Plan.from_json(json.loads((folder / PLAN).read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise IntegrityError(
            f"{folder / PLAN} cannot be read ({type(error).__name__}: {error}); the folder is no whole artifact"
        ) from error


def _read_verdict(folder: Path) -> Verdict:
    try:
        return Verdict.from_json(json.loads((folder / VERDICT).read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise IntegrityError(f"{VERDICT} cannot be read ({type(error).__name__}: {error}); verify the artifact anew") from error


def collect_versions() -> dict[str, str]:
    """Versions of what decides the numbers, and the machine's own part in them."""
    found = {name: metadata.version(name) for name in VERSIONS_OF}
    return {**found, "python": platform.python_version(), "threads": str(torch.get_num_threads())}


def _with_seed(recipe: Recipe, seed: int | None) -> Recipe:
    if seed is None:
        return recipe
    if type(seed) is not int or not 0 <= seed <= LARGEST_SEED:
        raise RecipeError(f"the seed is {seed!r}, but must be a whole number, 0 to {LARGEST_SEED}")
    return replace(recipe, seed=seed)


def _move_to_device(model: Model, device: str) -> Model:
    """The model on `device`."""
    try:
        place = torch.device(device)
        if place.type == "meta":
            raise InputError("device 'meta' holds no values; use cpu or cuda")
        model.module.to(place)
    except (RuntimeError, AssertionError, ImportError, TypeError) as error:
        reason = str(error).splitlines()[0].partition(" at start of device string")[0]
        raise InputError(f"device '{device}' cannot be used here ({reason}); use cpu") from error
    return model


def _check_sources_stay(out: Path, model: Model, data: Data | None) -> None:
    """Refuse an output place whose replacement would take the model or the data with it."""
    if model.folder is not None:
        check_not_replaced(out, model.folder, "the model")
    if isinstance(data, str | Path) and not is_no_data(data):
        check_not_replaced(out, Path(data), "the data")


def _prepare_samples(model: Model, recipe: Recipe, data: Data | None) -> _SampleSets:
    if data is None or is_no_data(data):
        return _SampleSets()
    samples = read_samples(data)
    check_modalities(model, samples)
    calibration, held_out = split_calibration_and_held_out(samples, recipe.seed)
    wanted = min(_STATISTICS_SAMPLES, len(calibration)) if recipe.samples is None else recipe.samples
    require_samples(calibration, max(wanted, 1), "calibration samples")
    chosen = choose_samples(calibration, wanted, recipe.seed)
    check_media([*chosen, *held_out, *calibration])
    encode_samples(model, calibration[:1])  # a model that cannot be given samples is refused while planning
    return _SampleSets(chosen, calibration, held_out)


def _make_plan(model: Model, recipe: Recipe, data: _SampleSets) -> Plan:
    if any(step.method.on == "fold" for step in recipe.steps):
        few = list(data.statistics)[:_WATCHED_SAMPLES]
        model.layout = discover_folds(model, batch_samples(model, few, _WATCHED_SAMPLES // 4) if few else ())
    edits, skipped, _ = plan_steps(model.layout, recipe, data=bool(data.calibration))
    tensors = unique_tensors(model.module)
    total = tensor_bytes(tensors.values())
    saved = sum(place.bytes_before - place.bytes_after for edit in edits for place in edit.places)
    modalities = {m for sample in data.statistics for m in sample.modalities}
    return Plan(
        seed=recipe.seed,
        source=Source(model.name, model.family.name, fingerprint_module(model.module), _count_parameters(model.module), total),
        calibration=Calibration(
            len(data.statistics), digest_samples(data.calibration) if data.calibration else None,
            tuple(sorted(modalities)), recipe.balance,
        ),
        edits=edits, expected_tensor_bytes=total - saved, recipe=dict(recipe.raw), trimodal=metadata.version("trimodal"),
        skipped=skipped, pack=recipe.pack,
        untouched=find_untouched(model, edits),
    )  # fmt: skip


def _estimate_cost(planned: Plan, model: Model, data: _SampleSets, inventory: Inventory, clock: _StageClock) -> Plan:
    """The plan with what it will take here and now. Another process will read the result, and import what this one has."""
    reading = min(time.process_time(), time.perf_counter() - clock.last + _IMPORT_SECONDS)
    operations = inventory.operations
    if operations is not None and data.statistics:
        operations = round(operations * _relative_sample_size(model, data.statistics[:_SIZED_SAMPLES], inventory.input_shapes))
    work = Workload(len(data.statistics), len(data.calibration), len(data.held_out), operations)
    return replace(planned, estimate=estimate_cost(planned, model.layout, work, reading, measure_speed()))


def _relative_sample_size(model: Model, samples: Sequence[Sample], shapes: Mapping[str, tuple[int, ...]]) -> float:
    """How large `samples` are, one by one, beside the example with `shapes`: sentences are shorter than they could be."""
    batch = batch_samples(model, samples, len(samples))[0]
    known = [name for name in shapes if name in batch]
    usual = sum(math.prod(shapes[name]) for name in known)
    return sum(batch[name].numel() for name in known) / len(samples) / usual if usual else 1.0


def _check_fits_memory(model: Factory | Path) -> None:
    """Refuse a model whose weights alone are larger than the memory that is free, before it is read."""
    folder = Path(model) if isinstance(model, str | Path) else None
    if folder is not None and folder.is_dir():
        check_memory_for(sum((folder / file).stat().st_size for file in weight_files(folder)), f"reading {folder}")


def _count_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _bytes_check(model: Model, planned: Plan, records: Sequence[PlaceRecord | FitRecord]) -> Check:
    """Whether the model holds the bytes that the plan promised. Where the plan could but estimate them, it must hold those
    that were forecast when it was settled how much goes where, and these must be near the plan's."""
    found, expected = tensor_bytes(unique_tensors(model.module).values()), planned.expected_tensor_bytes
    detail = f"{found:,} bytes of tensors, planned {expected:,}"
    alone = len(_find_skipped_places(records))
    if planned.certainty == "exact" and not alone:
        return Check.from_outcome("bytes as planned", found == expected, detail)
    settled = planned.source.tensor_bytes - sum(
        r.bytes_before - r.bytes_after for r in records if isinstance(r, PlaceRecord)
    )
    if alone:
        return Check.from_outcome("bytes as planned", found == settled, f"{detail}; {alone} places were left alone, see their notes")
    if planned.certainty == "at most":
        return Check.from_outcome("bytes as planned", found == settled and found <= expected, f"{detail} at most (rank by energy)")
    off = f"an estimate, since places are ranked together: {found / expected - 1:+.2%}, allowed ±{_ESTIMATE:.0%}"
    return Check.from_outcome("bytes as planned", found == settled and abs(found / expected - 1) <= _ESTIMATE, f"{detail} ({off})")


def _find_skipped_places(records: Sequence[PlaceRecord | FitRecord]) -> set[tuple[int, str]]:
    """Edit and place of what could not be worked on after all."""
    places = (record for record in records if isinstance(record, PlaceRecord))
    return {(r.edit, r.place) for r in places if any(note.startswith(LEFT_ALONE) for note in r.notes)}


def _run_finite_checks(original: Model, model: Model, samples: _SampleSets) -> list[Check]:
    """Whether anything in the result, or coming out of it, is no longer finite; nothing is written then."""
    checks = [finite_weights_check(model), finite_outputs_check(original, model, _make_probe_batch(model, samples))]
    for check in checks:
        if check.failed:
            raise IntegrityError(f"the result is of no use ({check.name}: {check.detail}); nothing was kept")
    return checks


def _make_probe_batch(model: Model, samples: _SampleSets) -> Batch | None:
    """A few samples that the result is tried on, held out where there are such."""
    probe = list(samples.held_out or samples.calibration)[:_PROBE_SAMPLES]
    return batch_samples(model, probe, _PROBE_SAMPLES)[0] if probe else None


def _run_fresh_checks(model: Model, samples: _SampleSets, folder: Path, factory: str | None, stock: StockLoad) -> list[Check]:
    """The fresh-process checks, all of which must pass."""
    if model.folder is None and factory is None:
        return [Check("reloads in a fresh process", "not run", "the function has no name that another process could import")]
    batch = _make_probe_batch(model, samples)
    checks = run_reload_checks(model, folder, batch, factory)
    if stock.alone:
        checks.append(run_stock_check(model, folder, batch))
    failed = [check for check in checks if check.failed]
    if failed:
        raise IntegrityError(
            f"what was written does not reload to the same model ({failed[0].name}: {failed[0].detail}); nothing was kept"
        )
    return checks


def _measure_disk_size(model: Model) -> tuple[int, int]:
    """Bytes on disk of the model's running files and weights, without tensors that nobody reads; for a module without files,
    those of its tensors."""
    if model.folder is not None:
        files, weights = measure_folder_size(model.folder)
        unused = sum(model.unused.values())
        return files - unused, weights - unused
    total = tensor_bytes(unique_tensors(model.module).values())
    return total, total


def _find_left_out(model: Model) -> tuple[str, ...]:
    """What lies in the model's folder and was neither counted nor carried over: tensors that its class does not take, files."""
    if model.folder is None:
        return ()
    kind, count = type(model.module).__name__, len(model.unused)
    what = "1 tensor" if count == 1 else f"{count:,} tensors"
    tensors = [f"{what} that {kind} does not take, first {min(model.unused)}"] if count else []
    return (*tensors, *find_uncarried_files(model.folder))


def _side_files_check(folder: Path) -> Check:
    """Whether the files that only tell are as they were written; those that decide were checked when it was loaded."""
    wrong = find_changed_side_files(folder)
    said = "; ".join(wrong[:3]) if wrong else "sha256 of every file as it was written down"
    return Check.from_outcome("plan, record and report as they were written", not wrong, said)


def _make_size(before: tuple[int, int], after: tuple[int, int]) -> DiskSize:
    return DiskSize(before[0], after[0], before[1], after[1])


def _make_tower_sizes(before: Inventory, after: Inventory) -> list[TowerSize]:
    later = {tower.name: tower for tower in after.towers}
    return [
        TowerSize(t.name, t.parameters, later[t.name].parameters, t.bytes, later[t.name].bytes) for t in before.towers
    ]


def _files_check(folder: Path, manifest: Manifest) -> Check:
    """Whether the files that decide the result hold what the manifest says, counted and summed anew.

    Raises:
        IntegrityError: one is missing or has changed.
    """
    check_listed_files(folder, manifest)
    return Check.from_outcome("files as they were written", True, f"sha256 of {len(manifest.files)} files as in the manifest")


def _write_verdict(folder: Path, verdict: Verdict, name: str) -> None:
    """Write the verdict and the page that shows it. The page is made first, so that both are written or none is."""
    page = build_page(folder, verdict, name)
    replace_files(folder, {VERDICT: json_text(verdict.to_json(), indent=1, ensure_ascii=False) + "\n", PAGE_NAME: page})
