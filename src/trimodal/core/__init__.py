"""The nouns: plain frozen data without torch modules or I/O. Everything else speaks in these words."""

from trimodal.core.change import Change, Cut, Folded, Merge, Treatment
from trimodal.core.plan import Calibration, Edit, LeftAlone, Place, Plan, PlannedPlace, Source
from trimodal.core.record import Check, FitRecord, Metric, Packing, PlaceRecord, Size, TowerSize, Verdict
from trimodal.core.sample import MODALITIES, TOKEN_KINDS, Sample
from trimodal.core.site import Axis, Counter, Fixed, Fold, Layout, Site, Tower

__all__ = [
    "MODALITIES",
    "TOKEN_KINDS",
    "Axis",
    "Calibration",
    "Change",
    "Check",
    "Counter",
    "Cut",
    "Edit",
    "FitRecord",
    "Fixed",
    "Fold",
    "Folded",
    "Layout",
    "LeftAlone",
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
    "Source",
    "Tower",
    "TowerSize",
    "Treatment",
    "Verdict",
]
