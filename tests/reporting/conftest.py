"""A made-up run that looks like a real one: three towers and a fusion, pruned, healed, and quantized twice."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from trimodal.core import (
    Calibration,
    Check,
    DeclinedPlace,
    DiskSize,
    Edit,
    FitRecord,
    Metric,
    PlaceRecord,
    Plan,
    PlannedPlace,
    Source,
    TowerSize,
    Verdict,
)

HOSTILE = "<script>alert('x')</script>"
NORM = "a norm's few weights stay as they are"
TOWERS = {"image": 4, "audio": 6, "text": 3, "fusion": 4}
ROLES = {"query": 24_576, "key": 24_576, "value": 24_576, "output": 24_576, "up": 49_152, "down": 49_152}


def planned(method: str, config: dict[str, object], before: float, after: float, roles: list[str]) -> Edit:
    """An edit of every block's `roles`; `before` and `after` are bytes per original parameter."""
    places = tuple(
        PlannedPlace(name, (f"{tower}.layers.{block}.{role}",), int(ROLES[role] * before), int(ROLES[role] * after))
        for tower, blocks in TOWERS.items()
        for block in range(blocks)
        for role in roles
        for name in [f"{tower}.{block}.{role}"]
    )
    alone = (
        *(DeclinedPlace(f"{tower}.{i}.norm", NORM) for tower in TOWERS for i in range(3)),
        DeclinedPlace(f"text.{HOSTILE}", "already quantized"),
    )
    if method == "quantize.rtn":
        places = (*places, PlannedPlace("text.embedding", ("text.embedding",), 1_206_000, 309_000))
    return Edit(method, ("*",), dict(config), places, alone)


@pytest.fixture
def plan() -> Plan:
    return Plan(
        seed=7,
        source=Source("see-hear-read", "fusion", "3f" * 32, 3_552_018, 14_208_072),
        calibration=Calibration(512, "a1" * 32, ("image", "audio", "text"), "modality"),
        edits=(
            planned("prune.neurons", {"sparsity": 0.5, "damping": 0.01}, 4, 2, ["up", "down"]),
            Edit("distill", ("*",), {"steps": 300, "logits": 1.0, "features": 0.5, "learning_rate": 5e-4}, ()),
            planned("quantize.rtn", {"bits": 8, "group": "channel", "grid": "positive"}, 4, 1.04, ["query"]),
            planned("quantize.gptq", {"bits": 4, "group": 64, "rank": None}, 4, 0.56, ["key", "value", "output"]),
            planned("quantize.gptq", {"bits": 4, "group": 64, "rank": None}, 2, 0.28, ["up", "down"]),
        ),
        expected_tensor_bytes=1_560_000,
        recipe={"floors": {"all": 1.0}},
        trimodal="0.1.0",
    )


@pytest.fixture
def places(plan: Plan) -> list[PlaceRecord]:
    dice = random.Random(0)
    found = []
    for number, edit in enumerate(plan.edits):
        for place in edit.places:
            tower, *inner = place.name.split(".")
            block = int(inner[0]) if len(inner) == 2 else None
            scale = {0: 2e-2, 2: 4e-5, 3: 6e-3, 4: 9e-3}[number] * (1 + (block or 0)) * math.exp(dice.gauss(0, 0.6))
            parts = {"image": 1.0, "audio": 1.4, "text": 0.7} if tower == "fusion" else {tower: 1.0}
            error = {modality: scale * part for modality, part in parts.items()}
            sizes = place.bytes_before, place.bytes_after
            notes = (HOSTILE,) if dice.random() < 0.02 else ()
            tokens = dict.fromkeys(error, 12_800)
            found.append(
                PlaceRecord(
                    number, edit.method, place.name, tower, block, *sizes, error, scale * 1.3, tokens, 0.21, notes
                )
            )
    return found


@pytest.fixture
def fits() -> list[FitRecord]:
    dice = random.Random(1)
    return [FitRecord(1, "distill", step, _losses(step, dice.random()), 0.18) for step in range(1, 301)]


def _losses(step: int, noise: float) -> dict[str, float]:
    return {
        "logits": 0.9 * math.exp(-step / 60) + 0.05 + 0.05 * noise,
        "features": 0.5 * math.exp(-step / 90) + 0.11 + 0.02 * noise,
    }


@pytest.fixture
def verdict() -> Verdict:
    note = "right answers, against {}".format
    return Verdict(
        size=DiskSize(14_231_410, 1_561_120, 14_209_000, 1_538_710),
        towers=(
            TowerSize("image", 804_352, 541_200, 3_217_408, 361_200),
            TowerSize("audio", 1_205_888, 812_000, 4_823_552, 512_400),
            TowerSize("text", 702_112, 540_100, 2_808_448, 330_900),
            TowerSize("fusion", 839_666, 575_000, 3_358_664, 334_210),
        ),
        metrics=(
            Metric("answer accuracy", "all", "percent", 1500, 96.4, 96.1, 0.3, -0.1, 0.7, note("label")),
            Metric("image accuracy", "image", "percent", 1500, 98.2, 98.0, 0.2, -0.2, 0.6, note("labels.image")),
            Metric("audio accuracy", "audio", "percent", 1500, 97.9, 97.1, 0.8, 0.3, 1.4, note("labels.audio")),
            Metric("text accuracy", "text", "percent", 1500, 100.0, 100.0, 0.0, 0.0, 0.0, note("labels.text")),
        ),
        checks=(
            Check.from_outcome("reloaded in a fresh process", True, "outputs equal, largest difference 0"),
            Check.from_outcome("bytes as planned", True, "1,538,710 bytes, planned 1,538,710"),
            Check.from_outcome("answer accuracy: drop at most 1 points", True, "drop 0.30 points: shown at 95 %", "quality"),
        ),
        seed=7,
        seconds={"plan": 0.8, "compress": 74.2, "verify": 21.9},
        versions={"trimodal": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0", "python": "3.11.7"},
    )


@pytest.fixture
def artifact(tmp_path: Path) -> Callable[..., Path]:
    """Write a folder as `compress` leaves it."""

    def write(plan: Plan, verdict: Verdict, *records: PlaceRecord | FitRecord, name: str = "demo-out") -> Path:
        out = tmp_path / name
        out.mkdir()
        (out / "plan.json").write_text(json.dumps(plan.to_json()))
        (out / "verdict.json").write_text(json.dumps(verdict.to_json()))
        if records:
            (out / "record.jsonl").write_text("".join(json.dumps(asdict(record)) + "\n" for record in records))
        return out

    return write
