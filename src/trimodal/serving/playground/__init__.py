"""The page at `/`: one question to every model that is served, answers side by side. Files only; it asks the task routes."""

from __future__ import annotations

from pathlib import Path

FILES = {
    "page.html": "text/html; charset=utf-8", "app.js": "text/javascript; charset=utf-8", "answers.js": "text/javascript; charset=utf-8",
    "sound.js": "text/javascript; charset=utf-8", "style.css": "text/css; charset=utf-8", "icon.svg": "image/svg+xml",
}  # fmt: skip
"""The files by name, with their media type."""


def read_playground(name: str) -> bytes:
    """One of `FILES`."""
    return (Path(__file__).parent / name).read_bytes()
