"""Numbers and settings as a person reads them: units everywhere, three significant digits.

Sizes count decimal bytes (1 MB = 1,000,000 bytes), as disks and downloads do.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any

from trimodal.core import DiskSize, Latency, Machine, Metric, Packing, Plan, StockLoad, Verdict
from trimodal.methods import list_known_methods

MINUS = "\u2212"
TIMES = "\u00d7"
_SIZES = (("GB", 10**9), ("MB", 10**6), ("kB", 10**3))


def format_bytes(count: float) -> str:
    """`1.56 MB` for 1_560_000 bytes; negative counts keep a real minus sign."""
    if count < 0:
        return MINUS + format_bytes(-count)
    for unit, factor in _SIZES:
        if count >= factor * 0.9995:
            return f"{format_digits(count / factor)} {unit}"
    return f"{count:,.0f} bytes"


def format_digits(value: float) -> str:
    """Three significant digits without an exponent: `14.2`, `1.56`, `812`."""
    if not math.isfinite(value):
        return "not a number"
    if abs(value) >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 9.995 else f"{value:.2f}"


def format_count(value: float) -> str:
    """Parameters and the like: `3.52 M` for millions, `812 k` for thousands, `950`."""
    for unit, factor in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if value >= factor * 0.9995:
            return f"{format_digits(value / factor)} {unit}"
    return f"{value:,.0f}"


def format_ratio(before: float, after: float) -> str:
    """`9.1× smaller`; `1.2× larger` where it grew; `as large as before` where nothing changed."""
    if before == after:
        return "as large as before"
    if min(before, after) <= 0:
        return "smaller" if after < before else "larger"
    factor = max(before, after) / min(before, after)
    shown = f"{factor:.1f}" if factor < 99.95 else f"{factor:,.0f}"
    if shown == "1.0":
        shown = f"{factor:.3f}"
    return f"{shown}{TIMES} {'smaller' if after < before else 'larger'}"


def format_share(part: float, whole: float) -> str:
    """`85 %`; one decimal below ten percent, and `under 0.1 %` for a trace."""
    percent = 100 * part / whole if whole else 0.0
    if 0 < percent < 0.1:
        return "under 0.1 %"
    return f"{percent:.0f} %" if percent >= 9.95 or percent == 0 else f"{percent:.1f} %"


def format_seconds(value: float) -> str:
    """`0.4 s`, `12 s`, `3 min 5 s`, `1 h 2 min`."""
    if value < 10:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def format_score(metric: Metric, value: float) -> str:
    """A metric's value in its unit: `96.4 %`, or a cosine with as many digits as keep it apart from 1."""
    if not math.isfinite(value):
        return "not a number"
    if metric.unit == "percent":
        return f"{value:.1f} %"
    if metric.unit == "score":
        return f"{value:.5g}".replace("-", MINUS)
    return format_signed(value, count_cosine_decimals(metric), plus=False)


def count_cosine_decimals(metric: Metric) -> int:
    """Decimals for a cosine: two more than the leading zeros of its drop, four to six."""
    largest = max(abs(metric.drop), interval_width(metric))
    return 4 if largest >= 1e-3 else 5 if largest >= 1e-4 else 6


def interval_width(metric: Metric) -> float:
    """How wide the interval is; 0 where there is none."""
    return 0.0 if metric.drop_low is None or metric.drop_high is None else metric.drop_high - metric.drop_low


def format_drop(metric: Metric, value: float) -> str:
    """A drop without its unit: `0.3`, `−0.1`; a cosine's with the decimals of the metric."""
    if metric.unit == "cosine":
        return format_signed(value, count_cosine_decimals(metric), plus=False)
    if metric.unit == "score":
        return f"{value:.3g}".replace("-", MINUS)
    return format_signed(value, 2 if 0 < interval_width(metric) < 0.5 else 1, plus=False)


def format_signed(value: float, places: int, *, plus: bool = True) -> str:
    """`value` with a real minus sign and no negative zero."""
    if not math.isfinite(value):
        return "not a number"
    shown = f"{abs(value):.{places}f}"
    if float(shown) == 0:
        return shown
    return (MINUS if value < 0 else "+" if plus else "") + shown


def format_interval(metric: Metric) -> str:
    """`[−0.1, 0.7]`, the 95 % interval of the drop; `n = 7: no interval` where there are too few samples for one."""
    if metric.drop_low is None or metric.drop_high is None:
        return f"n = {metric.samples:,}: no interval"
    return f"[{format_drop(metric, metric.drop_low)}, {format_drop(metric, metric.drop_high)}]"


def describe_metric_cost(metric: Metric) -> str:
    """The change with its own interval, both of one sign: `drop 0.3 points [−0.1, 0.7], n = 1,500`; where it is a gain,
    `gain 0.6 points [−0.2, 1.3]`; where nothing changed, what the drop is at most."""
    samples = f"n = {metric.samples:,}"
    if metric.drop_low is None or metric.drop_high is None:
        return f"{describe_change(metric)}, {samples}: no interval"
    if metric.interval == "bound" and metric.drop == 0:
        unit = " points" if metric.unit == "percent" else ""
        return f"not one sample changed, drop at most {format_drop(metric, metric.drop_high)}{unit}, {samples}"
    ends = metric.drop_low, metric.drop_high
    if describe_change(metric).startswith("gain"):
        ends = -ends[1], -ends[0]
    return f"{describe_change(metric)} [{format_drop(metric, ends[0])}, {format_drop(metric, ends[1])}], {samples}"


def describe_change(metric: Metric) -> str:
    """`drop 0.3 points`, `gain 0.2 points`, `no drop`."""
    shown = format_drop(metric, abs(metric.drop))
    unit = " points" if metric.unit == "percent" else ""
    if not math.isfinite(metric.drop):
        return f"drop {shown}"
    if float(shown) == 0:
        return "no drop"
    return f"{'drop' if metric.drop > 0 else 'gain'} {shown}{unit}"


def find_main_metric(verdict: Verdict) -> Metric | None:
    """The overall metric, else the first; None where nothing was measured."""
    overall = [metric for metric in verdict.metrics if metric.modality == "all"]
    return next(iter([*overall, *verdict.metrics]), None)


def make_headline(verdict: Verdict) -> str:
    """One sentence: how much smaller, and what it cost."""
    smaller = f"{_capitalize_first(format_ratio(verdict.size.before_bytes, verdict.size.after_bytes))} ({_format_from_to(verdict.size)})"
    metric = find_main_metric(verdict)
    if metric is None:
        return f"{smaller}; accuracy was not measured."
    if metric.unit == "cosine":
        return f"{smaller}, {metric.name} to the original {format_score(metric, metric.after)}, {describe_metric_cost(metric)}."
    before, after = format_score(metric, metric.before), format_score(metric, metric.after)
    return f"{smaller}, {metric.name} {before} → {after}, {describe_metric_cost(metric)}."


def describe_packing(found: Packing) -> str:
    """What entropy coding saves, and what it costs when the model is loaded."""
    moved = f"{format_bytes(found.plain_bytes)} plain → {format_bytes(found.entropy_bytes)} entropy-coded"
    return f"weights: {moved} ({format_ratio(found.plain_bytes, found.entropy_bytes)}), decoded in {format_seconds(found.decode_seconds)}"


def describe_stock(found: StockLoad) -> str:
    """Who can load the folder."""
    if found.alone:
        return "loads with stock Transformers alone: yes"
    return f"loads with stock Transformers alone: no, because {found.reason}; {_describe_loading(found.reason)}"


def _describe_loading(reason: str) -> str:
    """How a folder is loaded that stock Transformers alone cannot load for this reason."""
    ours_alone = "entropy-coded" in reason or "came from a function" in reason
    return "use trimodal.load" if ours_alone else "import trimodal first, or use trimodal.load"


def describe_speed(plan: Plan) -> str:
    """What the steps mean for the time of a forward pass, where layers are kept packed; empty where none is."""
    working = [known for known in list_known_methods() if any(edit.method == known.name and edit.places for edit in plan.edits)]
    zeros = any(known.kind == "prune" and known.on == "site" for known in working)
    if not zeros and not any(known.kind == "quantize" for known in working):
        return ""
    packed = "packed layers are unpacked at every call while this is measured; trimodal.load unpacks each once"
    return f"time: zeros of single weights make no CPU faster, and {packed}" if zeros else f"time: {packed}"


def describe_latency(found: Latency) -> str:
    """Milliseconds per sample of both models, as measured while verifying."""
    moved = f"{format_milliseconds(found.before_ms)} → {format_milliseconds(found.after_ms)} per sample"
    batches = "one batch" if found.batches == 1 else f"median of {found.batches:,} batches"
    return f"forward pass on this machine: {moved} ({batches} of up to {found.batch_size:,} samples)"


def format_milliseconds(value: float) -> str:
    """`12.3 ms`, `0.41 ms`."""
    return f"{format_digits(value)} ms"


def describe_machine(found: Machine) -> str:
    """What the run took place on."""
    memory = f", {format_bytes(found.memory_bytes)} of memory" if found.memory_bytes else ""
    threads = f"{found.threads} {'thread' if found.threads == 1 else 'threads'}"
    cores = f"{found.cores} {'core' if found.cores == 1 else 'cores'}"
    return f"{found.processor}, {found.instructions}, {cores}, {threads}{memory}"


def _format_from_to(sizes: DiskSize) -> str:
    return f"{format_bytes(sizes.before_bytes)} → {format_bytes(sizes.after_bytes)}"


def _capitalize_first(text: str) -> str:
    return text[:1].upper() + text[1:]


def describe_setting(name: str, value: Any, unit: str = "") -> str:
    """One option of a method in words. `unit` is what the method declares; names that all methods share (sparsity,
    bits, group, rank) have a phrase of their own."""
    words = name.replace("_", " ")
    if isinstance(value, bool):
        return f"{words}: {'yes' if value else 'no'}"
    if isinstance(value, list | tuple):
        return f"{words} {', '.join(str(item) for item in value)}"
    if name in _PHRASES:
        return _PHRASES[name](value)
    shown = f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else str(value)
    return f"{shown} {unit}" if unit == words else f"{words} {shown} {unit}".strip()


def _describe_group(value: Any) -> str:
    return f"one scale per {value}" + (" columns" if isinstance(value, int) else "")


_PHRASES: Mapping[str, Callable[[Any], str]] = {
    "sparsity": lambda value: f"{value * 100:g} % removed",
    "bits": lambda value: f"{value:g} bits per weight",
    "group": _describe_group,
}


def keep_unbroken(text: str) -> str:
    """`text` with non-breaking spaces between numbers and their units and around `=`, for large type."""
    return _BREAKS.sub("\N{NO-BREAK SPACE}", text)


_BREAKS = re.compile(r"(?<=\d) (?=%|[kMG]?B\b|points)|(?<=\bn) (?==)|(?<==) (?=\d)|(?<=,) (?=[\d\u2212.]+\])")


def source_name(name: str) -> str:
    """The model's name; of an absolute path only its last part, since the page travels."""
    path = PurePath(name)
    return path.name if path.is_absolute() else name
