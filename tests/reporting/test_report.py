"""The page: well formed, self-contained, escaped, complete; and it renders whatever is missing."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from trimodal.core import (
    Check,
    FitRecord,
    Latency,
    Machine,
    Metric,
    PlaceRecord,
    Plan,
    TensorGroup,
    UntouchedTensors,
    Verdict,
)
from trimodal.errors import IntegrityError, OutputError
from trimodal.reporting import render_page, report
from trimodal.reporting.page import rank_towers_by_loss

VOID = {"meta", "link", "br", "hr", "img", "input", "line", "polyline"}
HOSTILE = "<script>alert('x')</script>"


class Page(HTMLParser):
    """Tags must close in order; collects text, tags, attributes, and rows of tables."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def words(html: str) -> str:
    return re.sub(r"\s+", " ", Page(html).text)


def check_tables(html: str) -> int:
    """Every table has a caption, header cells with a scope, and as many cells in a row as headers; the count."""
    tables = re.findall(r"<table.*?</table>", html, flags=re.S)
    for table in tables:
        assert "<caption>" in table
        head = re.search(r"<thead>(.*?)</thead>", table, flags=re.S)
        assert head is not None
        columns = len(re.findall(r"<th ", head.group(1)))
        assert all("scope=" in cell for cell in re.findall(r"<th[^>]*>", table) if cell != "<thead>")
        body = re.search(r"<tbody>(.*?)</tbody>", table, flags=re.S)
        assert body is not None
        for row in re.findall(r"<tr>(.*?)</tr>", body.group(1), flags=re.S):
            assert "colspan" in row or len(re.findall(r"<t[hd][ >]", row)) == columns
    return len(tables)


def check_self_contained(html: str) -> None:
    page = Page(html)
    for _, attributes in page.tags:
        for name in ("src", "srcset", "data", "action", "poster", "xlink:href"):
            assert name not in attributes
        assert (attributes.get("href") or "#").startswith("#")
        assert not any(name.startswith("on") for name in attributes)
    assert not {"script", "link", "iframe", "object", "embed", "img"} & {tag for tag, _ in page.tags}
    style = "".join(re.findall(r"<style>(.*?)</style>", html, flags=re.S))
    assert "url(" not in style and "@import" not in style and "http" not in style


def test_writes_one_light_page_that_fetches_nothing(
    plan: Plan, verdict: Verdict, places: list[PlaceRecord], fits: list[FitRecord], artifact: Callable[..., Path]
) -> None:
    out = artifact(plan, verdict, *places, *fits)
    file = report(out)
    assert file == out / "report.html"
    html = file.read_text(encoding="utf-8")
    check_self_contained(html)
    assert check_tables(html) >= 9
    assert len(html.encode()) < 300_000
    assert sorted(p.name for p in out.iterdir()) == ["plan.json", "record.jsonl", "report.html", "verdict.json"]
    assert report(out).read_text(encoding="utf-8") == html
    assert str(out.parent) not in html


def test_says_the_numbers(plan: Plan, verdict: Verdict, places: list[PlaceRecord], fits: list[FitRecord]) -> None:
    text = words(render_page(plan, verdict, places, fits, name="demo-out"))
    for expected in (
        "9.1× smaller (14.2 MB → 1.56 MB), answer accuracy 96.4 % → 96.1 %, drop 0.3 points [−0.1, 0.7], n = 1,500.",
        "Integrity: all 2 checks passed",
        "Quality: the floor is held",
        "[0.3, 1.4]",
        "4.82 MB → 512 kB",
        "32.0 → 5.0",
        "50 % removed",
        "one scale per 64 columns",
        "a norm's few weights stay as they are: 12",
        "audio accuracy: drop 0.8 points",
        "logits 0.9",
        "reloaded in a fresh process",
        'trimodal.load("demo-out")',
        "3f" * 32,
        "a1" * 32,
        "compress 74 s",
        "torch 2.13.0",
        "plan 7, verification 7",
    ):
        assert expected in text, expected


def test_plots_have_words_for_those_who_cannot_see_them(
    plan: Plan, verdict: Verdict, places: list[PlaceRecord], fits: list[FitRecord]
) -> None:
    page = Page(render_page(plan, verdict, places, fits, name="x"))
    spoken = [attributes["aria-label"] or "" for _, attributes in page.tags if attributes.get("role") == "img"]
    assert any("drop 0.8, 95 % interval [0.3, 1.4]" in label for label in spoken)
    assert any("quantize.rtn −2.13 MB" in label for label in spoken)
    assert any("depth of the audio tower, 48 places" in label for label in spoken)
    assert any(label.startswith("Losses over 300 steps: logits from") for label in spoken)
    assert len(page.all("circle")) == len(places)
    assert len(page.all("polyline")) == 2


def test_names_from_files_are_escaped(
    plan: Plan, verdict: Verdict, places: list[PlaceRecord], fits: list[FitRecord]
) -> None:
    metric = replace(verdict.metrics[0], name=HOSTILE, note=HOSTILE)
    check = Check.from_outcome(HOSTILE, False, f'"{HOSTILE}"')
    hostile = replace(verdict, metrics=(metric,), checks=(check,), versions={HOSTILE: HOSTILE})
    edits = (replace(plan.edits[0], method=HOSTILE, config={HOSTILE: HOSTILE}, where=(HOSTILE,)), *plan.edits[1:])
    source = replace(plan.source, name=HOSTILE, family=HOSTILE)
    records = [replace(record, place=HOSTILE, notes=(HOSTILE,)) for record in places]
    steps = [replace(record, losses={HOSTILE: record.losses["logits"]}) for record in fits]
    html = render_page(replace(plan, edits=edits, source=source), hostile, records, steps, name=HOSTILE)
    check_self_contained(html)
    assert "<script" not in html
    assert "&lt;script&gt;" in html


def test_renders_without_records_metrics_towers_or_steps(plan: Plan, verdict: Verdict) -> None:
    bare = replace(verdict, metrics=(), towers=(), checks=(), seconds={}, versions={})
    empty = replace(plan, edits=(), calibration=replace(plan.calibration, samples=0, sha256=None, modalities=()))
    text = words(render_page(empty, bare, [], [], name="x"))
    assert "accuracy was not measured" in text and "The plan has no steps" in text
    assert "Integrity: nothing was checked" in text and "Quality: not judged: no data" in text
    planned = words(render_page(plan, bare, [], [], name="x"))
    assert "34 places" in planned and "Where the error lies" not in planned


def test_data_none_shows_how_far_weights_moved(plan: Plan, verdict: Verdict, places: list[PlaceRecord]) -> None:
    blind = [replace(record, error={}, tokens={}) for record in places]
    text = words(render_page(plan, replace(verdict, metrics=()), blind, [], name="x"))
    assert "how far its weights moved" in text and "Integrity: all 2 checks passed" in text


def test_numbers_that_are_not_finite_do_not_break_the_page(
    plan: Plan, verdict: Verdict, places: list[PlaceRecord], fits: list[FitRecord]
) -> None:
    nan = math.nan
    metric = Metric("answer accuracy", "all", "percent", 10, nan, nan, nan, nan, nan)
    records = [replace(places[0], error={"image": nan}), replace(places[1], error={"image": 0.0}), *places[2:]]
    steps = [replace(fits[0], losses={"logits": nan}), *fits[1:]]
    html = render_page(plan, replace(verdict, metrics=(metric,)), records, steps, name="x")
    assert "not a number" in html and "nan%" not in html
    assert 'class="ring"' in html


@pytest.mark.parametrize("failing", [True, False])
def test_warns_of_failed_checks_and_wide_intervals(plan: Plan, verdict: Verdict, failing: bool) -> None:
    metric = replace(verdict.metrics[0], samples=100, drop_low=-1.5, drop_high=2.5)
    floor = replace(verdict.checks[2], detail="drop 0.30 points: measured but not shown at 95 %")
    checks = (Check.from_outcome("reloaded", not failing, "outputs differ by 3"), *verdict.checks[:2], floor)
    text = words(render_page(plan, replace(verdict, metrics=(metric,), checks=checks), [], [], name="x"))
    assert ("1 of 3 checks failed" in text) is failing and "Quality: the floor is held as measured" in text
    assert ("Failed: reloaded; outputs differ by 3." in text) is failing
    assert "The interval is wide (4.0 points)" in text and "About 1,600 samples" in text
    assert "not shown at 95 %" in text


def test_long_lists_are_cut(plan: Plan, verdict: Verdict, places: list[PlaceRecord]) -> None:
    many = [replace(places[0], place=f"image.{i}.up") for i in range(700)]
    html = render_page(plan, verdict, many, [], name="x")
    assert "and 400 more in record.jsonl" in html


def test_an_absolute_source_path_is_shortened(plan: Plan, verdict: Verdict) -> None:
    moved = replace(plan, source=replace(plan.source, name="/home/someone/models/clip"))
    html = render_page(moved, verdict, [], [], name="x")
    assert "someone" not in html and "clip" in html


def test_refuses_a_folder_without_its_files(
    plan: Plan, verdict: Verdict, artifact: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(OutputError, match="no folder"):
        report(tmp_path / "none")
    out = artifact(plan, verdict)
    (out / "record.jsonl").write_text(json.dumps({"kind": "place", "surprise": 1}) + "\n")
    with pytest.raises(IntegrityError, match=r"record\.jsonl, line 1 \(a place line\): there is an unknown key 'surprise'"):
        report(out)
    (out / "record.jsonl").write_text('{"kind": "something newer"}\n{"kind": "pl')
    with pytest.raises(IntegrityError, match=r"record\.jsonl, line 2 is not valid JSON"):
        report(out)
    (out / "record.jsonl").write_text('{"kind": "something newer"}\n\n')
    report(out)
    (out / "record.jsonl").unlink()
    (out / "plan.json").write_text(json.dumps({**plan.to_json(), "seed": "0"}))
    with pytest.raises(IntegrityError, match=r"plan\.json: seed is '0', but must be a whole number; make the plan anew"):
        report(out)
    (out / "plan.json").write_text("{")
    with pytest.raises(IntegrityError, match=r"plan\.json"):
        report(out)
    (out / "verdict.json").unlink()
    (out / "plan.json").write_text(json.dumps(plan.to_json()))
    with pytest.raises(OutputError, match=r"verdict\.json is missing"):
        report(out)
    assert not [p for p in out.iterdir() if p.name.startswith(".")]


def test_the_name_can_be_given(plan: Plan, verdict: Verdict, artifact: Callable[..., Path]) -> None:
    html = report(artifact(plan, verdict, name=".demo-out.12.part"), name="demo-out").read_text(encoding="utf-8")
    assert 'trimodal.load("demo-out")' in words(html) and ".part" not in html


def _contrast(one: str, other: str) -> float:
    """The contrast of two colours, 1 to 21 (WCAG 2.2, 1.4.3)."""

    def luminance(colour: str) -> float:
        parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_text_and_marks_stand_out_in_the_light_and_in_the_dark(plan: Plan, verdict: Verdict) -> None:
    light, dark = re.findall(r":root \{(.*?)\}", render_page(plan, verdict, [], [], name="x"), flags=re.S)[:2]
    colours = dict(re.findall(r"--([\w-]+): (#\w{6})", light))
    for scheme in (colours, {**colours, **dict(re.findall(r"--([\w-]+): (#\w{6})", dark))}):
        for text in ("ink", "soft", "good", "careful", "bad"):
            for ground in ("paper", "card", "faint", *([f"{text}-bg"] if f"{text}-bg" in scheme else [])):
                assert _contrast(scheme[text], scheme[ground]) >= 4.5, (text, ground)
        for mark in ("was", "now", *(f"c{number}" for number in range(8))):
            assert min(_contrast(scheme[mark], scheme[ground]) for ground in ("paper", "card")) >= 3, mark


def test_headings_can_be_linked_to(plan: Plan, verdict: Verdict, places: list[PlaceRecord]) -> None:
    page = Page(render_page(plan, verdict, places, [], name="x"))
    ids = {attributes["id"] for attributes in page.all("h2")}
    links = {(attributes["href"] or "")[1:] for attributes in page.all("a")}
    assert ids == links and {"accuracy", "size", "time", "done", "depth", "checks", "next", "use", "made"} <= ids


def test_options_stand_there_only_where_they_differ_from_the_default(plan: Plan, verdict: Verdict) -> None:
    edit = replace(plan.edits[2], config={"bits": 8, "group": "channel", "grid": "positive", "clip": "max", "rank": None})
    text = words(render_page(replace(plan, edits=(edit,)), verdict, [], [], name="x"))
    assert "8 bits per weight" in text and "grid positive" not in text
    signed = replace(edit, config={**edit.config, "grid": "symmetric"})
    assert "grid symmetric" in words(render_page(replace(plan, edits=(signed,)), verdict, [], [], name="x"))
    named = replace(plan, edits=(replace(edit, config={"bits": 8, "grid": "nf"}),))
    assert "grid nf" in words(render_page(named, verdict, [], [], name="x"))


def test_the_tower_that_lost_most_leads_whatever_its_layers_say(
    plan: Plan, verdict: Verdict, places: list[PlaceRecord]
) -> None:
    """Layers of the image tower move most, the audio tower lost most of what counts."""
    loud = [replace(r, error={"image": 0.9}) if r.tower == "image" else r for r in places]
    assert [loss.tower for loss in rank_towers_by_loss(verdict, loud)] == ["audio", "image", "text", "fusion"]
    html = render_page(plan, verdict, loud, [], name="x")
    table = words(html).partition("The places that moved most")[2]
    assert table.index("audio accuracy: drop 0.8 points") < table.index("image accuracy: drop 0.2 points")
    assert html.index("depth of the audio tower") < html.index("depth of the image tower")


def test_no_place_is_without_an_error_or_a_reason(plan: Plan, verdict: Verdict, places: list[PlaceRecord]) -> None:
    blind = [replace(places[0], error={}, unmeasured="no calibration sample looked a row of it up"), *places[1:]]
    text = words(render_page(plan, verdict, blind, [], name="x"))
    assert text.count("no calibration sample looked a row of it up") == 2  # at the place, and under the plot
    assert "Not measured at 1 place (image.0.up)" in text


def test_time_memory_machine_and_what_was_left(plan: Plan, verdict: Verdict) -> None:
    left = UntouchedTensors(1000, (TensorGroup("h.*.c_attn.weight", "text", 2, 850, "in no place"),))
    machine = Machine("EPYC", "AVX2, AVX-512 VNNI", 2, 1, 16_000_000_000)
    full = replace(verdict, untouched=left, machine=machine, peak_bytes=452_000_000, latency=Latency(12.34, 14.1, 5, 32))
    assert Verdict.from_json(json.loads(json.dumps(full.to_json()))) == full
    text = words(render_page(plan, full, [], [], name="x"))
    for expected in (
        "12.3 ms → 14.1 ms per sample (median of 5 batches of up to 32 samples)",
        "452 MB",
        "EPYC, AVX2, AVX-512 VNNI, 2 cores, 1 thread, 16.0 GB of memory",
        "85 % of the bytes (850 bytes) are in no place, so no method can work on them: h.*.c_attn.weight.",
        "Times are this machine's",
        "What next",
    ):
        assert expected in text, expected
