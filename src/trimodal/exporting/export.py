"""The verb: an artifact (or a model as it was published) into the folder of one format.

    load → take the codes off → trace, write codes in, tidy (the format's own work) → nothing dropped? → carry what other loaders need
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trimodal.core import json_text
from trimodal.core.layout import NO_THINNED_EXPORT, TOKENS_THINNED
from trimodal.data import Data
from trimodal.errors import InputError, IntegrityError, TargetError, suggest_names
from trimodal.exporting import EXPORTERS, Exporter, ExportResult, ExportSource
from trimodal.exporting.components import split_components
from trimodal.exporting.idle_layers import describe_idle_layers, find_idle_layers
from trimodal.exporting.layer_codes import take_layer_codes_
from trimodal.exporting.plain_attention import use_plain_attention_
from trimodal.exporting.samples import measure_output_ranges, read_batches
from trimodal.exporting.self_check import OWN_RANGES, ROUNDING, find_vocabulary_size
from trimodal.exporting.trial import begin_trial, run_trial
from trimodal.formats import check_output_place, check_sources_stay, is_artifact, open_atomic_folder, open_model
from trimodal.formats.plain_config import strip_config
from trimodal.formats.stored_sites import describe_stored_sites
from trimodal.loading.load import locate_source
from trimodal.models.files import find_companion_files, find_licence_files
from trimodal.models.model import Model
from trimodal.models.process import leaves_process_unchanged
from trimodal.runtimes import RUNTIMES
from trimodal.runtimes.exported_folder import ANSWERS, EXPORT_FILE, FORMAT, SAFE_WORDS
from trimodal.runtimes.model_limits import count_words
from trimodal.runtimes.recorded_answers import ASKED_AGAIN, record_answers
from trimodal.targets import Target, read_target
from trimodal.writing.sums import sha256


@dataclass(frozen=True)
class Export:
    """What `export` hands over: the folder, the format, and what was written."""

    folder: Path
    format: str
    result: ExportResult

    @property
    def place(self) -> Path:
        """What was written: the folder, or the one file of an archive."""
        return self.folder / self.result.components[0].files[0] if EXPORTERS[self.format].write_file is not None else self.folder

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"folder": str(self.folder), "format": self.format, **self.result.to_json()}


@leaves_process_unchanged
def export(
    source: str | Path | Callable[[], nn.Module], to: str, out: str | Path | None = None, *, data: Data | None = None,
    target: str | Path | None = None, force: bool = False, factory: str | Callable[[], nn.Module] | None = None,
) -> Export:  # fmt: skip
    """Write what another runtime runs, from an artifact, a Hugging Face folder or hub id, or a function.

    Args:
        source: what is exported; an artifact's codes go into the files as they are.
        to: a format of `EXPORTERS`.
        out: folder to write, complete afterwards or as it was; by default the format's name inside of the artifact. An archive is a file,
            by default beside the artifact.
        data: samples that the export is tried on; without them it is tried on random inputs. From them it is also known how large sums of
            convolutions become, which then are bytes, and for OpenVINO attention's queries and keys, which are multiplied as integers.
        target: name or file of a profile that says how codes are written (`trimodal targets`); by default that of the format's runtime
            for this machine.
        force: replace `out` if it is not empty.
        factory: for an artifact that came from a function: that function or its name.

    Raises:
        InputError: the format is unknown, a package is missing, the model or the place cannot be used.
        IntegrityError: what was written lacks a part of the model.
    """
    exporter = find_exporter(to)
    exporter.require_packages()
    if out is not None:
        check_sources_stay(Path(out), None if callable(source) else Path(source), data)
    if exporter.write_file is not None:
        file, result = exporter.write_file(source, None if out is None else Path(out), force)
        return Export(file.parent, to, result)
    profile = choose_target(exporter, target)
    place = _choose_place(source, to, out)
    check_output_place(place, force)
    model = open_model(source if callable(source) else str(source), factory)
    _check_reads_all(model)
    model.module.float()  # runtimes on a CPU compute in float32; codes and scales keep their types
    batches = read_batches(model, data)
    trial = begin_trial(model, batches[0] if batches else None) if exporter.runtime in RUNTIMES else None
    ranges = measure_output_ranges(model, batches)
    notes = list_misfits(profile, model) if profile is not None else ()
    prepared = replace(prepare_source(model, profile, exporter.keeps_types), output_ranges=ranges)
    with open_atomic_folder(place, force) as part, torch.no_grad():
        _carry_files(model, part)
        result = exporter.write(prepared, part)
        idle = find_idle_layers(model, prepared.layers)
        _check_nothing_dropped(prepared, result, exporter, idle)
        result = replace(result, notes=(*result.notes, *notes, *describe_idle_layers(idle)))
        if trial is not None:
            rounding = OWN_RANGES if exporter.own_ranges else ROUNDING
            result = replace(result, checks=(*result.checks, *run_trial(trial, prepared, result, exporter.runtime, part, rounding)))
        _require_passed(result)
        _write_export_file(part, exporter, model, result, profile)
    return Export(place, to, result)


def _check_reads_all(model: Model) -> None:
    """Refuse a model whose decoder does not read all of a text's tokens.

    Raises:
        TargetError: it is one.
    """
    thinned = next((tower.name for tower in model.layout.towers if tower.whole_reading == TOKENS_THINNED), None)
    if thinned is not None:
        raise TargetError(
            f"{thinned}: {NO_THINNED_EXPORT}. Run it with trimodal.load, pack it with --to archive, or leave prune.tokens out"
        )


def find_exporter(name: str) -> Exporter:
    """The format called `name`.

    Raises:
        InputError: there is none.
    """
    if name not in EXPORTERS:
        raise InputError(f"there is no export format {name!r}; {suggest_names(name, EXPORTERS)}")
    return EXPORTERS[name]


def choose_target(exporter: Exporter, target: str | Path | None) -> Target | None:
    """The profile that is named, or the format's own; None where the format goes by none.

    Raises:
        TargetError: there is none of that name, or it is for another format.
    """
    if target is None:
        return read_target(exporter.target) if exporter.target else None
    found = read_target(target)
    if found.format != exporter.name:
        raise TargetError(
            f"the target {found.name} reads {found.format}, not {exporter.name}; give --to {found.format}, or another of `trimodal targets`"
        )
    return found


def list_misfits(target: Target, model: Model) -> tuple[str, ...]:
    """What `target` cannot take of what is stored, one sentence for each reason, with the layers."""
    kinds = {site.path: site.kind for site in model.layout.sites}
    reasons: dict[str, list[str]] = {}
    for site in describe_stored_sites(model.module, model.layout):
        answer = target.answer_site(kinds.get(site.path, "linear"), site)
        if answer.level == "refused":
            reasons.setdefault(answer.text, []).append(site.path)
    misfit = target.explain_misfit()
    refused = (f"{target.name} does not take {len(paths)} layers, first {paths[0]}: {why}" for why, paths in reasons.items())
    return (*([misfit] if misfit else ()), *refused)


def prepare_source(model: Model, target: Target | None = None, keeps_types: bool = False) -> ExportSource:
    """`model` with plain layers, plain attention, and what was stored beside it. The model is changed. With `keeps_types` its numbers
    keep their types, and its attention stays."""
    model.module.eval().requires_grad_(False)
    layers = take_layer_codes_(model.module)
    if not keeps_types:
        model.module.float()  # runtimes on a CPU compute in float32; codes and scales keep their types
        use_plain_attention_(model.module)
    return ExportSource(model, layers, split_components, target)


def _choose_place(source: Any, to: str, out: str | Path | None) -> Path:
    if out is not None:
        return Path(out)
    if not callable(source) and not is_artifact(Path(source)):
        locate_source(str(source))  # which says so if there is no such model
    if callable(source) or not is_artifact(Path(source)):
        raise InputError(f"there is no folder to write to: only an artifact has a place for its {to} files; give one with -o")
    return Path(source) / to


def _carry_files(model: Model, folder: Path) -> None:
    """What the model's other loaders need, in the new folder: configuration without our own keys, processors, labels, settings."""
    if model.folder is None:
        return
    for path in [*find_companion_files(model.folder), *find_licence_files(model.folder)]:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(model.folder / path, folder / path)
    if (folder / "config.json").is_file():
        config = strip_config(json.loads((folder / "config.json").read_text(encoding="utf-8")))
        (folder / "config.json").write_text(json_text(config, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _check_nothing_dropped(source: ExportSource, result: ExportResult, exporter: Exporter, idle: Collection[str]) -> None:
    """Refuse success where a tower, or a layer that has codes and is not idle, is in no file."""
    written = result.coded | result.decoded.keys()
    there = written | {name.rpartition(".")[0] for name in result.parameters}
    towers: dict[str, list[str]] = {}
    for site in source.model.layout.sites:
        towers.setdefault(site.tower, []).append(site.path)
    for tower, paths in towers.items():
        lacking = [path for path in paths if path not in there]
        if len(lacking) == len(paths):
            raise IntegrityError(
                f"the {tower} tower ({paths[0]} and {len(paths) - 1} more) is in no file that {exporter.name} wrote; nothing was kept"
            )
    lost = [path for path, codes in source.layers.items() if not {path, *codes.tied} & written and path not in idle]
    if lost:
        how = ", whose weight is there as floats" if {lost[0], *source.layers[lost[0]].tied} & there else ""
        raise IntegrityError(
            f"the codes of {len(lost)} compressed layers are in no file that {exporter.name} wrote, first {lost[0]}{how}; nothing was kept"
        )


def _require_passed(result: ExportResult) -> None:
    """Refuse success where what was written is not what was compressed."""
    failed = [check for check in result.checks if check.failed and check.about == "integrity"]
    if failed:
        known = "".join(f"; {note}" for note in result.notes)  # often the reason, such as inputs that a runtime rounds in any case
        raise IntegrityError(f"{failed[0].name}: failed ({failed[0].detail}); nothing was kept{known}")


def _write_export_file(folder: Path, exporter: Exporter, model: Model, result: ExportResult, target: Target | None) -> None:
    """What is in the folder, from what, made by which versions, with the sums of its files."""
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    said = {
        "format": FORMAT, "to": exporter.name, "runtime": exporter.runtime, "target": target.name if target else None,
        "source": model.name, "family": model.family.name,
        "versions": {name: found for name in ("trimodal", "torch", "transformers", *exporter.packages) if (found := _version_of(name))},
        SAFE_WORDS: find_vocabulary_size(model.module) or None, **result.to_json(),
        ANSWERS: _record_answers(folder, exporter.runtime, result, count_words(folder) or find_vocabulary_size(model.module) or None),
        "files": {name: sha256(folder / name) for name in files},
    }  # fmt: skip
    (folder / EXPORT_FILE).write_text(json_text(said, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _record_answers(folder: Path, runtime: str, result: ExportResult, words: int | None) -> dict[str, Any]:
    """By component, what its file answers to seeded inputs in the runtime of this machine, and the `words` from which these are drawn;
    empty for runtimes that are asked elsewhere."""
    if runtime not in ASKED_AGAIN:
        return {}
    found: dict[str, Any] = {}
    for part in result.components:
        session = RUNTIMES[runtime](folder / part.files[0], 1)
        found[part.name] = record_answers(session, part.inputs, words)
        session.close()
    return {"words": words, "components": found}


def _version_of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
