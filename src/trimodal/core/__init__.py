"""The nouns: plain frozen data without torch modules or I/O. Everything else speaks in these words."""

from trimodal.core.change import Change, Cut, Drop, Folded, Merge, Treatment
from trimodal.core.estimate import Estimate
from trimodal.core.layout import FreeParameter, Layout, SizeAttribute, Uncuttable
from trimodal.core.plan import (
    Calibration,
    Certainty,
    DeclinedPlace,
    Edit,
    Place,
    Plan,
    PlannedPlace,
    SkippedStep,
    Source,
    lowest_certainty,
)
from trimodal.core.record import (
    Check,
    DiskSize,
    FitRecord,
    Latency,
    Machine,
    Metric,
    Packing,
    PlaceRecord,
    StockLoad,
    TowerSize,
    Verdict,
)
from trimodal.core.sample import MODALITIES, TOKEN_KINDS, Media, Sample, TensorInputs
from trimodal.core.site import Axis, Fold, Site, Tower
from trimodal.core.text import json_text
from trimodal.core.untouched import StoredTensor, TensorGroup, UntouchedTensors, Why, group_untouched

__all__ = [
    "MODALITIES",
    "TOKEN_KINDS",
    "TensorGroup",
    "TensorInputs",
    "Axis",
    "FreeParameter",
    "Calibration",
    "Certainty",
    "Change",
    "Check",
    "SizeAttribute",
    "Cut",
    "Drop",
    "Edit",
    "Estimate",
    "FitRecord",
    "Uncuttable",
    "Fold",
    "Folded",
    "Latency",
    "Layout",
    "DeclinedPlace",
    "Machine",
    "Media",
    "Merge",
    "Metric",
    "Packing",
    "Place",
    "PlaceRecord",
    "Plan",
    "PlannedPlace",
    "Sample",
    "Site",
    "DiskSize",
    "SkippedStep",
    "Source",
    "StockLoad",
    "StoredTensor",
    "Tower",
    "TowerSize",
    "Treatment",
    "UntouchedTensors",
    "Verdict",
    "Why",
    "group_untouched",
    "json_text",
    "lowest_certainty",
]
