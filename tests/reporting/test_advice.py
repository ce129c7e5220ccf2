"""Three commands that could be typed as they stand."""

from __future__ import annotations

import shlex
from dataclasses import replace

import pytest

from trimodal.core import Edit, Packing, Plan, PlannedPlace, Verdict
from trimodal.planning import read_recipe
from trimodal.reporting.advice import CommandNames, suggest_next_steps

PLACE = (PlannedPlace("a", ("a",), 400, 100),)


def test_what_is_small_already_is_not_sent_round_in_a_circle(plan: Plan, verdict: Verdict) -> None:
    tiny = replace(verdict, packing=Packing(2, 1, 0.1), size=replace(verdict.size, weights_after_bytes=500_000))
    weights = sum(tower.parameters_before for tower in verdict.towers)
    smaller = suggest_next_steps(quantized(plan, 4), tiny, CommandNames("o"))[0]
    assert f"bits: {int(8 * 8 * 500_000 / weights) / 10:g}" in smaller.command and "--recipe small " not in smaller.command


def quantized(plan: Plan, bits: float) -> Plan:
    return replace(plan, edits=(Edit("quantize.rtn", ("*",), {"bits": bits}, PLACE),))


@pytest.mark.parametrize(
    ("bits", "packed", "smaller", "safer"),
    [
        (8, False, "--recipe int4", "safer.yaml"),
        (4, False, "trimodal pack 'my out' -o 'my out-packed'", "--recipe int8"),
        (4, True, "--recipe small --data pairs.jsonl -o", "--recipe int8"),
        (3.1, True, "bits: 2.4", "--recipe int8"),
    ],
)
def test_they_follow_from_what_was_done(plan: Plan, verdict: Verdict, bits: float, packed: bool, smaller: str, safer: str) -> None:
    weights = sum(tower.parameters_before for tower in verdict.towers)
    size = replace(verdict.size, weights_after_bytes=int(bits * weights / 8) + 1)
    found = replace(verdict, size=size, packing=Packing(2, 1, 0.1) if packed else None)
    steps = suggest_next_steps(quantized(plan, bits), found, CommandNames("my out", "org/clip", "pairs.jsonl"))
    assert [step.goal for step in steps] == ["smaller", "safer", "faster"]
    assert smaller in steps[0].command and safer in steps[1].command and "int8-full --data pairs.jsonl --for cpu" in steps[2].command
    assert all("MODEL" not in step.command for step in steps)
    assert all(shlex.split(step.command.replace("&&", "")) for step in steps)


def test_codes_for_weights_and_inputs_are_sent_to_a_runtime(plan: Plan, verdict: Verdict) -> None:
    full = replace(plan, edits=(Edit("quantize.smooth", ("*",), {"bits": 8, "activation_bits": 8}, PLACE),))
    assert "export 'my out' --to onnx" in suggest_next_steps(full, verdict, CommandNames("my out", "org/clip"))[2].command
    own = suggest_next_steps(quantized(plan, 8), verdict, CommandNames("out", "mine:make"))[2].command
    assert own == "trimodal export out --to onnx --factory mine:make && trimodal bench out/onnx"


def test_without_data_measuring_comes_first(plan: Plan, verdict: Verdict) -> None:
    steps = suggest_next_steps(quantized(plan, 8), replace(verdict, metrics=()), CommandNames("out", "clip", "none"))
    assert steps[1].command == "trimodal verify out --against clip --data DATA"


def test_recipes_that_are_written_on_the_way_can_be_read(plan: Plan, verdict: Verdict, tmp_path: object) -> None:
    import yaml

    pruned = replace(plan, edits=(Edit("distill", ("*",), {}, ()),))
    coded = replace(verdict, packing=Packing(2, 1, 0.1))
    results = ((pruned, verdict), (quantized(plan, 8), verdict), (quantized(plan, 3.1), coded))
    commands = [step.command for done, found in results for step in suggest_next_steps(done, found, CommandNames("o"))]
    written = [shlex.split(command)[1] for command in commands if command.startswith("echo")]
    assert len(written) == 3
    for text in written:
        assert read_recipe(yaml.safe_load(text)).steps


def test_the_page_knows_no_paths(plan: Plan) -> None:
    assert CommandNames.from_plan(replace(plan, source=replace(plan.source, name="/home/me/clip")), "o").model == "MODEL"
    assert CommandNames.from_plan(replace(plan, source=replace(plan.source, name="openai/clip")), "o").model == "openai/clip"
