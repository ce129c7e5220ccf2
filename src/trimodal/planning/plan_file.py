"""A plan.json that a person may have edited: read, and held against the form that a plan has.

Whether the model has the places, and whether they can be worked on, is seen later (`executable.py`). What follows from the
edits (bytes, certainty, what stays untouched) need not be there: it is reckoned anew.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

from trimodal.core import Certainty, Plan, json_text
from trimodal.core.plan import PLAN_FORMAT
from trimodal.core.record import PackName
from trimodal.core.site import Folding
from trimodal.errors import RecipeError, suggest_names
from trimodal.methods import get_method
from trimodal.methods.options import build_config
from trimodal.planning.recipe import LARGEST_SEED
from trimodal.statistics import Balance

PlanSource = Plan | str | Path | Mapping[str, Any]
_PLAN_KEYS = (
    "seed", "source", "calibration", "edits", "expected_tensor_bytes", "recipe", "trimodal", "format", "skipped", "pack",
    "untouched", "estimate", "target",
)  # fmt: skip
_PLACE_KEYS = ("name", "paths", "bytes_before", "bytes_after", "config", "certainty", "fold", "note")
_SHA256 = 64


def read_plan_file(source: PlanSource) -> tuple[Plan, str]:
    """The plan that a file, a mapping or a `Plan` holds, and what to call it in messages.

    Raises:
        RecipeError: it cannot be read; naming where in it what is wrong.
    """
    if isinstance(source, str | Path):
        return _parse_plan(_read_json(Path(source)), Path(source).name), Path(source).name
    try:
        data = json.loads(json_text(source.to_json() if isinstance(source, Plan) else source))  # tuples as a file has them
    except (TypeError, ValueError, RecursionError) as error:
        raise RecipeError(f"the plan is no plain data ({error}); expected a Plan, a file, or what Plan.to_json() gives") from error
    return _parse_plan(data, "the plan"), "the plan"


def _read_json(file: Path) -> Any:
    expected = "expected what `trimodal plan … -o plan.json` writes"
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"the plan {file!s:.80} cannot be read ({error.strerror}); {expected}") from error
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"{file.name} is not valid JSON ({error}); {expected}") from error


def _parse_plan(data: Any, name: str) -> Plan:
    """The plan in `data`, plain data as a JSON file has it."""
    top = _Part(data, name)
    top.check_keys(_PLAN_KEYS, "source", "calibration", "edits")
    if top.get("format", PLAN_FORMAT) != PLAN_FORMAT:
        raise top.complain("format", f"{PLAN_FORMAT}, which this version reads; make a new plan")
    edits = [_parse_edit(edit) for edit in top.list_parts("edits")]
    if not edits:
        raise RecipeError(f"{name}: edits is empty, so there is nothing to do; keep at least one")
    return Plan.from_json({
        "seed": top.check("seed", _is_count(0, LARGEST_SEED), "a whole number, 0 or more", 0),
        "source": _parse_source(top.part("source")),
        "calibration": _parse_calibration(top.part("calibration")),
        "edits": edits,
        "expected_tensor_bytes": top.check("expected_tensor_bytes", _is_count(0), "a whole number of bytes", 0),
        "recipe": top.check("recipe", _is_mapping, "a mapping", {}),
        "trimodal": top.check("trimodal", _is_text, "text", ""),
        "format": PLAN_FORMAT,
        "skipped": [_parse_texts(step, ("step", "method", "reason")) for step in top.list_parts("skipped")],
        "pack": top.check("pack", _is_one_of(get_args(PackName)), f"one of {', '.join(get_args(PackName))}", "plain"),
        "target": _parse_target(top) if top.get("target", None) is not None else None,
    })  # fmt: skip


def _parse_source(part: _Part) -> dict[str, Any]:
    part.check_keys(("name", "family", "fingerprint", "parameters", "tensor_bytes"), "fingerprint")
    return {
        "name": part.check("name", _is_text, "text", ""),
        "family": part.check("family", _is_text, "text", ""),
        "fingerprint": part.check("fingerprint", _is_digest, "a sha256", None),
        "parameters": part.check("parameters", _is_count(0), "a whole number", 0),
        "tensor_bytes": part.check("tensor_bytes", _is_count(0), "a whole number", 0),
    }


def _parse_calibration(part: _Part) -> dict[str, Any]:
    part.check_keys(("samples", "sha256", "modalities", "balance"), "samples", "sha256")
    sha256 = part.check("sha256", lambda v: v is None or _is_digest(v), "a sha256, or null where there is no data", None)
    few = (_is_count(0, 0), "0, since sha256 is null: there is no data") if sha256 is None else (_is_count(1), "a whole number, 1 or more")
    return {
        "samples": part.check("samples", *few, 0),
        "sha256": sha256,
        "modalities": part.check("modalities", _is_texts, "a list of names", []),
        "balance": part.check("balance", _is_one_of(get_args(Balance)), f"one of {', '.join(get_args(Balance))}", "modality"),
    }


def _parse_target(top: _Part) -> dict[str, Any]:
    """The name of the target; what it takes is asked anew."""
    name = top.part("target").check("target", _is_text, "the name of a target", "")
    return {"target": name, "asked": 0, "refused": 0, "decoded": 0}


def _parse_edit(part: _Part) -> dict[str, Any]:
    """One edit: its method is known, and the options of each of its places are the method's."""
    part.check_keys(("method", "where", "config", "places", "left_alone"), "method")
    method = get_method(part.check("method", _is_text, "the name of a method", ""), f"{part.where}.method")
    places = [_parse_place(place) for place in part.list_parts("places")]
    config = part.check("config", _is_mapping, "a mapping of options", {})
    build_config(method.config, config, f"{part.where}.config")
    for number, place in enumerate(places):
        build_config(method.config, {**config, **place["config"]}, f"{part.where}.places[{number}].config")
    if (method.on == "model") != (not places):
        wanted = "works on the whole model and takes no places" if places else "has no places; name at least one, or delete the edit"
        raise RecipeError(f"{part.where} ({method.name}) {wanted}")
    return {
        "method": method.name,
        "where": part.check("where", _is_texts, "a list of patterns", [place["name"] for place in places] or ["*"]),
        "config": config,
        "places": places,
        "left_alone": [_parse_texts(alone, ("name", "reason")) for alone in part.list_parts("left_alone")],
    }


def _parse_place(part: _Part) -> dict[str, Any]:
    part.check_keys(_PLACE_KEYS, "name")
    fold = part.get("fold", None)
    return {
        "name": part.check("name", _is_text, "the name of a place, such as image.0.query", ""),
        "paths": part.check("paths", _is_texts, "a list of dotted paths", []),
        "bytes_before": part.check("bytes_before", _is_count(0), "a whole number of bytes", 0),
        "bytes_after": part.check("bytes_after", _is_count(0), "a whole number of bytes", 0),
        "config": part.check("config", _is_mapping, "a mapping of options", {}),
        "certainty": part.check("certainty", _is_one_of(get_args(Certainty)), f"one of {', '.join(get_args(Certainty))}", "exact"),
        "note": part.check("note", _is_text, "what is said of the place", ""),
        "fold": None if fold is None else _parse_fold(part.part("fold")),
    }


def _parse_fold(part: _Part) -> dict[str, Any]:
    """A fold: known by what and path; the rest was seen by running the model, and is seen anew."""
    part.check_keys(("what", "path", "into", "offset", "epsilon", "error", "reason", "tensor_bytes"), "what", "path")
    return {
        "what": part.check("what", _is_one_of(get_args(Folding)), f"one of {', '.join(get_args(Folding))}", ""),
        "path": part.check("path", _is_text, "a dotted path", ""),
        "into": part.check("into", _is_texts, "a list of dotted paths", []),
        **{key: part.check(key, _is_number, "a number", 0.0) for key in ("offset", "epsilon", "error")},
        "reason": part.check("reason", _is_text, "text", ""),
        "tensor_bytes": part.check("tensor_bytes", _is_count(0), "a whole number of bytes", 0),
    }


def _parse_texts(part: _Part, keys: tuple[str, ...]) -> dict[str, Any]:
    part.check_keys(keys, *keys)
    return {key: part.check(key, _is_text, "text", "") for key in keys}


class _Part:
    """A JSON object of a plan, which knows where it stands: `plan.json: edits[2].places[0]`."""

    def __init__(self, data: Any, where: str) -> None:
        self.where = where
        if not isinstance(data, dict):
            raise RecipeError(f"{where} is {_shorten(data)}, but must be a JSON object")
        self._data = data

    def check_keys(self, known: Iterable[str], *required: str) -> None:
        """Refuse keys that nobody would read, and objects without those `required`."""
        for key in self._data:
            if key not in known:
                raise RecipeError(f"{self.where} has an unknown key '{key}'; {suggest_names(key, known)}")
        missing = next((key for key in required if key not in self._data), None)
        if missing is not None:
            raise RecipeError(f"{self.where} has no '{missing}', which a plan must say; make a new plan, and edit that")

    def get(self, key: str, default: Any) -> Any:
        """What stands at `key`."""
        return self._data.get(key, default)

    def check(self, key: str, fits: Callable[[Any], bool], expected: str, default: Any) -> Any:
        """What stands at `key`, if it `fits`; `default` where nothing does."""
        if key in self._data and not fits(self._data[key]):
            raise self.complain(key, expected)
        return self._data.get(key, default)

    def complain(self, key: str, expected: str) -> RecipeError:
        """What is wrong at `key`."""
        return RecipeError(f"{self._at(key)} is {_shorten(self._data[key])}, but must be {expected}")

    def part(self, key: str) -> _Part:
        """The object at `key`."""
        return _Part(self._data[key], self._at(key))

    def list_parts(self, key: str) -> list[_Part]:
        """The objects in the list at `key`; none where it is left out."""
        found = self.check(key, lambda value: isinstance(value, list), "a list", [])
        return [_Part(value, f"{self._at(key)}[{number}]") for number, value in enumerate(found)]

    def _at(self, key: str) -> str:
        return f"{self.where}.{key}" if ": " in self.where else f"{self.where}: {key}"


def _shorten(value: Any) -> str:
    return f"{value!r:.60}"


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _is_mapping(value: Any) -> bool:
    return isinstance(value, dict)


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and len(value) == _SHA256


def _is_count(low: int, high: int | None = None) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and value >= low and (high is None or value <= high)


def _is_one_of(known: Iterable[str]) -> Callable[[Any], bool]:
    allowed = set(known)
    return lambda value: isinstance(value, str) and value in allowed
