"""What the exported demo said, for the screen."""

from __future__ import annotations

from rich.console import Group
from rich.table import Table

from trimodal.benching.table import make_bench_table
from trimodal.demo.answering import DemoRun


def make_demo_table(done: DemoRun) -> Group:
    """Milliseconds before and after, then the questions with what was answered."""
    table = Table("sees", "hears", "is asked", "answers", "", box=None, pad_edge=False)
    for one in done.answers:
        table.add_row(str(one.seen), str(one.heard), one.question, one.answer, "right" if one.right else "wrong")
    return Group(
        "", "exported, and run on this machine", make_bench_table(done.bench, done.choice), "", f"{done.choice.runtime} answers", table,
    )  # fmt: skip
