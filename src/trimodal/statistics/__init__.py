"""Streaming statistics of a layer's input, and of its weight's gradient. Padding and modality are handled here and
nowhere else."""

from typing import Literal

from trimodal.statistics.gradients import Gradient, MaskGradient
from trimodal.statistics.moments import Balance, ColumnNorm, Moment, Sample, mixed
from trimodal.statistics.tokens import rows_by_modality, unfold_input
from trimodal.statistics.uses import GroupedMoment, Uses

StatisticKind = Literal["moment", "paired", "norm", "sample", "gradient", "mask", "uses", "grouped"]
Statistic = Moment | ColumnNorm | Gradient | MaskGradient
Seen = Statistic | Uses | GroupedMoment

__all__ = [
    "Balance",
    "ColumnNorm",
    "Gradient",
    "GroupedMoment",
    "MaskGradient",
    "Moment",
    "Sample",
    "Seen",
    "Statistic",
    "StatisticKind",
    "Uses",
    "mixed",
    "rows_by_modality",
    "unfold_input",
]
