"""Compress an opened model in memory, without folders: many rows of a table from one original."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trimodal.core import Layout, PlaceRecord, Plan, Sample, Site
    from trimodal.models.model import Model


@dataclass(frozen=True)
class Row:
    """A model after a recipe, what its records say, and how long that took; `estimate_coded_bits` per weight of the blocks'
    linear layers in an entropy-coded file, where that was asked for."""

    model: Model
    records: tuple[PlaceRecord, ...]
    seconds: float
    coded_bits: float = 0.0


def planned_and_compressed(
    original: Model, steps: Sequence[Mapping[str, Any]], samples: Sequence[Sample], *, seed: int = 0,
    balance: str = "modality", teacher: bool = False, training: Sequence[Sample] = (),
) -> tuple[Model, Plan, tuple[PlaceRecord, ...], float]:  # fmt: skip
    """A copy of `original` after `steps`, calibrated on all of `samples`, its weights stored as they would be saved; the
    plan, the records, and the seconds it took. `teacher` says whether a method needs the original beside it; gradient
    methods train on `training` where it is given."""
    from trimodal.compression import compress_
    from trimodal.core import Calibration, PlaceRecord, Plan, Source
    from trimodal.graph.fusion_discovery import discover_folds
    from trimodal.models.tensors import fingerprint_module, tensor_bytes, unique_tensors
    from trimodal.planning import plan_edits, read_recipe

    model = replace(original, module=copy.deepcopy(original.module), steps=[])
    recipe = {"steps": list(steps), "calibration": {"balance": balance}}
    asked = read_recipe(recipe)
    if any(step.method.on == "fold" for step in asked.steps):
        model.layout = discover_folds(model, ())
    edits, _ = plan_edits(model.layout, asked, bool(samples or training))
    before = tensor_bytes(unique_tensors(model.module).values())
    saved = sum(place.bytes_before - place.bytes_after for edit in edits for place in edit.places)
    parameters = sum(parameter.numel() for parameter in model.module.parameters())
    source = Source(model.name, model.family.name, fingerprint_module(model.module), parameters, before)
    plan = Plan(seed, source, Calibration(len(samples), None, (), balance), edits, before - saved, recipe)
    start = time.perf_counter()
    records = compress_(model, plan, samples, training or samples, original if teacher else None)
    seconds = time.perf_counter() - start
    model.module.eval()
    return model, plan, tuple(record for record in records if isinstance(record, PlaceRecord)), seconds


def compressed(
    original: Model, steps: Sequence[Mapping[str, Any]], samples: Sequence[Sample], *, seed: int = 0,
    balance: str = "modality", teacher: bool = False, coded: bool = False, training: Sequence[Sample] = (),
) -> Row:  # fmt: skip
    """As `planned_and_compressed`, and then decoded to plain float layers, so that running the copy costs no more than
    the original."""
    from trimodal.edits.apply import dequantize_module_

    model, _, records, seconds = planned_and_compressed(
        original, steps, samples, seed=seed, balance=balance, teacher=teacher, training=training
    )
    bits = coded_bits_per_weight(model) if coded else 0.0
    dequantize_module_(model.module)
    return Row(model, records, seconds, bits)


def bits_per_weight(layout: Layout, original: Layout, towers: Sequence[str] = (), blocks: bool = True) -> float:
    """Stored bits of the linear layers, all that they need included, over the weights that the original has; only those
    inside blocks where `blocks` says so, only those of `towers` where any are named."""

    def counted(one: Layout) -> list[Site]:
        return [
            site
            for site in one.sites
            if site.kind == "linear" and (site.block is not None or not blocks) and (not towers or site.tower in towers)
        ]

    stored = sum(site.stored_bytes for site in counted(layout))
    return 8 * stored / sum(site.rows * site.columns for site in counted(original))


def coded_bits_per_weight(model: Model) -> float:
    """Bits that the linear layers inside blocks take when every stored tensor is entropy-coded for itself, all tensors
    counted, over their weights. The container's names and checksums come on top."""
    from trimodal.maths.entropy_coding import encode_tensor

    sites = [site for site in model.layout.sites if site.kind == "linear" and site.block is not None]
    streams = [
        encode_tensor(tensor) for site in sites for tensor in model.module.get_submodule(site.path).stored.buffers()
    ]
    return 8 * sum(map(len, streams)) / sum(site.rows * site.columns for site in sites)
