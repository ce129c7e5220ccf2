"""A plan as plain data, and what is said of one that is damaged."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from trimodal.core import (
    Calibration,
    DeclinedPlace,
    Edit,
    Fold,
    Plan,
    PlannedPlace,
    SkippedStep,
    Source,
    TensorGroup,
    UntouchedTensors,
    json_text,
)
from trimodal.errors import IntegrityError

FOLD = Fold("norm", "net.0.norm", ("net.0.up",), 1.0)
PLACE = PlannedPlace("image.0.up", ("net.0.up",), 8, 4, {"bits": 4, "of": ["a", 1]}, "at most", FOLD)
PLAN = Plan(
    3, Source("clip", "clip", "0" * 64, 2, 8), Calibration(4, None, ("image", "text"), "modality"),
    (Edit("quantize.rtn", ("*",), {"bits": 8, "group": "channel"}, (PLACE,), (DeclinedPlace("a", "b"),)),), 4,
    recipe={"steps": ["quantize.rtn"]}, trimodal="0.1.0", skipped=(SkippedStep("s", "m", "r"),), pack="entropy",
    untouched=UntouchedTensors(8, (TensorGroup("a.*", "", 1, 4, "in no place"),)),
)  # fmt: skip


def written(**changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = {**json.loads(json_text(PLAN.to_json())), **changes}
    return found


def test_plan_survives_json_whole() -> None:
    assert Plan.from_json(written()) == PLAN and Plan.from_json(written()).pack == "entropy"
    assert Plan.from_json({**written(), "estimate": {"disk_bytes": 3}}).estimate is None


def test_what_an_older_version_did_not_write_has_a_default() -> None:
    data = {key: value for key, value in written().items() if key not in ("skipped", "pack", "untouched")}
    assert Plan.from_json(data) == replace(PLAN, skipped=(), untouched=None)
    assert Plan.from_json(data).pack == "plain"


@pytest.mark.parametrize(("change", "message"), [
    ({"format": 99}, "plan.json has format 99, this version reads up to 1; update trimodal"),
    ({"edits": [{"method": "quantize.rtn"}]}, "plan.json: there is no key 'where' in edits[0] (and 2 more); make the plan anew"),
    ({"source": {}}, "plan.json: there is no key 'name' in source (and 4 more); make the plan anew"),
    ({"calibration": 3}, "plan.json: calibration is 3, but must be a mapping; make the plan anew"),
    ({"pack": "zip"}, "plan.json: pack is 'zip', but must be one of 'plain' or 'entropy'; make the plan anew"),
    ({"sed": 3}, "plan.json: there is an unknown key 'sed', mistyped or of a newer trimodal; did you mean 'seed'? Make the plan anew"),
    ({"untouched": {"of_bytes": 8, "alike": 7}}, "plan.json: untouched.alike is 7, but must be a list; make the plan anew"),
])  # fmt: skip
def test_damaged_plan_says_where(change: dict[str, Any], message: str) -> None:
    with pytest.raises(IntegrityError) as caught:
        Plan.from_json(written(**change))
    assert str(caught.value) == message


@pytest.mark.parametrize(("change", "message"), [
    ({"bytes_after": "4"}, "edits[0].places[0].bytes_after is '4', but must be a whole number"),
    ({"certainty": "sure"}, "edits[0].places[0].certainty is 'sure', but must be one of 'exact', 'at most' or 'estimate'"),
    ({"fold": {"what": "norm", "path": "a", "into": "b"}}, "edits[0].places[0].fold.into is 'b', but must be a list"),
    ({"configs": {}}, "unknown key 'configs' in edits[0].places[0], mistyped or of a newer trimodal; did you mean 'config'?"),
])  # fmt: skip
def test_damaged_place_says_where(change: dict[str, Any], message: str) -> None:
    data = written()
    data["edits"][0]["places"][0].update(change)
    with pytest.raises(IntegrityError) as caught:
        Plan.from_json(data)
    assert message in str(caught.value)
