"""The nouns: plain frozen data without torch modules or I/O. Everything else speaks in these words."""

from trimodal.core.change import Change, Cut, Drop, Folded, Merge, Treatment
from trimodal.core.estimate import Estimate
from trimodal.core.layout import Bare, Counter, Fixed, Layout
from trimodal.core.plan import (
    Calibration,
    Certainty,
    Edit,
    LeftAlone,
    Place,
    Plan,
    PlannedPlace,
    Skipped,
    Source,
    least_certain,
)
from trimodal.core.record import (
    Check,
    FitRecord,
    Latency,
    Machine,
    Metric,
    Packing,
    PlaceRecord,
    Size,
    Stock,
    TowerSize,
    Verdict,
)
from trimodal.core.sample import MODALITIES, TOKEN_KINDS, Sample
from trimodal.core.site import Axis, Fold, Site, Tower
from trimodal.core.text import json_text
from trimodal.core.untouched import Alike, Stored, Untouched, Why, gathered

__all__ = [
    "MODALITIES",
    "TOKEN_KINDS",
    "Alike",
    "Axis",
    "Bare",
    "Calibration",
    "Certainty",
    "Change",
    "Check",
    "Counter",
    "Cut",
    "Drop",
    "Edit",
    "Estimate",
    "FitRecord",
    "Fixed",
    "Fold",
    "Folded",
    "Latency",
    "Layout",
    "LeftAlone",
    "Machine",
    "Merge",
    "Metric",
    "Packing",
    "Place",
    "PlaceRecord",
    "Plan",
    "PlannedPlace",
    "Sample",
    "Site",
    "Size",
    "Skipped",
    "Source",
    "Stock",
    "Stored",
    "Tower",
    "TowerSize",
    "Treatment",
    "Untouched",
    "Verdict",
    "Why",
    "gathered",
    "json_text",
    "least_certain",
]
