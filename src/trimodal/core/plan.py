"""What will happen: a place, an edit, a plan.

A recipe says what the user asks for, by pattern. A plan says what will happen, every place by name. Only plans
are executed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args

from trimodal.core.estimate import Estimate
from trimodal.core.layout import FreeParameter, Layout
from trimodal.core.record import PackName
from trimodal.core.showing import format_size, html_table
from trimodal.core.site import Fold, Site, Tower
from trimodal.core.target_fit import TargetFit
from trimodal.core.untouched import DERIVED, UntouchedTensors
from trimodal.core.validation import check_format, omit_keys, read_record
from trimodal.shorthand import short_name_of

PLAN_FORMAT = 1
Certainty = Literal["exact", "at most", "estimate"]


@dataclass(frozen=True)
class Place:
    """Where one edit works: a site, the sites that share an axis label, the sites of a tower, the sites of a fold (what
    goes first, then what takes it over), or the whole model.

    `observed_site` is the site whose input the method's statistics are taken from: the site itself, or for an axis
    the first one that consumes it. `free_parameters` are the parameters in no site that share the label; of a whole tower,
    those of one block take `block_bytes`.
    """

    name: str
    sites: tuple[Site, ...]
    label: str | None = None
    whole_tower: Tower | None = None
    fold: Fold | None = None
    free_parameters: tuple[FreeParameter, ...] = ()
    block_bytes: int = 0

    @staticmethod
    def for_label(layout: Layout, label: str) -> Place:
        """All that carries `label`."""
        bare = tuple(bare for bare in layout.free_parameters if bare.label == label)
        return Place(label, tuple(layout.find_label_sites(label)), label, free_parameters=bare)

    @property
    def observed_site(self) -> Site:
        """The site whose input is measured."""
        if self.label is None:
            return self.sites[0]
        return self.consumers[0]

    @property
    def producers(self) -> tuple[Site, ...]:
        """The sites whose output carries the label."""
        return tuple(site for site in self.sites if self.label is not None and site.writes_label(self.label))

    @property
    def consumers(self) -> tuple[Site, ...]:
        """The sites whose input carries the label."""
        return tuple(site for site in self.sites if self.label is not None and site.reads_label(self.label))

    @property
    def spans_blocks(self) -> bool:
        """Whether its sites stand in more than one block."""
        return len({(site.tower, site.block) for site in self.sites}) > 1

    @property
    def tower(self) -> str:
        """The tower the place belongs to; `all` for the whole model."""
        return self.sites[0].tower if self.sites else "all"

    @property
    def block(self) -> int | None:
        """The block the place belongs to, if any."""
        return self.sites[0].block if self.sites else None

    @property
    def stored_bytes(self) -> int:
        """Bytes of all its sites as they are stored now, and of tensors that stand at none of them."""
        return self.bytes_with(self.sites) + (self.fold.tensor_bytes if self.fold else 0)

    def bytes_with(self, sites: Sequence[Site]) -> int:
        """Bytes with `sites` in place of its own; its bare parameters have as many units as those."""
        found = sum(site.stored_bytes for site in sites)
        found += self.block_bytes * len({site.block for site in sites if site.block is not None})
        if self.free_parameters and self.label is not None:
            axes = (axis for site in sites for axis in (site.input_axis, site.output_axis) if axis is not None)
            units = next(axis.units_of(self.label) for axis in axes if self.label in axis.labels)
            found += units * sum(bare.unit_bytes for bare in self.free_parameters)
        return found


@dataclass(frozen=True)
class PlannedPlace:
    """One place of an edit, by name, with the bytes it holds before and after; `config` has the options in which it
    differs from the edit's. `fold` says what is folded into what, where that is what is done.

    `certainty` says what `bytes_after` is worth: mostly it is `exact`. Where what goes is ranked over several places it is
    an `estimate`, since only the scores will tell how much goes here; where the rank follows from the energy it is `at
    most` that. Both hold for later steps at the same sites too. `note` says what bytes do not tell, such as how many tokens are read."""

    name: str
    paths: tuple[str, ...]
    bytes_before: int
    bytes_after: int
    config: dict[str, Any] = field(default_factory=dict)
    certainty: Certainty = "exact"
    fold: Fold | None = None
    note: str = field(default="", compare=False)


@dataclass(frozen=True)
class DeclinedPlace:
    """A place that the pattern matched and the method declined, with the reason."""

    name: str
    reason: str


@dataclass(frozen=True)
class Edit:
    """One method with one setting, and the places it will work on, in running order."""

    method: str
    where: tuple[str, ...]
    config: dict[str, Any]
    places: tuple[PlannedPlace, ...]
    left_alone: tuple[DeclinedPlace, ...] = ()


@dataclass(frozen=True)
class SkippedStep:
    """A step of the recipe that is `optional` and finds nothing to do in this model: where it stands, its method, and why."""

    step: str
    method: str
    reason: str


@dataclass(frozen=True)
class Source:
    """What the plan was made for. `fingerprint` is the sha256 over all tensors' names, shapes, types and bytes."""

    name: str
    family: str
    fingerprint: str
    parameters: int
    tensor_bytes: int


@dataclass(frozen=True)
class Calibration:
    """Which data the plan will look at. `sha256` is over the text of the lines used; None when there is no data."""

    samples: int
    sha256: str | None
    modalities: tuple[str, ...]
    balance: str


@dataclass(frozen=True, repr=False)
class Plan:
    """Ordered edits with all that is needed to execute them again to the same bytes. `skipped` are the recipe's optional
    steps that became no edit; `pack` says how the weights will be stored in the file, see `formats/packed.py`; `untouched` is
    what the edits leave as it is, None in a plan of an older version; `target` says how the target that was named takes what the plan
    stores. `estimate` is what carrying it out will take here and now;
    `recomputed` says what a plan that was given said otherwise, since a person had edited it. Both are no part of the plan, and in no file.
    """

    seed: int
    source: Source
    calibration: Calibration
    edits: tuple[Edit, ...]
    expected_tensor_bytes: int
    recipe: dict[str, Any] = field(default_factory=dict)
    trimodal: str = ""
    format: int = PLAN_FORMAT
    skipped: tuple[SkippedStep, ...] = ()
    pack: PackName = field(default="plain", compare=False)  # the same is done to the model either way
    untouched: UntouchedTensors | None = None
    target: TargetFit | None = field(default=None, compare=False)  # the same is done to the model for any
    estimate: Estimate | None = field(default=None, compare=False)
    recomputed: str = field(default="", compare=False)

    def __repr__(self) -> str:
        places = sum(len(edit.places) for edit in self.edits)
        about = {"exact": "", "at most": "at most ", "estimate": "about "}[self.certainty]
        before, after = format_size(self.source.tensor_bytes), format_size(self.expected_tensor_bytes)
        return f"<Plan for {self.source.name}: {len(self.edits)} edits at {places} places, {before} → {about}{after}, seed {self.seed}>"

    def _repr_html_(self) -> str:
        rows = [
            (edit.method, short_name_of(edit.method, edit.config), ", ".join(edit.where),
             f"{len(edit.places):,}", f"{len(edit.left_alone):,}",
             format_size(sum(p.bytes_before for p in edit.places)), format_size(sum(p.bytes_after for p in edit.places)))
            for edit in self.edits
        ]  # fmt: skip
        return html_table(repr(self)[1:-1], ("method", "in short", "where", "places", "left alone", "before", "after"), rows)

    @property
    def certainty(self) -> Certainty:
        """What `expected_tensor_bytes` is worth: as little as the least certain of its places."""
        return lowest_certainty(place.certainty for edit in self.edits for place in edit.places)

    def to_json(self) -> dict[str, Any]:
        """Plain data for a JSON file."""
        data = asdict(replace(self, estimate=None))
        del data["estimate"], data["recomputed"]
        return {**data, "untouched": self.untouched.to_json() if self.untouched else None}

    @staticmethod
    def from_json(data: Any, where: str = "plan.json") -> Plan:
        """The inverse of `to_json`, also of what an older version wrote.

        Raises:
            IntegrityError: it is of a later format, a key is missing or unknown, or a value is not what it must be; `where`
                begins the message, which names the key.
        """
        check_format(data, PLAN_FORMAT, where)
        if isinstance(data, dict):
            data = {**omit_keys(data, "estimate", "recomputed"), "untouched": omit_keys(data.get("untouched"), *DERIVED)}
        return read_record(Plan, data, where, advice="make the plan anew")


def lowest_certainty(certainties: Iterable[Certainty]) -> Certainty:
    """The one that promises least; `exact` where there is none."""
    return max(certainties, key=get_args(Certainty).index, default="exact")
