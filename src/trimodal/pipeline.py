"""The verbs, end to end. Each is a function with typed arguments and a typed result; the command line only calls these.

load ──> inspect ──> plan ──> compress ──> verify ──> report
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from trimodal.compression import StageFolders, compress_
from trimodal.core import Check, FitRecord, Packing, PlaceRecord, Plan, Sample, Verdict, json_text
from trimodal.core.record import PackName
from trimodal.core.showing import html_table
from trimodal.data import VERIFICATION, Data
from trimodal.errors import IntegrityError, OutputError
from trimodal.formats import (
    check_disk_space,
    check_not_inside_artifact,
    check_not_replaced,
    check_output_place,
    check_pack_name,
    check_sources_stay,
    copy_artifact,
    measure_folder_size,
    open_atomic_folder,
    open_model,
    pack_name_of,
    pack_weights_,
    run_fresh_checks,
    stock_support_of,
    unpack_weights_,
    write_artifact,
    write_checksums,
)
from trimodal.formats.artifact import RECORD, VERDICT, Factory, check_listed_files, read_manifest
from trimodal.formats.disk_size import compare_disk_sizes, find_left_out, measure_disk_size
from trimodal.formats.finite_check import run_finite_checks
from trimodal.formats.side_files import read_packing, read_plan, read_verdict, require_artifact, run_file_checks
from trimodal.inventory import Inventory, InventorySource, read_inventory
from trimodal.inventory import inspect as take_inventory
from trimodal.methods import Method, select_methods
from trimodal.models.devices import move_to_device_
from trimodal.models.model import Model
from trimodal.models.process import leaves_process_unchanged
from trimodal.models.tensors import fingerprint_module
from trimodal.planning import (
    PlanSource,
    RecipeSource,
    SampleSets,
    TargetSource,
    add_declined_places,
    add_estimate,
    check_fits_memory,
    check_floors_can_be_judged,
    check_memory_for,
    make_plan,
    make_probe_batch,
    prepare_samples,
    read_request,
    require_data,
    select_verification_samples,
)
from trimodal.progress import PhaseProgress, Progress, StageClock, ignore_progress
from trimodal.reporting import build_page, report
from trimodal.reporting.page import PAGE_NAME
from trimodal.verification import Evaluate, check_comparable, collect_versions, make_verdict, peak_memory_bytes
from trimodal.verification.checks import bytes_check, compare_towers, find_skipped_places, source_check
from trimodal.writing import check_writable, replace_files

_VERIFY_BATCH = VERIFICATION.samples

__all__ = ["Result", "compress", "inspect", "list_methods", "pack", "plan", "read_plan", "report", "verify"]


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


@leaves_process_unchanged
def inspect(model: Factory | Path, *, device: str = "cpu") -> Inventory:
    """Towers, blocks, sites, parameters, bytes and MACs (multiply-accumulates) of a model, per tower and in all.

    Raises:
        ModelError: it cannot be found, loaded or understood.
    """
    opened = move_to_device_(open_model(model), device)
    return replace(take_inventory(opened), fingerprint=fingerprint_module(opened.module))


@leaves_process_unchanged
def plan(
    model: Factory | Path, recipe: RecipeSource | Plan, data: Data | None = None, *,
    seed: int | None = None, device: str = "cpu", inventory: InventorySource | None = None, target: TargetSource | None = None,
) -> Plan:  # fmt: skip
    """What a recipe will do to a model, every place by name. Changes nothing.

    Args:
        model: folder, hub id, artifact, `package.module:function`, or a module, which stays as it is.
        recipe: YAML file, name of a built-in recipe, or its content as a mapping; or a plan, which is checked and reckoned anew.
        data: file, folder, hub id, rows in memory or a source (`trimodal.open_data`); None where nothing needs data.
        seed: replaces the recipe's.
        device: where the model is put.
        inventory: what `inspect` found of this very model, or its file; it is counted anew where there is none.
        target: name or file of what is to run the result (docs/targets.md); the plan then says what it cannot take.

    Raises:
        InputError: the model, recipe, data, inventory or target cannot be used, or the target can take nothing of the plan.
    """
    clock, request = StageClock(), read_request(recipe, seed=seed, target=target)
    opened = move_to_device_(open_model(model), device)
    samples = prepare_samples(opened, request, data)
    planned = make_plan(opened, request, samples)
    return add_estimate(planned, opened, samples, _know_inventory(inventory, opened, planned), clock.last)


@leaves_process_unchanged
def compress(
    model: Factory | Path, recipe: RecipeSource | Plan | None = None, data: Data | None = None, out: str | Path | None = None, *,
    plan: PlanSource | None = None, inventory: InventorySource | None = None, pack: PackName | None = None, seed: int | None = None,
    device: str = "cpu", force: bool = False, ignore_limits: bool = False, target: TargetSource | None = None,
    stages: str | Path | None = None, evaluate: Evaluate | None = None, progress: Progress = ignore_progress,
    on_plan: Callable[[Plan], None] = lambda plan: None,
) -> Result:  # fmt: skip
    """Plan, compress, save, reload in a fresh process, verify and report: the main job.

    Args:
        model: folder, hub id, artifact, `package.module:function`, or a module, which stays as it is.
        recipe: YAML file, name of a built-in recipe, or its content as a mapping.
        data: as for `plan`. Lines with `split: test`, or else a fifth of the groups, are held out for verification.
        out: folder to write; it is complete afterwards, or as it was before.
        plan: in place of a recipe: what `plan` made for this model and data, edited or not; what a recipe says beside steps is the plan's.
        inventory, target: as for `plan`.
        pack: how the weights are stored, in place of what the recipe says: `plain`, or `entropy` for the smallest file.
        seed: replaces the recipe's.
        device: where to compute.
        force: replace `out` if it is not empty.
        ignore_limits: begin even where the free memory or disk seem too small.
        stages: folder to keep what each stage leaves in; the same call goes on from there after a kill.
        evaluate: a metric of one's own, of both modules, of which more is better: a number, scores (samples,), or such by name.
        progress: called with what is going on, how much is done, and how much there is.
        on_plan: called with the plan, which says what it will take, before the work begins.

    Raises:
        InputError: what is given or the output place cannot be used, the work does not fit, or the target can take nothing of it.
        IntegrityError: what was written does not reload to the same model; nothing is left behind.
    """
    clock, out = StageClock(), _check_new_folder(out, force, pack)
    request = read_request(recipe, plan, seed=seed, pack=pack, target=target)
    if not ignore_limits:
        check_fits_memory(model)
    opened = move_to_device_(open_model(model), device)
    check_sources_stay(out, opened.folder, data)
    samples = prepare_samples(opened, request, data)
    check_floors_can_be_judged(request, samples, evaluate is not None)
    check_comparable(opened, samples.held_out)
    planned = make_plan(opened, request, samples)
    size, left_out, before = measure_disk_size(opened), find_left_out(opened), _know_inventory(inventory, opened, planned)
    planned = add_estimate(planned, opened, samples, before, clock.last)
    if not ignore_limits:
        _check_limits(planned, out)
    on_plan(planned)
    phases = PhaseProgress(progress, planned.estimate.seconds if planned.estimate else {})
    phases.enter_phase("compress", "compress")
    original = replace(opened, module=copy.deepcopy(opened.module)) if samples.calibration or evaluate else None
    factory: Any = model if opened.folder is None else None
    folders = None if stages is None else StageFolders(Path(stages), planned, factory)
    clock.mark_stage("plan")
    records = compress_(opened, planned, samples.statistics, samples.calibration, original, phases, folders)
    clock.mark_stage("compress")
    with open_atomic_folder(out, force, needs_bytes=planned.expected_tensor_bytes) as part:
        checks, known = _save_and_check(opened, original or opened, planned, records, samples, part, factory, clock, phases)
        verdict = _judge(original or opened, opened, samples.held_out, part, checks, request.floors, planned.seed, clock, phases,
                         size, before, evaluate, left_out=left_out, **known)  # fmt: skip
        _write_verdict(part, verdict, out.name)
        write_checksums(part)
    return Result(out, planned, tuple(records), verdict)


@leaves_process_unchanged
def verify(
    out: str | Path, against: Factory | Path, data: Data, *,
    seed: int | None = None, device: str = "cpu", evaluate: Evaluate | None = None, progress: Progress = ignore_progress,
) -> Verdict:  # fmt: skip
    """Measure an artifact beside the original again, and write the verdict into its folder.

    From data that the artifact was calibrated with only the held-out part is used; from other data, all but the
    lines with `split: train`. `evaluate` is as for `compress`.

    Raises:
        InputError: the artifact, model or data cannot be used.
        IntegrityError: a file of the artifact is missing or has changed.
    """
    out, clock = Path(out), StageClock()
    require_data(data)
    require_artifact(out)
    check_writable(out)
    planned, written = read_plan(out), read_manifest(out)
    unchanged = run_file_checks(out, written)
    original = move_to_device_(open_model(against), device)
    compressed = move_to_device_(open_model(out, factory=against if original.folder is None else None), device)  # type: ignore[arg-type]
    samples = select_verification_samples(original, planned, data)
    checks = [*unchanged, source_check(fingerprint_module(original.module), planned)]
    verdict = _judge(
        original, compressed, samples, out, checks, planned.recipe.get("floors", {}), planned.seed if seed is None else seed, clock,
        progress, measure_disk_size(original), take_inventory(original, count=False), evaluate,
        packing=read_packing(out), stock=stock_support_of(out), untouched=planned.untouched, left_out=find_left_out(original),
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
    folder = Path(folder)
    check_pack_name(pack)
    require_artifact(folder)
    out = _check_new_folder(out, force, pack)
    check_not_replaced(out, folder, "the artifact")
    check_listed_files(folder, read_manifest(folder))
    with open_atomic_folder(out, force, needs_bytes=measure_folder_size(folder)[1]) as part:
        copy_artifact(folder, part)
        check_listed_files(part, read_manifest(part))  # it may have been replaced while it was copied
        if pack == "plain" and pack_name_of(part) == "entropy":
            unpack_weights_(part)
        packed = pack == "entropy" and pack_name_of(part) == "plain"
        packing = pack_weights_(part) if packed else read_packing(part)
        if (part / VERDICT).is_file():
            verdict = read_verdict(part)
            size = compare_disk_sizes((verdict.size.before_bytes, verdict.size.weights_before_bytes), part)
            _write_verdict(part, replace(verdict, size=size, packing=packing, stock=stock_support_of(part)), out.name)
        write_checksums(part)
    return packing


def list_methods(name: str | None = None) -> tuple[Method, ...]:
    """All methods, or the one called `name`.

    Raises:
        RecipeError: there is no such method; the nearest name is suggested.
    """
    return select_methods(name)


def _check_new_folder(out: str | Path | None, force: bool, pack: PackName | None) -> Path:
    """The folder to write, which is free or may be replaced."""
    if pack is not None:
        check_pack_name(pack)
    if out is None:
        raise OutputError("there is no folder to write the result to; give `out`")
    check_output_place(Path(out), force)
    check_not_inside_artifact(Path(out))
    return Path(out)


def _know_inventory(given: InventorySource | None, model: Model, planned: Plan) -> Inventory:
    """The inventory of `model`: the one that was given, if it is of this model, or a new one."""
    return take_inventory(model) if given is None else read_inventory(given, model, planned.source.fingerprint)


def _check_limits(planned: Plan, out: Path) -> None:
    """Refuse work that will not fit into the free memory or disk."""
    if planned.estimate is not None:
        check_memory_for(planned.estimate.more_memory_bytes, f"compressing {planned.source.name}")
        check_disk_space(out, planned.expected_tensor_bytes)


def _save_and_check(
    model: Model, original: Model, planned: Plan, records: Sequence[PlaceRecord | FitRecord], samples: SampleSets, part: Path,
    factory: Factory | None, clock: StageClock, phases: PhaseProgress,
) -> tuple[list[Check], dict[str, Any]]:  # fmt: skip
    """Write the compressed model, its plan and its record into `part`, and load it in a fresh process: the checks, and what the
    verdict knows of the folder."""
    model.module.eval()
    phases.enter_phase("save", "save")
    named = factory if isinstance(factory, str) else None  # a function of no name is nothing that a fresh process could call
    stock = write_artifact(model, planned, part, named)
    packing = pack_weights_(part) if planned.pack == "entropy" else None
    stock = stock_support_of(part) if packing else stock
    (part / RECORD).write_text("".join(json_text(asdict(record)) + "\n" for record in records), encoding="utf-8")
    clock.mark_stage("save")
    phases.enter_phase("reload", "reload in a fresh process")
    probe = make_probe_batch(model, samples)
    checks = [bytes_check(model, planned, records), *run_finite_checks(original, model, probe),
              *run_fresh_checks(model, part, probe, named, stock)]  # fmt: skip
    clock.mark_stage("reload")
    phases.enter_phase("verify", "verify")
    untouched = add_declined_places(planned, find_skipped_places(records))
    return checks, {"packing": packing, "stock": stock, "untouched": untouched}


def _judge(
    original: Model, compressed: Model, samples: Sequence[Sample], folder: Path, checks: Sequence[Check], floors: Mapping[str, float],
    seed: int, clock: StageClock, progress: Progress, size: tuple[int, int], before: Inventory, evaluate: Evaluate | None, **known: Any,
) -> Verdict:  # fmt: skip
    """Measure both models on `samples`: the verdict on what lies in `folder`, with what is `known` of it beside. `size` is that
    of the original on disk, `before` its inventory."""
    found = make_verdict(
        original, compressed, samples, size=compare_disk_sizes(size, folder),
        towers=compare_towers(before, take_inventory(compressed, count=False)), checks=checks, floors=floors,
        batch_size=_VERIFY_BATCH, seed=seed, versions=collect_versions(), progress=progress, evaluate=evaluate,
    )  # fmt: skip
    clock.mark_stage("verify")
    return replace(found, seconds=clock.seconds, peak_bytes=peak_memory_bytes(), **known)


def _write_verdict(folder: Path, verdict: Verdict, name: str) -> None:
    """Write the verdict and the page that shows it. The page is made first, so that both are written or none is."""
    page = build_page(folder, verdict, name)
    replace_files(folder, {VERDICT: json_text(verdict.to_json(), indent=1, ensure_ascii=False) + "\n", PAGE_NAME: page})
