"""Streaming statistics of a layer's input, and of its weight's gradient. Padding and modality are handled here and
nowhere else."""

from typing import Literal

from trimodal.statistics.gradients import MaskGradient, WeightGradient
from trimodal.statistics.moments import ActivationSample, Balance, ColumnNorm, Moment, mix_moments
from trimodal.statistics.tokens import find_token_codes, split_rows_by_modality, unfold_input
from trimodal.statistics.uses import GroupedMoment, RowUsage, mix_grouped

StatisticKind = Literal["moment", "paired", "norm", "sample", "gradient", "mask", "uses", "grouped"]
Statistic = Moment | ColumnNorm | WeightGradient | MaskGradient | GroupedMoment
Seen = Statistic | RowUsage

__all__ = [
    "Balance",
    "ColumnNorm",
    "WeightGradient",
    "GroupedMoment",
    "MaskGradient",
    "Moment",
    "ActivationSample",
    "Seen",
    "Statistic",
    "StatisticKind",
    "RowUsage",
    "mix_grouped",
    "mix_moments",
    "find_token_codes",
    "split_rows_by_modality",
    "unfold_input",
]
