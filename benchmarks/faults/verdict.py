"""What a result says of itself: two verdicts, intervals that hold, what was left, and a page that belongs to its verdict."""

from __future__ import annotations

import json
import re
import resource
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import trimodal
import trimodal.core
from benchmarks.faults.trying import Done, expect
from benchmarks.faults.trying import trimodal as command
from trimodal.core import Metric, Verdict
from trimodal.networks.tiny import write_miniature, write_miniature_data
from trimodal.reporting import wording
from trimodal.verification.intervals import compute_paired_interval

DATA = {"clip": ["image", "text"], "bert": ["text"], "whisper": ["audio", "text"]}


class Attention(nn.Module):
    """A network of which most bytes are in no place."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.MultiheadAttention(64, 4, batch_first=True)
        self.read = nn.Linear(64, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.read(self.mix(x, x, x, need_weights=False)[0])  # type: ignore[no-any-return]


def attention() -> nn.Module:
    return Attention()


class Norms(nn.Module):
    """A network so small that what belongs to the folder outweighs what is saved."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)


def norms() -> nn.Module:
    return Norms()


def _made(folder: Path, name: str, recipe: str, samples: int, *more: str) -> tuple[Done, Path]:
    """What compressing a miniature came to, and its folder."""
    write_miniature(name, folder / name)
    data = "none"
    if samples:
        write_miniature_data(folder / "data", samples, DATA[name])
        data = str(folder / "data")
    done = command("compress", folder / name, "-r", recipe, "-d", data, "-o", folder / "out", *more)
    return done, folder / "out"


def _verdict(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "verdict.json").read_text(encoding="utf-8"))
    return found


def _words(out: Path) -> str:
    page = re.sub(r"<style>.*?</style>", "", (out / "report.html").read_text(encoding="utf-8"), flags=re.S)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page))


def left_in_float(folder: Path) -> str:
    """Most of a network is in no place: inspect, plan, terminal, verdict and page say so, by name and share."""
    from trimodal import pipeline

    model = "benchmarks.faults.verdict:attention"
    name = "mix.in_proj_weight"
    shares = [pipeline.inspect(model).in_no_place.share]
    planned = pipeline.plan(model, "int8")
    shares.append(planned.untouched.share if planned.untouched else 0.0)
    done = command("compress", model, "-r", "int8", "-d", "none", "-o", folder / "out")
    shares.append((_verdict(folder / "out")["untouched"] or {}).get("share", 0.0))
    texts = [command(verb, model, *rest).out for verb, rest in (("inspect", ()), ("plan", ("-r", "int8")))]
    texts = [re.sub(r"\s+", " ", text) for text in (*texts, done.out)] + [_words(folder / "out")]
    expect(all(share > 0.9 for share in shares), f"shares that are told: {shares}")
    expect(all(name in text and "in no place" in text for text in texts), f"not everywhere by name: {[name in t for t in texts]}")
    return f"{shares[0]:.0%} in no place, said in inspect, plan, terminal, verdict and page"


def two_verdicts(folder: Path) -> str:
    """Whisper at 4 bits: the loss breaks the recipe's floor, the folder is intact, and both are said."""
    done, out = _made(folder, "whisper", "int4", 60)
    found = _verdict(out)
    expect(found["integrity"] == "passed", f"integrity {found['integrity']}")
    expect(done.code == (1 if found["quality"] == "failed" else 0), f"quality {found['quality']}, exit code {done.code}")
    without = {"steps": [{"quantize.rtn": {"where": "*", "bits": 8}}]}
    unjudged = trimodal.compress(str(folder / "whisper"), without, str(folder / "data"), folder / "free")
    blind = command("compress", folder / "whisper", "-r", "int8", "-d", "none", "-o", folder / "blind")
    said = [_words(folder / "free"), _words(folder / "blind")]
    expect(unjudged.verdict.quality == "not run" and "not judged: no floor was set" in said[0], "a run without floors was judged")
    expect(blind.code == 0 and "not judged: no data" in said[1], f"a run without data: exit code {blind.code}")
    expect(not any("All checks passed" in text for text in said), "a badge says more than was checked")
    return f"integrity passed, quality {found['quality']}, exit code {done.code}; not judged without floor or data"


def intervals(folder: Path) -> str:
    """No interval below ten samples; a bound where nothing changed; and the intervals hold the truth."""
    right = np.full(100, 100.0)
    alone, same = compute_paired_interval(right[:1], right[:1], seed=0), compute_paired_interval(right, right, seed=0)
    expect(alone.low is None and alone.high is None, f"one sample has an interval: {alone}")
    expect(same.high is not None and 2.9 < same.high < 3.1, f"nothing changed of 100: {same}")
    held, generator = [], np.random.default_rng(0)
    for lost in generator.binomial(100, 0.03, size=500):
        after = right.copy()
        after[:lost] = 0
        found = compute_paired_interval(right, after, seed=0)
        held.append(found.low is not None and found.high is not None and found.low <= 3 <= found.high)
    expect(float(np.mean(held)) >= 0.94, f"{np.mean(held):.1%} of intervals hold the truth")
    return f"n = 1 has none, 0 of 100 changed: at most {same.high:.2f} points, {np.mean(held):.1%} of 500 hold the truth"


def real_checks(folder: Path) -> str:
    """A check that was not tried is not passed, and one that was can fail."""
    write_miniature_data(folder / "data", 20, ["text"])
    module = attention()
    trimodal.compress(lambda: module, "int8", None, folder / "nameless")
    checks = {check["name"]: check["status"] for check in _verdict(folder / "nameless")["checks"]}
    expect(checks.get("reloads in a fresh process") == "not run", f"checks: {checks}")
    _, out = _made(folder, "bert", "int8", 20)
    config = out / "config.json"
    config.write_text(config.read_text(encoding="utf-8").replace("{", "{ ", 1), encoding="utf-8")
    done = command("verify", out, "--against", folder / "bert", "--data", folder / "data")
    expect(done.code == 1 and "config.json" in done.err, f"a changed file: exit code {done.code}, {done.said}")
    return f"not tried: not run; a changed config.json: exit code {done.code}"


def errors_everywhere(folder: Path) -> str:
    """Every place has an error, embeddings too; the tower that lost most leads the table."""
    _, out = _made(folder, "clip", "int4", 60)
    lines = [json.loads(line) for line in (out / "record.jsonl").read_text(encoding="utf-8").splitlines()]
    lacking = [line["place"] for line in lines if line["kind"] == "place" and not line["error"] and not line["unmeasured"]]
    embeddings = [line for line in lines if "embedding" in line.get("place", "")]
    expect(not lacking, f"without an error or a reason: {lacking[:3]}")
    expect(bool(embeddings) and all(line["error"] for line in embeddings), "an embedding has no error")
    primary = [m for m in _verdict(out)["metrics"] if m["modality"] in ("image", "text") and m["primary"]]
    metrics = {m["modality"]: m["drop"] for m in primary}
    most = max(metrics, key=lambda modality: metrics[modality])
    words = _words(out).partition("The places that moved most")[2]
    rows = re.findall(r"(image|text) embedding cosine: drop", words)
    expect(rows[:1] == [most], f"{most} lost most, the table begins with {rows[:1]}")
    return f"{len(lines)} places, none without an error; {most} lost most and leads"


def one_headline(folder: Path) -> str:
    """A gain stands with the interval of the gain."""
    _, out = _made(folder, "bert", "int8", 20)
    verdict = Verdict.from_json(_verdict(out))
    metric = Metric("accuracy", "all", "percent", 1000, 90.0, 90.6, -0.6, -1.3, 0.2)
    said = wording.make_headline(replace(verdict, metrics=(metric,)))
    expect("gain 0.6 points [\u22120.2, 1.3]" in said, said)
    return said


def not_smaller(folder: Path) -> str:
    """A result that is no smaller than the original says so, with the reason."""
    done = command("compress", "benchmarks.faults.verdict:norms", "-r", "int8", "-d", "none", "-o", folder / "out")
    size = _verdict(folder / "out")["size"]
    said = re.sub(r"\s+", " ", done.out)
    grown = size["after_bytes"] >= size["before_bytes"]
    expect(done.code == 0 and grown, f"exit code {done.code}, {size}")
    expect("caution: The result is not smaller" in said and "The result is not smaller" in _words(folder / "out"), said[-300:])
    return said[said.index("caution: The result") :][:140]


def page_with_its_verdict(folder: Path) -> str:
    """Verifying on other data makes the page again."""
    _, out = _made(folder, "bert", "int8", 40)
    write_miniature_data(folder / "other", 33, ["text"], seed=5)
    before = _words(out)
    done = command("verify", out, "--against", folder / "bert", "--data", folder / "other")
    after, count = _words(out), _verdict(out)["metrics"][0]["samples"]
    expect(done.code in (0, 1) and before != after, f"exit code {done.code}, the page is {'new' if before != after else 'as it was'}")
    expect(f"n\u00a0=\u00a0{count}" in after or f"n = {count}" in after, f"the page does not speak of n = {count}")
    return f"n = {count} in verdict.json and in report.html"


def report(folder: Path) -> str:
    """Time, memory, machine, what next, what was left; contrast; anchors; options that were asked for only."""
    _, out = _made(folder, "bert", "int4", 60)
    html, words, found = (out / "report.html").read_text(encoding="utf-8"), _words(out), _verdict(out)
    lacking = [key for key in ("latency", "machine", "peak_bytes", "untouched") if not found[key]]
    expect(not lacking, f"the verdict lacks {lacking}")
    for text in ("What next", "Smaller", "Safer", "Faster", "Peak memory", "Machine", "per sample", "Left as it was"):
        expect(text in words, f"the page does not say: {text}")
    expect(html.count('class="anchor"') >= 7, "headings have no anchors")
    worst = min(contrast for _, contrast in contrasts(html))
    expect(worst >= 1, f"contrast is {worst:.0%} of what it has to be")
    return f"latency, machine, memory, left, three commands, anchors, contrast {worst:.2f} of the least that it has to be"


def contrasts(html: str) -> list[tuple[str, float]]:
    """(what, contrast as a share of what it has to be) of text and marks, in the light and the dark scheme."""
    light, dark = re.findall(r":root \{(.*?)\}", html, flags=re.S)[:2]
    schemes = {"light": dict(re.findall(r"--([\w-]+): (#\w{6})", light))}
    schemes["dark"] = {**schemes["light"], **dict(re.findall(r"--([\w-]+): (#\w{6})", dark))}
    found = []
    for name, colours in schemes.items():
        for text in ("ink", "soft", "good", "careful", "bad"):
            for ground in ("paper", "card", "faint", f"{text}-bg"):
                if ground in colours:
                    found.append((f"{name} {text} on {ground}", _contrast(colours[text], colours[ground]) / 4.5))
        for mark in ("was", "now", *(f"c{number}" for number in range(8))):
            found.append((f"{name} {mark}", _contrast(colours[mark], colours["paper"]) / 3))
    return found


def _contrast(one: str, other: str) -> float:
    """The contrast of two colours, 1 to 21 (WCAG 2.2, 1.4.3)."""
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def bounded_verification(folder: Path) -> str:
    """Scores over a large vocabulary are never kept for a whole batch of 64."""
    import transformers as hf

    from trimodal.loading.load import load_source
    from trimodal.verification import compare_models

    write_miniature("llama", folder / "llama")
    config = hf.AutoConfig.from_pretrained(folder / "llama")
    config.vocab_size, config.tie_word_embeddings = 60_000, True
    hf.LlamaForCausalLM(config).save_pretrained(folder / "llama")
    samples = [trimodal.core.Sample(line=i, text="red bus " * 40) for i in range(64)]
    model = load_source(str(folder / "llama"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    compare_models(model, model, samples, batch_size=64, seed=0)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    length = len(model.processors.text(samples[0].text)["input_ids"])
    whole = 2 * 64 * length * 60_000 * 4
    expect(grown < 0.6 * whole, f"memory grew by {grown / 1e6:,.0f} MB, all scores of a batch are {whole / 1e6:,.0f} MB")
    seconds = time.process_time() - start
    return f"memory grew by {grown / 1e6:,.0f} MB, all scores of a batch are {whole / 1e6:,.0f} MB; {seconds:.0f} CPU s"


ENTRIES = {
    "1.5": left_in_float,
    "1.6": two_verdicts,
    "1.6.1": intervals,
    "1.9": real_checks,
    "1.10": errors_everywhere,
    "1.11": one_headline,
    "1.14": not_smaller,
    "3.7": page_with_its_verdict,
    "3.9": report,
    "3.11.1": bounded_verification,
}
