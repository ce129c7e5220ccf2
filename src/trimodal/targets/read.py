"""A target's file: read strictly, by the name of a built-in one or by path.

A file may say `like: NAME` and then only what is different: mappings are laid over those of that target key by key, lists and
plain values replace its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from trimodal.core.validation import read_record
from trimodal.errors import TargetError, suggest_names
from trimodal.targets.target import Target

_LIKE = "like"


def list_targets() -> dict[str, str]:
    """Names of the built-in targets, and what each is."""
    return {name: read_target(name).about for name in sorted(_find_built_in())}


def read_target(source: str | Path) -> Target:
    """The built-in target called `source`, or the one in the YAML file there; by the name of a runtime the one of its targets that
    this machine is of, else the first.

    Raises:
        TargetError: there is none, it cannot be read, or it does not say what a target says; naming where in it what is wrong.
    """
    known = _find_built_in()
    if isinstance(source, str) and source in known:
        return _read_built_in(source)
    of_runtime = [target for name in sorted(known) if (target := _read_built_in(name)).runtime == source]
    if of_runtime:
        return next((target for target in of_runtime if target.machine_fits()), of_runtime[0])
    return _read_whole(source)


@cache
def _read_built_in(name: str) -> Target:
    return _read_whole(name)


def _read_whole(source: str | Path) -> Target:
    data, where = _read_data(source, ())
    data.setdefault("name", Path(source).stem)
    return read_record(Target, data, where, TargetError, "`trimodal targets NAME` shows a whole one")


def _read_data(source: str | Path, seen: tuple[str, ...]) -> tuple[dict[str, Any], str]:
    """What the file at `source` says, laid over the target that it is `like`, and what to call it."""
    text, where = _read_text(source)
    data = _parse(text, where)
    other = data.pop(_LIKE, None)
    if other is None:
        return data, where
    if not isinstance(other, str) or other in seen:
        raise TargetError(f"{where}: like is {other!r:.60}, but must name another target; known: {', '.join(sorted(_find_built_in()))}")
    under, _ = _read_data(other, (*seen, str(source), other))
    under.pop("name", None)
    return _lay_over(under, data), where


def _find_built_in() -> dict[str, Any]:
    files = resources.files("trimodal") / "targets"
    return {file.name.removesuffix(".yaml"): file for file in files.iterdir() if file.name.endswith(".yaml")}


def _read_text(source: str | Path) -> tuple[str, str]:
    known = _find_built_in()
    if isinstance(source, str) and source in known:
        return known[source].read_text(encoding="utf-8"), f"{source}.yaml"
    file = Path(source)
    if file.suffix not in (".yaml", ".yml") and not file.is_file():
        raise TargetError(f"there is no target '{source!s:.80}'; {suggest_names(str(source), known)}")
    try:
        return file.read_text(encoding="utf-8"), file.name
    except (OSError, UnicodeDecodeError) as error:
        raise TargetError(f"the target {file!s:.80} cannot be read ({error}); expected a YAML file") from error


def _parse(text: str, where: str) -> dict[str, Any]:
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise TargetError(f"{where} is not valid YAML ({error})") from error
    if not isinstance(data, dict):
        raise TargetError(f"{where} is {data!r:.60}, but must be a mapping; `trimodal targets NAME` shows a whole one")
    return data


def _lay_over(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _lay_over(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged
