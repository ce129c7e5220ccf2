"""What both formats for phones begin and end with: components of fixed shapes with codes placed, and one result of all that was written."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from trimodal.core import Check
from trimodal.errors import IntegrityError
from trimodal.exporting.component import Component
from trimodal.exporting.exporter import ExportedComponent, Exporter, ExportResult, ExportSource
from trimodal.exporting.layer_codes import LayerCodes
from trimodal.exporting.mobile_graph.coded_layers import PlacedCodes, Style, place_codes_
from trimodal.exporting.mobile_graph.fixed_inputs import fix_shapes
from trimodal.exporting.mobile_graph.flat_attention import use_flat_attention_
from trimodal.exporting.mobile_graph.integer_weights import IntegerTable, IntegerWeight, list_layouts
from trimodal.exporting.mobile_graph.job import Job, Traced
from trimodal.runtimes.environment import Environment

NO_PRODUCT = "the runtime has no product of integers for it: its codes are in the file and become floats when it runs"


@dataclass(frozen=True)
class ForeignExporter(Exporter):
    """A format whose packages are in an environment of their own."""

    environment: Environment = field(default_factory=lambda: Environment("", ()))

    def require_packages(self) -> None:
        """Refuse where no environment has them.

        Raises:
            InputError: it says what to type.
        """
        self.environment.find_python()


def prepare_components(source: ExportSource, style: Style) -> tuple[Sequence[Component], PlacedCodes]:
    """The components with inputs of fixed shapes, and what became of each layer's codes.

    They are made of a copy: the export is checked against the model without what is placed here, else a fault would be on both sides.
    """
    model = replace(source.model, module=copy.deepcopy(source.model.module))
    components = [fix_shapes(component) for component in source.split(model)]
    placed = place_codes_(model.module, source.layers.values(), style)
    use_flat_attention_(model.module)
    return components, placed


@dataclass
class WrittenFiles:
    """What was written so far: layers by path whose codes are in a file, those that are floats there with the reason, how many layers'
    scales were found, those whose scales took a factor in, and more."""

    components: list[ExportedComponent] = field(default_factory=list)
    coded: set[str] = field(default_factory=set)
    decoded: dict[str, str] = field(default_factory=dict)
    tensors: set[str] = field(default_factory=set)
    operators: dict[str, int] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    scales: int = 0
    scaled: list[str] = field(default_factory=list)

    def add(self, job: Job, traced: Traced, name: str, found: Mapping[str, Any]) -> None:
        """One more component, written as `name` by a program that says it has `found`."""
        shapes = {what: list(value.shape) for what, value in job.component.inputs.items()}
        returned = {what: list(value.shape) for what, value in traced.outputs.items()}
        nodes = sum(found["operators"].values())
        self.components.append(ExportedComponent(job.component.name, (name,), shapes, returned, nodes))
        self.tensors |= traced.tensors
        self.versions |= found["versions"]
        for kind, count in found["operators"].items():
            self.operators[kind] = self.operators.get(kind, 0) + count


def keep_used(placed: PlacedCodes, traced: Traced, part: str) -> dict[str, IntegerWeight | IntegerTable]:
    """The coded layers of which the traced program reads the buffer `part`, or a table's codes."""
    return {
        path: made for path, made in placed.coded.items()
        if f"{path}.{'codes' if isinstance(made, IntegerTable) else part}" in traced.tensors
    }  # fmt: skip


def find_lost_codes(file: Path, layers: Mapping[str, IntegerWeight | IntegerTable], signed: bool) -> list[str]:
    """The layers whose codes are not in the file that was written, bit for bit."""
    data = file.read_bytes()
    return [path for path, made in layers.items() if not any(data.find(layout) >= 0 for layout in list_layouts(made, signed))]


def check_codes(file: Path, layers: Mapping[str, IntegerWeight | IntegerTable], signed: bool) -> None:
    """Find every layer's codes in the file that was written, bit for bit.

    Raises:
        IntegrityError: some are not there.
    """
    lost = find_lost_codes(file, layers, signed)
    if lost:
        raise IntegrityError(f"{len(lost)} layers have other codes in {file.name} than were stored, first {lost[0]}; nothing was kept")


def check_scales(file: Path, layers: Mapping[str, IntegerWeight | IntegerTable], changed: Collection[str] = ()) -> int:
    """Find the scales float32 of every layer in the file, bit for bit, but for those `changed`; how many layers that are. Scales by group
    have half as many bits in the file and are not looked for.

    Raises:
        IntegrityError: some are not there.
    """
    data = file.read_bytes()
    held = {path: made for path, made in layers.items() if not (isinstance(made, IntegerWeight) and made.group) and path not in changed}
    lost = [path for path, made in held.items() if data.find(made.scale.contiguous().numpy().tobytes()) < 0]
    if lost:
        raise IntegrityError(f"{len(lost)} layers have other scales in {file.name} than were stored, first {lost[0]}; nothing was kept")
    return len(held)


def name_arrays(weights: Iterable[IntegerWeight]) -> dict[str, Tensor]:
    """Codes and scales, of any shape, as a program finds them by the layer's number."""
    return {f"{n}.{part}": getattr(weight, part) for n, weight in enumerate(weights) for part in ("codes", "scale")}


def gather_result(written: WrittenFiles, placed: PlacedCodes, notes: Sequence[str]) -> ExportResult:
    """One result of all components: a layer that several have is coded where any has it so."""
    there = {name.rpartition(".")[0] for name in written.tensors}
    decoded = {path: why for path, why in {**placed.decoded, **written.decoded}.items() if path in there and path not in written.coded}
    versions = ", ".join(f"{name} {number}" for name, number in written.versions.items())
    said = f"codes of {len(written.coded)} layers and scales of {written.scales}, bit for bit"
    return ExportResult(
        tuple(written.components), frozenset(written.coded), decoded, parameters=frozenset(written.tensors),
        checks=(Check.from_outcome("found again in the files", True, said),),
        notes=(f"shapes are fixed: one sample, and texts padded to the length that the inputs show; made with {versions}", *notes),
    )  # fmt: skip


def describe_ranges(layers: Mapping[str, LayerCodes], coded: Iterable[str], names: str) -> list[str]:
    """What a user should know of the inputs' ranges where the runtime takes each token's own: `names` says whose kernels do that."""
    known = [layers[path].input for path in coded if path in layers]
    static, free = sum(1 for i in known if i is not None and i.static), sum(1 for i in known if i is None)
    said = []
    if static:
        said.append(f"{static} layers quantize their input with each token's own range, as {names}, not with the stored fixed one")
    if free:
        said.append(
            f"{free} layers quantize their input to 8 bits, as {names}; the artifact leaves it in float, the recipe int8-full would "
            "prepare it for that"
        )
    return said
