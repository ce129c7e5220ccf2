"""Numbers and settings as a person reads them: units everywhere, three significant digits.

Sizes count decimal bytes (1 MB = 1,000,000 bytes), as disks and downloads do.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any

from trimodal.core import Metric, Packing, Plan, Size, Stock, Verdict
from trimodal.methods import METHODS

MINUS = "\u2212"
TIMES = "\u00d7"
_SIZES = (("GB", 10**9), ("MB", 10**6), ("kB", 10**3))


def size(count: float) -> str:
    """`1.56 MB` for 1_560_000 bytes; negative counts keep a real minus sign."""
    if count < 0:
        return MINUS + size(-count)
    for unit, factor in _SIZES:
        if count >= factor * 0.9995:
            return f"{digits(count / factor)} {unit}"
    return f"{count:,.0f} bytes"


def digits(value: float) -> str:
    """Three significant digits without an exponent: `14.2`, `1.56`, `812`."""
    if not math.isfinite(value):
        return "not a number"
    if abs(value) >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 9.995 else f"{value:.2f}"


def count(value: float) -> str:
    """Parameters and the like: `3.52 M` for millions, `812 k` for thousands, `950`."""
    for unit, factor in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if value >= factor * 0.9995:
            return f"{digits(value / factor)} {unit}"
    return f"{value:,.0f}"


def ratio(before: float, after: float) -> str:
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


def seconds(value: float) -> str:
    """`0.4 s`, `12 s`, `3 min 5 s`, `1 h 2 min`."""
    if value < 10:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def score(metric: Metric, value: float) -> str:
    """A metric's value in its unit: `96.4 %`, or a cosine with as many digits as keep it apart from 1."""
    if not math.isfinite(value):
        return "not a number"
    if metric.unit == "percent":
        return f"{value:.1f} %"
    return signed(value, cosine_places(metric), plus=False)


def cosine_places(metric: Metric) -> int:
    """Decimals for a cosine: two more than the leading zeros of its drop, four to six."""
    largest = max(abs(metric.drop), abs(metric.drop_high - metric.drop_low))
    return 4 if largest >= 1e-3 else 5 if largest >= 1e-4 else 6


def drop(metric: Metric, value: float) -> str:
    """A drop without its unit: `0.3`, `−0.1`; a cosine's with the decimals of the metric."""
    if metric.unit == "cosine":
        return signed(value, cosine_places(metric), plus=False)
    width = metric.drop_high - metric.drop_low
    return signed(value, 2 if 0 < width < 0.2 else 1, plus=False)


def signed(value: float, places: int, *, plus: bool = True) -> str:
    """`value` with a real minus sign and no negative zero."""
    if not math.isfinite(value):
        return "not a number"
    shown = f"{abs(value):.{places}f}"
    if float(shown) == 0:
        return shown
    return (MINUS if value < 0 else "+" if plus else "") + shown


def interval(metric: Metric) -> str:
    """`[−0.1, 0.7]`, the 95 % interval of the drop."""
    return f"[{drop(metric, metric.drop_low)}, {drop(metric, metric.drop_high)}]"


def change(metric: Metric) -> str:
    """`drop 0.3 points`, `gain 0.2 points`, `no drop`."""
    shown = drop(metric, abs(metric.drop))
    unit = " points" if metric.unit == "percent" else ""
    if not math.isfinite(metric.drop):
        return f"drop {shown}"
    if float(shown) == 0:
        return "no drop"
    return f"{'drop' if metric.drop > 0 else 'gain'} {shown}{unit}"


def main_metric(verdict: Verdict) -> Metric | None:
    """The overall metric, else the first; None where nothing was measured."""
    overall = [metric for metric in verdict.metrics if metric.modality == "all"]
    return next(iter([*overall, *verdict.metrics]), None)


def headline(verdict: Verdict) -> str:
    """One sentence: how much smaller, and what it cost."""
    smaller = f"{_capital(ratio(verdict.size.before_bytes, verdict.size.after_bytes))} ({_from_to(verdict.size)})"
    metric = main_metric(verdict)
    if metric is None:
        return f"{smaller}; accuracy was not measured."
    if metric.unit == "cosine":
        cosine = f"{metric.name} to the original {score(metric, metric.after)}, drop {interval(metric)}"
        return f"{smaller}, {cosine}, n = {metric.samples:,}."
    values = f"{metric.name} {score(metric, metric.before)} → {score(metric, metric.after)}"
    return f"{smaller}, {values}, {change(metric)} {interval(metric)}, n = {metric.samples:,}."


def packing(found: Packing) -> str:
    """What entropy coding saves, and what it costs when the model is loaded."""
    moved = f"{size(found.plain_bytes)} plain → {size(found.entropy_bytes)} entropy-coded"
    return f"weights: {moved} ({ratio(found.plain_bytes, found.entropy_bytes)}), decoded in {seconds(found.decode_seconds)}"


def stock(found: Stock) -> str:
    """Who can load the folder."""
    if found.alone:
        return "loads with stock Transformers alone: yes"
    return f"loads with stock Transformers alone: no, because {found.reason}; use trimodal.load"


def speed(plan: Plan) -> str:
    """What the steps mean for the time of a forward pass, where layers are kept packed; empty where none is."""
    working = [known for known in METHODS if any(edit.method == known.name and edit.places for edit in plan.edits)]
    zeros = any(known.kind == "prune" and known.on == "site" for known in working)
    if not zeros and not any(known.kind == "quantize" for known in working):
        return ""
    packed = "packed layers are unpacked at every call, which takes longer than the original's; dequantize=True undoes that"
    return f"time: zeros of single weights make no CPU faster, and {packed}" if zeros else f"time: {packed}"


def _from_to(sizes: Size) -> str:
    return f"{size(sizes.before_bytes)} → {size(sizes.after_bytes)}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def setting(name: str, value: Any, unit: str = "") -> str:
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


def _group(value: Any) -> str:
    return f"one scale per {value}" + (" columns" if isinstance(value, int) else "")


_PHRASES: Mapping[str, Callable[[Any], str]] = {
    "sparsity": lambda value: f"{value * 100:g} % removed",
    "bits": lambda value: f"{value:g} bits per weight",
    "group": _group,
}


# What the report says about the outcome as a whole

WIDE = {"percent": 2.0, "cosine": 0.02}


def standing(verdict: Verdict, plan: Plan) -> tuple[str, str, list[str]]:
    """(`good`, `careful` or `bad`, the badge's words, what a reader must know)."""
    failed = [check for check in verdict.checks if check.failed]
    remarks = [f"Failed: {check.name}; {check.detail}." for check in failed] + _cautions(verdict, plan)
    if failed:
        return "bad", f"{len(failed)} of {len(verdict.checks)} checks failed", remarks
    if not verdict.checks:
        return "careful", "nothing was checked", remarks
    run = sum(check.passed for check in verdict.checks)
    missed = len(verdict.checks) - run
    passed = f"all {run} checks passed" if run > 1 else "the one check passed"
    passed += f", {missed} not run" if missed else ""
    return ("careful", f"{passed}, with a caution", remarks) if remarks else ("good", passed, remarks)


def _cautions(verdict: Verdict, plan: Plan) -> list[str]:
    metric = main_metric(verdict)
    if metric is None:
        return ["No data was given, so nothing is known about accuracy; run trimodal verify with data."]
    cautions = []
    floors = plan.recipe.get("floors")
    for one in verdict.metrics:
        floor = floors.get(one.modality) if isinstance(floors, Mapping) else None
        allowed = None if not isinstance(floor, int | float) else floor * (1.0 if one.unit == "percent" else 0.01)
        if allowed is not None and one.drop <= allowed < one.drop_high:
            cautions.append(
                f"The drop of {one.name} was measured to be within the allowed {allowed:g}, but the interval reaches "
                f"{drop(one, one.drop_high)}: it is not shown at 95 %."
            )
    width = metric.drop_high - metric.drop_low
    if width > WIDE[metric.unit]:
        needed = math.ceil(metric.samples * (width / (WIDE[metric.unit] / 2)) ** 2 / 100) * 100
        half = "points" if metric.unit == "percent" else "in cosine"
        cautions.append(
            f"The interval is wide ({drop(metric, width)} {half}): with n = {metric.samples:,} the true drop is known "
            f"only roughly. About {needed:,} samples would make it {WIDE[metric.unit] / 2:g} {half} wide."
        )
    return cautions


def unbroken(text: str) -> str:
    """`text` with non-breaking spaces between numbers and their units and around `=`, for large type."""
    return _BREAKS.sub("\N{NO-BREAK SPACE}", text)


_BREAKS = re.compile(r"(?<=\d) (?=%|[kMG]?B\b|points)|(?<=\bn) (?==)|(?<==) (?=\d)|(?<=,) (?=[\d\u2212.]+\])")


def source_name(name: str) -> str:
    """The model's name; of an absolute path only its last part, since the page travels."""
    path = PurePath(name)
    return path.name if path.is_absolute() else name
