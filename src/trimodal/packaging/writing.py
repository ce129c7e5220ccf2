"""How the files are written: templates for what has its own language, YAML from plain data, quoted by who knows how."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import yaml


def render(template: str, **values: Any) -> str:
    """A template of this room with its values; one that is missing is an error."""
    return _open_templates().get_template(template).render(**values)


def write_yaml(*documents: Any) -> str:
    """YAML of plain data, one document after the other."""
    return yaml.safe_dump_all(documents, sort_keys=False, default_flow_style=False, width=120)


def write_files(folder: Path, files: dict[str, str]) -> list[str]:
    """Write texts by their path below `folder`; those that begin with `#!` can be run."""
    for name, text in files.items():
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8")
        place.chmod(0o755 if text.startswith("#!") else 0o644)
    return list(files)


@cache
def _open_templates() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("trimodal.packaging", "templates"), undefined=jinja2.StrictUndefined, autoescape=False,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
