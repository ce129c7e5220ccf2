"""What next: one command for less bytes, one for less loss, one for less time, built from what was done."""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass

from trimodal.core import Plan, Verdict
from trimodal.methods import list_known_methods
from trimodal.reporting import wording

_NEURONS = (
    "steps: [{prune.neurons: {where: '*', sparsity: 0.25}}, {distill: {}}, {quantize.rtn: {where: '*', bits: 8}}]"
)
_ENTROPY = 3.1  # bits per weight of the recipe `small`
_LEAST = 0.5  # bits per weight that quantize.entropy takes
_WIDER = "where: ['*'], bits: 8, group: 64, clip: output"


@dataclass(frozen=True)
class NextStep:
    """One thing to try: what for, what to expect, and the command as it is typed."""

    goal: str
    why: str
    command: str


@dataclass(frozen=True)
class CommandNames:
    """What the commands call the folder, the original and the data, with the `map` of its columns where one was given; `MODEL` and
    `DATA` where nobody knows."""

    out: str
    model: str = "MODEL"
    data: str = "DATA"
    map: str = ""

    @staticmethod
    def from_plan(plan: Plan, out: str) -> CommandNames:
        """Those for the page, which travels: a hub id or a function is the same everywhere, a folder's name is not."""
        name = wording.source_name(plan.source.name)
        return CommandNames(out, name if name == plan.source.name and ("/" in name or ":" in name) else "MODEL")

    @property
    def original(self) -> str:
        """The original, as a shell reads it."""
        return shlex.quote(self.model)

    def quote_sibling_folder(self, suffix: str) -> str:
        """A new folder beside the one that is there, as a shell reads it."""
        return shlex.quote(f"{self.out.rstrip('/')}-{suffix}")

    def compress_command(self, recipe: str, suffix: str, more: str = "") -> str:
        """The command that compresses the original anew."""
        data = shlex.quote("DATA" if self.data == "none" else self.data) + (f" --map {shlex.quote(self.map)}" if self.map else "")
        return f"trimodal compress {self.original} --recipe {recipe} --data {data}{more} -o {self.quote_sibling_folder(suffix)}"


def suggest_next_steps(plan: Plan, verdict: Verdict, names: CommandNames) -> tuple[NextStep, NextStep, NextStep]:
    """Smaller, safer, faster."""
    return _suggest_smaller(plan, verdict, names), _suggest_safer(plan, verdict, names), _suggest_faster(plan, names)


def _least_bits_of(plan: Plan) -> float:
    """The least bits that a quantizer of the plan was asked for; 32 without one."""
    kinds = {known.name: known.kind for known in list_known_methods()}
    asked = [edit.config.get("bits") for edit in plan.edits if kinds.get(edit.method) == "quantize" and edit.places]
    return min((bits for bits in asked if isinstance(bits, int | float)), default=32)


def _suggest_smaller(plan: Plan, verdict: Verdict, names: CommandNames) -> NextStep:
    bits = _least_bits_of(plan)
    if bits > 8:
        return NextStep("smaller", "8 bits per weight; needs no data", names.compress_command("int8", "int8"))
    if bits > 4:
        return NextStep("smaller", "4 bits per weight, about half the file", names.compress_command("int4", "int4"))
    if verdict.packing is None:
        why = "the same numbers, entropy-coded; decoded when it is loaded"
        return NextStep("smaller", why, f"trimodal pack {shlex.quote(names.out)} -o {names.quote_sibling_folder('packed')}")
    reached = min(bits, _reached_bits_of(verdict))
    if reached > 1.2 * _ENTROPY:
        return NextStep("smaller", "some 3 bits per weight, entropy-coded", names.compress_command("small", "small"))
    target = max(_LEAST, int(8 * reached) / 10)
    text = f"{{pack: entropy, steps: [{{quantize.entropy: {{where: '*', bits: {target:g}}}}}]}}"
    why = f"{target:g} bits per weight in place of {reached:.1f}, entropy-coded; loses more"
    return NextStep("smaller", why, f'echo "{text}" > smaller.yaml && {names.compress_command("smaller.yaml", "smaller")}')


def _reached_bits_of(verdict: Verdict) -> float:
    """Bits of the weight file per weight that the original has."""
    weights = sum(tower.parameters_before for tower in verdict.towers)
    return 8 * verdict.size.weights_after_bytes / weights if weights else math.inf


def _suggest_safer(plan: Plan, verdict: Verdict, names: CommandNames) -> NextStep:
    if not verdict.metrics:
        why = "nothing was measured yet: see what was lost, on data of your own"
        return NextStep("safer", why, f"trimodal verify {shlex.quote(names.out)} --against {names.original} --data DATA")
    cuts = any(
        known.kind not in ("quantize", "fold") for known in list_known_methods() for edit in plan.edits if edit.method == known.name
    )
    if _least_bits_of(plan) < 8 or cuts:
        return NextStep("safer", "8 bits per weight and nothing removed", names.compress_command("int8", "int8"))
    recipe = f'echo "steps: [{{quantize.rtn: {{{_WIDER}}}}}]" > safer.yaml'
    return NextStep(
        "safer", "a scale per 64 columns instead of one per row", f"{recipe} && {names.compress_command('safer.yaml', 'safer')}"
    )


def _suggest_faster(plan: Plan, names: CommandNames) -> NextStep:
    stays = {known.name for known in list_known_methods() if not known.exports}
    if wording.describe_speed(plan) and not stays.intersection(edit.method for edit in plan.edits):
        out = shlex.quote(names.out)
        factory = f" --factory {shlex.quote(names.model)}" if ":" in names.model else ""
        run = f"trimodal export {out} --to onnx{factory} && trimodal bench {out}/onnx"
        if factory or any(edit.places and edit.config.get("activation_bits") for edit in plan.edits):
            return NextStep("faster", "in a runtime made for it, and timed there", run)
        why = "inputs in 8 bits too, which processors multiply as integers, and the fastest runtime"
        return NextStep("faster", why, names.compress_command("int8-full", "fast", " --for cpu"))
    recipe = f'echo "{_NEURONS}" > faster.yaml'
    return NextStep(
        "faster", "a quarter of the neurons less, then training", f"{recipe} && {names.compress_command('faster.yaml', 'faster')}"
    )
