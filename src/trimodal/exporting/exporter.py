"""What an export format is: a record with a function that writes it, like a method. Generic code names no format."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from trimodal.core import Check
from trimodal.errors import InputError
from trimodal.exporting.component import Component
from trimodal.exporting.graph_changes import GraphChange
from trimodal.exporting.layer_codes import LayerCodes
from trimodal.exporting.map_grids import MapGrids
from trimodal.models.model import Model
from trimodal.targets import Target


@dataclass(frozen=True)
class ExportSource:
    """What is exported: a model of plain layers, what is stored for each, and the parts that become files.

    `components` are made when a format asks for them, so that a format that keeps the whole module needs none. `target`
    says how codes are written, None where nothing does. `output_ranges` are the least and the largest number that query and key
    projections, convolutions and ReLUs gave on real samples, by path; empty where there were none.
    """

    model: Model
    layers: Mapping[str, LayerCodes]
    split: Callable[[Model], Sequence[Component]]
    target: Target | None = None
    output_ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def components(self) -> Sequence[Component]:
        """The parts that become a file each."""
        return self.split(self.model)

    @property
    def unsigned(self) -> bool:
        """Whether 8-bit codes are written without a sign, around 128."""
        return self.target is not None and self.target.unsigned

    @property
    def saturates(self) -> bool:
        """Whether sums of 8-bit products overflow on the target, and the codes are not written so that they cannot."""
        return self.target is not None and self.target.simulation.sums == "int16" and not self.unsigned

    @property
    def static_layers(self) -> set[str]:
        """The layers whose input has a range that is known beforehand."""
        return {path for path, codes in self.layers.items() if codes.input is not None and codes.input.static}

    def count_bits(self) -> int:
        """The most frequent number of bits of a code, by weights; 0 where nothing is coded."""
        counts: dict[int, int] = {}
        for codes in self.layers.values():
            bits = int(codes.store.options.get("bits", 0))
            counts[bits] = counts.get(bits, 0) + codes.parameter.numel()
        return max(counts, key=lambda bits: counts[bits], default=0)


@dataclass(frozen=True)
class ExportedComponent:
    """One component as it was written: its file and those beside it, inputs and outputs by name with their shapes (a word for a length
    that may vary), how many nodes its graph has, and what tidying did to these."""

    name: str
    files: tuple[str, ...]
    inputs: Mapping[str, Sequence[int | str]]
    outputs: Mapping[str, Sequence[int | str]]
    nodes: int = 0
    changes: tuple[GraphChange, ...] = ()


@dataclass(frozen=True)
class ExportResult:
    """What a format wrote.

    `coded` are the paths of layers whose codes are in the files as they are; `decoded` those that are floats when the file is loaded,
    `float_inputs` those whose input is left in float, each with the reason; `parameters` are the names of the model's tensors that
    are in the files, codes' own left out; `notes` is what else a user should know. `maps` are those between convolutions that are bytes in
    the files, by component.
    """

    components: tuple[ExportedComponent, ...]
    coded: frozenset[str] = frozenset()
    decoded: Mapping[str, str] = field(default_factory=dict)
    float_inputs: Mapping[str, str] = field(default_factory=dict)
    parameters: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()
    maps: Mapping[str, MapGrids] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        plain = asdict(self)
        del plain["parameters"], plain["maps"]
        return {**plain, "coded": sorted(self.coded)}


@dataclass(frozen=True)
class Exporter:
    """One format.

    Attributes:
        name: what `--to` takes.
        summary: what it is good for, in one line.
        packages: modules that must be importable here; `extra` is what brings them (`pip install 'trimodal[extra]'`).
        write: (source, folder that is being written) -> what was written. Configuration and processor files are carried by the caller.
        target: the profile in `targets/` that it goes by if none is named.
        runtime: in `runtimes/`, what runs the files for the self-check; empty where there is none.
        write_file: of a format that is one file made of an artifact's own files: (source, file or None, force) -> the file, what is in it.
            Then `write` is not called.
        own_ranges: the runtime quantizes inputs with ranges of its own, so that its errors are not the simulation's.
        keeps_types: the model is handed over with its numbers in their own types and its own attention.
    """

    name: str
    summary: str
    packages: tuple[str, ...]
    extra: str
    write: Callable[[ExportSource, Path], ExportResult]
    target: str = ""
    runtime: str = ""
    keeps_types: bool = False
    own_ranges: bool = False
    write_file: Callable[[str | Path | Callable[[], Any], Path | None, bool], tuple[Path, ExportResult]] | None = None

    @property
    def missing_packages(self) -> list[str]:
        """Those that are not installed."""
        return [name for name in self.packages if importlib.util.find_spec(name) is None]

    def require_packages(self) -> None:
        """Refuse where a package is missing.

        Raises:
            InputError: it names the packages and what to type.
        """
        missing = self.missing_packages
        if missing:
            raise InputError(
                f"exporting to {self.name} needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed; "
                f"run pip install 'trimodal[{self.extra}]'"
            )
