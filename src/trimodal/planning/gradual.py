"""Gradual pruning: one line of a recipe that stands for many, each followed by recovery.

    - prune.magnitude: {sparsity: 0.9, gradual: {times: 6, shape: cubic, begin: 0.0, recover: {steps: 100}}}

is the same as six steps `prune.magnitude`, with the sparsities that the curve passes through, and a step `distill: {steps:
100}` after each. The plan shows all twelve. `final: {steps: 400}` changes what follows the last of them: only there the
weights that will be kept are all there is to train, so most of the training is best spent there.

With t = i/times for i = 1 … times, s_b = `begin` and s_f the step's sparsity:

    cubic      s_t = s_f − (s_f − s_b)(1 − t)³       much while there is much to spare (Zhu, Gupta 2017, arXiv 1710.01878)
    linear     s_t = s_f − (s_f − s_b)(1 − t)        as many weights every time
    geometric  1 − s_t = (1 − s_b)^(1−t) (1 − s_f)^t    the same share of what is left every time

How often a network is pruned in training (the paper's frequency) is the number of recovery steps in between. A constant
schedule is the plain step followed by `distill`; a one-shot one the plain step alone.

By hand. s_f = 0.9, s_b = 0, two times, cubic: 0.9 − 0.9·(½)³ = 0.7875, then 0.9.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

from trimodal.errors import RecipeError
from trimodal.methods import Method, recovery_method
from trimodal.methods.options import build_config, option

Shape = Literal["cubic", "linear", "geometric"]
"""The method that follows each of the steps."""


@dataclass(frozen=True)
class GradualSchedule:
    """How a pruning step is spread out."""

    times: int = option(..., "how many steps to prune in", low=2, high=100)
    shape: Shape = option("cubic", "the curve that the sparsity follows", choices=get_args(Shape))
    begin: float = option(0.0, "the sparsity that the curve starts from", low=0.0, high=1.0)

    def list_sparsities(self, final: float) -> list[float]:
        """The sparsity after each of the steps, the last of them `final`."""
        return [min(final, self._sparsity_at(number / self.times, final)) for number in range(1, self.times)] + [final]

    def _sparsity_at(self, t: float, final: float) -> float:
        if self.shape == "geometric":
            return round(1 - float((1 - self.begin) ** (1 - t) * (1 - final) ** t), 6)
        missing = (1 - t) ** 3 if self.shape == "cubic" else 1 - t
        return round(final - (final - self.begin) * missing, 6)


def can_be_gradual(method: Method) -> bool:
    """Whether a step with `method` can be spread out: it prunes, and has a sparsity that can rise."""
    return method.kind == "prune" and any(f.name == "sparsity" for f in fields(method.config))


def read_gradual_schedule(
    method: Method, values: Mapping[str, Any], place: str
) -> tuple[GradualSchedule, Mapping[str, Any], Mapping[str, Any]]:
    """The schedule that `values` describe for a step with `method`, the options of its recovery, and those of the last
    recovery, which are the same where nothing else is said.

    Raises:
        RecipeError: the method does not prune, or an option is wrong.
    """
    if not can_be_gradual(method):
        raise RecipeError(f"{place}: gradual is for steps that prune, such as prune.magnitude")
    values = dict(values)
    recovery = {name: values.pop(name, {}) for name in ("recover", "final")}
    for name, options in recovery.items():
        if not isinstance(options, dict):
            raise RecipeError(f"{place}: gradual.{name} is {options!r}, but must be a mapping of options of {recovery_method().name}")
    recover = recovery["recover"]
    return build_config(GradualSchedule, values, f"{place}: gradual"), recover, {**recover, **recovery["final"]}


def expand_schedule(gradual: GradualSchedule, config: Any, place: str) -> list[Any]:
    """`config` once per step, each with its sparsity.

    Raises:
        RecipeError: there is no sparsity that could rise.
    """
    if getattr(config, "kept", None) is not None:
        raise RecipeError(f"{place}: gradual raises the sparsity, and kept and of take its place; leave one of them out")
    if config.sparsity <= gradual.begin:
        raise RecipeError(
            f"{place}: gradual.begin is {gradual.begin:g}, but must be less than the sparsity {config.sparsity:g}"
        )
    return [replace(config, sparsity=sparsity) for sparsity in gradual.list_sparsities(config.sparsity)]
