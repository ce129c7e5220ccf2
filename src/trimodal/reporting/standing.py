"""How the result stands: two verdicts, and what a reader must know beside them.

*Integrity*: the folder holds what was measured, whole, and reloads. *Quality*: what was lost, against floors. Neither speaks
for the other, and a quality that nobody set a floor for, or gave data for, is not judged.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from trimodal.core import Check, Metric, Plan, UntouchedTensors, Verdict
from trimodal.core.target_fit import name_briefly
from trimodal.reporting import wording

State = Literal["good", "careful", "bad", "open"]
WIDE = {"percent": 2.0, "cosine": 0.02}
MUCH = 0.1  # of the bytes left as they were, from which on there is a caution
BARELY = 1.1
NAMES_SHOWN = 4


@dataclass(frozen=True)
class VerdictStanding:
    """One verdict: its state, the words of its badge, and what explains it."""

    name: str
    state: State
    badge: str
    remarks: tuple[str, ...] = ()


def judge_integrity(verdict: Verdict) -> VerdictStanding:
    """Whether the folder holds what was measured."""
    checks = [check for check in verdict.checks if check.about == "integrity"]
    failed = [check for check in checks if check.failed]
    missed = [check for check in checks if check.status == "not run"]
    run = len(checks) - len(missed)
    remarks = tuple(_describe_failed_check(check) for check in failed) + tuple(f"Not run: {c.name}; {c.detail}." for c in missed)
    if failed:
        return VerdictStanding("integrity", "bad", f"{len(failed)} of {len(checks)} checks failed", remarks)
    if not run:
        return VerdictStanding("integrity", "open", "nothing was checked", remarks)
    passed = f"all {run} checks passed" if run > 1 else "the one check passed"
    passed += f", {len(missed)} not run" if missed else ""
    return VerdictStanding("integrity", "careful" if missed else "good", passed, remarks)


def judge_quality(verdict: Verdict) -> VerdictStanding:
    """Whether no more was lost than the floors allow."""
    checks = [check for check in verdict.checks if check.about == "quality" and check.status != "not run"]
    main = wording.find_main_metric(verdict)
    wide = (_describe_wide_interval(main),) if main is not None and _has_wide_interval(main) else ()
    if not verdict.metrics and not checks:
        without = "No data was given, so nothing is known about accuracy; run trimodal verify with data."
        return VerdictStanding("quality", "open", "not judged: no data", (without,))
    if not checks:
        unset = "No floor was set: the losses below are measured, and whether they are too much was nobody's question."
        return VerdictStanding("quality", "open", "not judged: no floor was set", (unset, *wide))
    failed = [check for check in checks if check.failed]
    if failed:
        broken = f"{len(failed)} of {len(checks)} floors broken"
        return VerdictStanding("quality", "bad", broken, (*(_describe_failed_check(check) for check in failed), *wide))
    doubted = tuple(
        f"Within the floor as measured, but not shown: {c.name}; {c.detail}." for c in checks if _is_doubtful(c)
    )
    kept = f"all {len(checks)} floors held" if len(checks) > 1 else "the floor is held"
    if doubted:
        return VerdictStanding("quality", "careful", f"{kept} as measured, not shown at 95 %", (*doubted, *wide))
    return VerdictStanding("quality", "good", kept, wide)


def describe_failure(verdict: Verdict) -> str:
    """The sentence that a run ends with whose verdict did not pass; empty where it did. A broken floor says nothing against
    the folder."""
    failed = sorted((check for check in verdict.checks if check.failed), key=lambda check: check.about)
    if not failed:
        return ""
    first = f"{failed[0].about}: {failed[0].name}; {failed[0].detail}"
    if failed[0].about == "quality":
        return f"{first}; the folder is written and intact, and loses more than the floor allows"
    return first


def list_cautions(verdict: Verdict, plan: Plan) -> list[str]:
    """What a reader must know beside the two verdicts: what was left as it was, what the target does not take as it is stored, and a
    size that disappoints."""
    untouched = verdict.untouched or plan.untouched
    warned = warn_of_much_untouched(untouched) if untouched else []
    return [*warned, *_list_target_cautions(plan), *_explain_large_size(verdict, plan, untouched), *_list_uncarried(verdict)]


def _list_target_cautions(plan: Plan) -> list[str]:
    """What the plan's target refuses or decodes, by reason with the first places."""
    fit = plan.target
    if fit is None:
        return []
    words = {"refused": "cannot be taken", "decoded": "decoded to float when the file is loaded"}
    return [
        f"On the target {fit.target}, {word}: {name_briefly(names)} ({reason})."
        for taken_as, word in words.items() for reason, names in fit.group_names(taken_as).items()
    ]  # fmt: skip


def _list_uncarried(verdict: Verdict) -> list[str]:
    """What of the original's folder counts for nothing, and is not in the result; cards and hidden files surprise nobody."""
    told = [name for name in verdict.left_out if not name.startswith(".") and name != "README.md"]
    if not told:
        return []
    more = len(told) - NAMES_SHOWN
    named = ", ".join(told[:NAMES_SHOWN]) + (f" and {more:,} more" if more > 0 else "")
    return [f"Not counted and not carried over, since no loader of this model reads it: {named}."]


def describe_untouched(untouched: UntouchedTensors) -> str:
    """One line about all that is left as it was: its share, the towers it is in, and where most of it is."""
    if not untouched.alike:
        return "left as it was: nothing"
    towers = untouched.bytes_by_tower()
    parts = [f"{tower or 'no tower'} {wording.format_share(held, untouched.of_bytes)}" for tower, held in towers.items()]
    where = f" ({', '.join(parts)})" if len(parts) > 1 else ""
    return f"left as it was: {_share_of(untouched)}{where}: {list_largest_names(untouched)}"


def list_largest_names(untouched: UntouchedTensors) -> str:
    """The largest by name: `h.*.attn.c_attn.weight, h.*.mlp.c_fc.weight, …`."""
    found = list(dict.fromkeys(one.name for one in untouched.alike))
    return ", ".join(found[:NAMES_SHOWN]) + (", …" if len(found) > NAMES_SHOWN else "")


def warn_of_much_untouched(untouched: UntouchedTensors) -> list[str]:
    """A sentence for what cannot be worked on and one for what was declined, if there is much of both together."""
    if untouched.select_reasons("in no place", "declined").share <= MUCH:
        return []
    found, declined = untouched.select_reasons("in no place"), untouched.select_reasons("declined")
    said = [describe_unplaced(found)] if found.alike else []
    if declined.alike:
        largest = _end_sentence(list_largest_names(declined))
        said.append(f"{_share_of(declined)} are left alone by the plan's methods: {largest}")
    return said


def describe_unplaced(untouched: UntouchedTensors) -> str:
    """`85 % of the bytes (1.20 MB) are in no place, so no method can work on them: h.*.attn.c_attn.weight, ….`"""
    return f"{_share_of(untouched)} are in no place, so no method can work on them: {_end_sentence(list_largest_names(untouched))}"


def _end_sentence(text: str) -> str:
    return text if text.endswith("…") else f"{text}."


def _share_of(untouched: UntouchedTensors) -> str:
    return f"{wording.format_share(untouched.bytes, untouched.of_bytes)} of the bytes ({wording.format_bytes(untouched.bytes)})"


def _explain_large_size(verdict: Verdict, plan: Plan, untouched: UntouchedTensors | None) -> list[str]:
    """A sentence where the result is no smaller, or hardly, or its weights are larger than planned; with the reason."""
    size, planned = verdict.size, plan.expected_tensor_bytes
    moved = f"{wording.format_bytes(size.before_bytes)} → {wording.format_bytes(size.after_bytes)}"
    said = []
    meant = planned < plan.source.tensor_bytes
    if size.after_bytes >= size.before_bytes and plan.edits and (meant or size.after_bytes > size.before_bytes):
        said.append(f"The result is not smaller than the original ({moved}): {_list_size_reasons(verdict, plan, untouched)}.")
    elif meant and size.before_bytes < BARELY * size.after_bytes:
        said.append(f"The result is barely smaller ({moved}): {_list_size_reasons(verdict, plan, untouched)}.")
    stored = size.weights_after_bytes
    if verdict.packing is None and planned > 0 and stored > BARELY * planned:
        grown = f"{wording.format_bytes(stored)}, planned {wording.format_bytes(planned)}"
        said.append(
            f"The weights are larger than planned ({grown}): names and shapes take {wording.format_bytes(stored - planned)}."
        )
    return said


def _list_size_reasons(verdict: Verdict, plan: Plan, untouched: UntouchedTensors | None) -> str:
    """Why the size is what it is, the weightiest first."""
    size, found = verdict.size, []
    stuck = untouched.select_reasons("in no place", "declined") if untouched else UntouchedTensors(0)
    if stuck.share > MUCH:
        found.append(f"{wording.format_share(stuck.bytes, stuck.of_bytes)} of the bytes stay as they were ({list_largest_names(stuck)})")
    more = (size.after_bytes - size.weights_after_bytes) - (size.before_bytes - size.weights_before_bytes)
    less = size.weights_before_bytes - size.weights_after_bytes
    if more > 0 and more >= less / 2:
        found.append(
            f"configuration and manifest add {wording.format_bytes(more)}, the weights give back {wording.format_bytes(max(less, 0))}"
        )
    places = [place for edit in plan.edits for place in edit.places]
    grown = [place for place in places if place.bytes_after >= place.bytes_before]
    if grown and any(place.bytes_after > place.bytes_before for place in grown):
        found.append(
            f"at {len(grown)} of {len(places)} places scales and tables take as much as they save ({grown[0].name})"
        )
    saved = plan.source.tensor_bytes - plan.expected_tensor_bytes
    if not found:
        found.append(f"the plan saves {wording.format_bytes(saved)} of {wording.format_bytes(plan.source.tensor_bytes)} of tensors")
    return "; ".join(found)


def _describe_failed_check(check: Check) -> str:
    return f"Failed: {check.name}; {check.detail}."


def _is_doubtful(check: Check) -> bool:
    """Whether a floor is held by the measured value only."""
    return "not shown" in check.detail or "too small to show" in check.detail


def _has_wide_interval(metric: Metric) -> bool:
    return metric.unit in WIDE and wording.interval_width(metric) > WIDE[metric.unit]


def _describe_wide_interval(metric: Metric) -> str:
    width = wording.interval_width(metric)
    needed = math.ceil(metric.samples * (width / (WIDE[metric.unit] / 2)) ** 2 / 100) * 100
    half = "points" if metric.unit == "percent" else "in cosine"
    return (
        f"The interval is wide ({wording.format_drop(metric, width)} {half}): with n = {metric.samples:,} the true drop is known "
        f"only roughly. About {needed:,} samples would make it {WIDE[metric.unit] / 2:g} {half} wide."
    )
