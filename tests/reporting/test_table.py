"""Tables for the terminal."""

from __future__ import annotations

from dataclasses import replace

from rich.console import Console, Group

from trimodal.core import Check, Packing, Plan, TensorGroup, UntouchedTensors, Verdict
from trimodal.inventory import Inventory, OtherParameters, TowerRow
from trimodal.reporting import make_inventory_table, make_summary
from trimodal.reporting.advice import CommandNames, suggest_next_steps
from trimodal.reporting.table import summarize_untouched

LONG_NAMES = CommandNames("a-folder-with-a-long-name", "org/clip", "pairs.jsonl")


def printed(table: Group) -> str:
    console = Console(width=120, record=True, file=None, quiet=False)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_summary(plan: Plan, verdict: Verdict) -> None:
    text = printed(make_summary(verdict, plan))
    assert text.startswith("9.1× smaller (14.2 MB → 1.56 MB), answer accuracy")
    for expected in ("all files", "tower audio", "[−0.1, 0.7]", "integrity: all 2 checks passed", "quality: the floor is held", "smaller"):
        assert expected in text


def test_commands_are_not_broken_on_a_narrow_terminal(plan: Plan, verdict: Verdict) -> None:
    console = Console(width=40)
    with console.capture() as capture:
        console.print(make_summary(verdict, plan, LONG_NAMES), crop=False)
    commands = [step.command for step in suggest_next_steps(plan, verdict, LONG_NAMES)]
    assert all(command in capture.get() for command in commands) and max(map(len, commands)) > 40


def test_packing_is_one_line(plan: Plan, verdict: Verdict) -> None:
    coded = replace(verdict, packing=Packing(2_000_000, 1_500_000, 0.25))
    line = "weights: 2.00 MB plain → 1.50 MB entropy-coded (1.3× smaller), decoded in 0.2 s"
    assert line[:-5] in printed(make_summary(coded, plan)) and "plain →" not in printed(make_summary(verdict, plan))
    assert Verdict.from_json(coded.to_json()) == coded and Verdict.from_json(verdict.to_json()) == verdict


def test_summary_reads_no_markup_in_names(plan: Plan, verdict: Verdict) -> None:
    metric = replace(verdict.metrics[0], name="[red]x[/]")
    failed = replace(verdict, metrics=(metric,), checks=(Check.from_outcome("[bold]reloaded", False, "[/]no"),))
    text = printed(make_summary(failed, plan))
    assert "[red]x[/]" in text and "Failed: [bold]reloaded; [/]no." in text and "integrity: 1 of 1 checks failed" in text


def test_what_a_plan_leaves(plan: Plan) -> None:
    left = UntouchedTensors(1000, (TensorGroup("h.*.c_attn.weight", "text", 2, 850, "in no place"),))
    text = printed(summarize_untouched(replace(plan, untouched=left)))
    assert "left as it was: 85 %" in text and "caution: 85 % of the bytes (850 bytes) are in no place" in text
    assert printed(summarize_untouched(plan)).strip() == ""


def test_inventory_says_what_is_in_no_place() -> None:
    left = UntouchedTensors(1000, (TensorGroup("h.*.c_attn.weight", "text", 2, 850, "in no place"),))
    inventory = Inventory(
        name="gpt2", family="generic", parameters=250, bytes=1000, buffer_bytes=0, macs=None, sites=(), input_shapes={},
        towers=(TowerRow("text", "text", 2, 3, 250, 1000, 1.0, None),),
        other=(OtherParameters("h.0.c_attn.weight", "text", 212, 850),), in_no_place=left,
    )  # fmt: skip
    text = printed(make_inventory_table(inventory))
    assert "caution: 85 % of the bytes" in text and "15 %" in text and "h.*.c_attn.weight" in text


def test_inventory() -> None:
    inventory = Inventory(
        name="clip", family="clip", parameters=101, bytes=404, buffer_bytes=8, macs=4_400_000_000,
        towers=(TowerRow("image", "image", 12, 80, 60, 240, 0.594, 4_400_000_000),
                TowerRow("text", "text", 12, 70, 40, 160, 0.396, None)),
        sites=(), other=(OtherParameters("logit_scale", "", 1, 4),), input_shapes={"pixel_values": (1, 3, 8, 8)},
    )  # fmt: skip
    text = printed(make_inventory_table(inventory))
    assert "in no tower" in text and "59%" in text and "4.40 G" in text and "pixel_values 1×3×8×8" in text
    silent = replace(inventory, macs=None, macs_note="no input known", other=())
    text = printed(make_inventory_table(silent))
    assert "MACs were not counted: no input known" in text and "in no tower" not in text
