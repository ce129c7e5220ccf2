"""`python -m benchmarks.browser [--node | --page] [--only NAME] [--keep FOLDER]`: exported folders in stock transformers.js.

The real MiniLM, and a CLIP, a ViT and a Whisper that are trained here in a minute each, all with recipe `int8-full`, answer in torch, in
Node and in `examples/browser/index.html` in headless Chromium. npm's packages go into `.cache/browser`, once, in the versions of
package-lock.json. What is not installed is said, and its lines are left out.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.browser.judging import judge_manners, judge_node, judge_page, judge_torch
from benchmarks.browser.models import NAMES, ask_torch, export_model, make_model, make_question
from benchmarks.browser.packages import (
    PACKAGES,
    PAGE,
    find_chromium,
    find_missing,
    install_packages,
    run_script,
    serve_folder,
)
from benchmarks.passlines import PassLine, finish


def ask_page(folder: Path, chromium: str) -> Mapping[str, Any]:
    """The page's answers and manners: opened as a file, and from a server on this machine."""
    (folder / "index.html").write_bytes(PAGE.read_bytes())
    beside = folder / "node_modules"
    if not beside.exists():
        beside.symlink_to(PACKAGES / "node_modules")
    with serve_folder(folder) as address:
        return run_script("page.mjs", str(folder), address, chromium)  # type: ignore[no-any-return]


def measure(names: tuple[str, ...], folder: Path, node: bool, page: bool) -> list[PassLine]:
    """Pass lines of all that can be run here."""
    chromium = find_chromium()
    if missing := find_missing():
        print(f"not run: {missing}, so transformers.js cannot be tried")
        return []
    if page and chromium is None:
        print("not run: the page, because no Chromium is installed (chromium, chromium-browser or google-chrome)")
    install_packages()
    lines, torch, original, questions = [], {}, {}, {}
    for name in names:
        model, data = make_model(name, folder)
        questions[name] = make_question(name, data)
        torch[name] = ask_torch(name, export_model(name, model, data, folder), questions[name])
        original[name] = ask_torch(name, model, questions[name])
        lines.append(judge_torch(name, original[name], questions[name]))
    (folder / "questions.json").write_text(json.dumps(questions))
    if node:
        answers = run_script("answer.mjs", str(folder))
        lines += [line for name in names for line in judge_node(name, answers[name], torch[name], original[name])]
    if page and chromium:
        shown = ask_page(folder, chromium)
        lines += [line for name in names for line in judge_page(name, shown["answers"][name], torch[name], questions[name])]
        lines += judge_manners(shown["manners"])
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--node", action="store_true", help="Node alone")
    parser.add_argument("--page", action="store_true", help="the page alone")
    parser.add_argument("--only", choices=NAMES, help="one model")
    parser.add_argument("--keep", type=Path, help="empty folder that keeps models, answers and screenshots")
    given = parser.parse_args()
    names = (given.only,) if given.only else NAMES
    with tempfile.TemporaryDirectory() as scratch:
        finish(measure(names, (given.keep or Path(scratch)).resolve(), given.node or not given.page, given.page or not given.node))


if __name__ == "__main__":
    main()
