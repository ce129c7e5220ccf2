"""`python -m benchmarks.browser [--node | --page] [--only NAME] [--keep FOLDER]`: exported folders in stock Transformers.js.

The real MiniLM (`int8-full`), and miniatures of CLIP, ViT and Whisper with random weights (`int8`), answer in torch, in Node
and in `examples/browser/index.html` in headless Chromium. npm's packages go into `.cache/browser`, once.
"""

from __future__ import annotations

import argparse
import functools
import http.server
import json
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.browser.models import NAMES, SENTENCES, TEXTS, ask_torch, export_model, make_question
from benchmarks.passlines import PassLine, finish

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PACKAGES = ROOT / ".cache" / "browser"
LIBRARY = "/.cache/browser/node_modules/@huggingface/transformers/dist/transformers.min.js"
WASM = "/.cache/browser/node_modules/onnxruntime-web/dist/"


def install_packages() -> None:
    """npm's packages of package.json, and the scripts beside them, where Node looks packages up."""
    PACKAGES.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "answer.mjs", "page.mjs"):
        shutil.copy(HERE / name, PACKAGES)
    if not (PACKAGES / "node_modules").exists():
        quiet = {**os.environ, "ONNXRUNTIME_NODE_INSTALL": "skip"}
        subprocess.run(["npm", "install", "--no-package-lock", "--no-audit", "--no-fund"], cwd=PACKAGES, env=quiet, check=True)


def run_script(name: str, *arguments: str) -> Any:
    """What `name` prints, as JSON: its last line."""
    done = subprocess.run(["node", name, *arguments], cwd=PACKAGES, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def ask_page(folder: Path, chromium: str) -> Any:
    """The answers of the page, which a server on this machine gives to Chromium together with the library."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(ROOT)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/examples/browser/index.html?lib={LIBRARY}&wasm={WASM}"
    try:
        return run_script("page.mjs", str(folder), url, chromium)
    finally:
        server.shutdown()


def judge_node(name: str, found: Any, torch: Any, original: Any) -> list[PassLine]:
    """Node's answer beside torch's; `original` are the float model's vectors, for MiniLM alone."""
    if isinstance(found, dict):
        print(f"{name} in Node: {found['error']}")
        return [PassLine(f"{name} in Node: answered", 0, least=1)]
    if name == "whisper":
        return [PassLine("whisper in Node: recordings with torch's words", sum(a == b for a, b in zip(found, torch)), least=len(torch))]
    ours, theirs = np.array(found), np.array(torch)
    if name == "minilm":
        same = sum(_neighbours(ours) == _neighbours(theirs))
        cosine = (ours * np.array(original)).sum(-1).min()
        return [
            PassLine("minilm in Node: sentences with torch's nearest neighbour", same, least=len(SENTENCES)),
            PassLine("minilm in Node: smallest cosine to torch's float vectors", cosine, least=0.998),
        ]
    if name == "clip":
        same = (ours.argsort(-1) == theirs.argsort(-1)).all(-1).sum()
        return [PassLine("clip in Node: images with torch's order of texts", same, least=len(theirs))]
    return [
        PassLine("vit in Node: images with torch's label", (ours.argmax(-1) == theirs.argmax(-1)).sum(), least=len(theirs)),
        PassLine("vit in Node: largest difference of a score", np.abs(ours - theirs).max(), most=0.02),
    ]


def judge_page(name: str, found: Any, torch: Any) -> list[PassLine]:
    """The rows that the page shows beside torch's answer to the first question."""
    if isinstance(found, dict):
        print(f"{name} in the page: {found['error']}")
        return [PassLine(f"{name} in the page: answered", 0, least=1)]
    shown = [row[0] for row in found]
    if name == "whisper":
        return [PassLine("whisper in the page: torch's words", shown[0].strip() == torch[0], least=1)]
    if name == "vit":
        best = int(np.argmax(torch[0]))
        return [
            PassLine("vit in the page: torch's label", shown[0] == f"LABEL_{best}", least=1),
            PassLine("vit in the page: difference of its score", abs(found[0][1] - torch[0][best]), most=0.02),
        ]
    if name == "clip":
        return [PassLine("clip in the page: torch's order of texts", shown == [TEXTS[i] for i in np.argsort(torch[0])[::-1]], least=1)]
    near = np.array(torch)[1:] @ np.array(torch)[0]
    return [PassLine("minilm in the page: torch's nearest neighbour", shown[0] == SENTENCES[1 + int(near.argmax())], least=1)]


def _neighbours(vectors: Any) -> Any:
    near = vectors @ vectors.T
    np.fill_diagonal(near, -1)
    return near.argmax(-1)


def measure(names: tuple[str, ...], folder: Path, node: bool, page: bool) -> list[PassLine]:
    """Pass lines of all that could be run here."""
    sources = {name: export_model(name, folder) for name in names}
    questions = {name: make_question(name, folder) for name in names}
    (folder / "questions.json").write_text(json.dumps(questions))
    torch: Mapping[str, Any] = {name: ask_torch(name, sources[name], questions[name]) for name in names}
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if shutil.which("node") is None or shutil.which("npm") is None:
        print("Not run: node and npm are not here.")
        return []
    install_packages()
    lines = []
    if node:
        import benchmarks.minilm as minilm

        original = ask_torch("minilm", minilm.model_folder(), questions["minilm"]) if "minilm" in names else None
        answers = run_script("answer.mjs", str(folder))
        lines += [line for name in names for line in judge_node(name, answers[name], torch[name], original)]
    if page and chromium is None:
        print("Not run: Chromium is not here, so the page was not opened.")
    elif page and chromium:
        answers = ask_page(folder, chromium)
        lines += [line for name in names for line in judge_page(name, answers[name], torch[name])]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--node", action="store_true", help="Node alone")
    parser.add_argument("--page", action="store_true", help="the page alone")
    parser.add_argument("--only", choices=NAMES, help="one model")
    parser.add_argument("--keep", type=Path, help="folder that keeps models, answers and screenshots")
    given = parser.parse_args()
    names = (given.only,) if given.only else NAMES
    with tempfile.TemporaryDirectory() as scratch:
        finish(measure(names, (given.keep or Path(scratch)).resolve(), given.node or not given.page, given.page or not given.node))


if __name__ == "__main__":
    main()
