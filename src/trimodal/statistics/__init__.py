"""Streaming statistics of a layer's input. Padding and modality are handled here and nowhere else."""

from trimodal.statistics.moments import Balance, ColumnNorm, Moment, Sample, Statistic, StatisticKind, mixed
from trimodal.statistics.tokens import rows_by_modality, unfold_input

__all__ = [
    "Balance",
    "ColumnNorm",
    "Moment",
    "Sample",
    "Statistic",
    "StatisticKind",
    "mixed",
    "rows_by_modality",
    "unfold_input",
]
