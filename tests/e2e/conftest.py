"""Miniatures, data and finished processes that the tests of this folder share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from calling import Done, Workspace, call, listing, said_clearly

RECIPE = """
seed: 3
calibration: {samples: 8}
steps:
  - prune.heads: {where: "image.*", sparsity: 0.5}
  - prune.magnitude: {where: "text.0.up", sparsity: 0.5}
  - factorize.eigen: {where: "text.1.down", rank: 8}
  - quantize.rtn: {where: "*embedding*", bits: 8}
  - quantize.gptq: {where: "*", bits: 4, group: 16}
"""


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    with ThreadPoolExecutor(2) as pool:
        yield Workspace(tmp_path_factory.mktemp("e2e"), pool)


@pytest.fixture(scope="session")
def job(workspace: Workspace) -> Workspace:
    """The main job on a CLIP, every verb a process of its own; `out-a` and `out-b` come from the same seed."""
    clip, pairs = workspace.model("clip"), workspace.data("image", "text")
    recipe = workspace.root / "recipe.yaml"
    recipe.write_text(RECIPE)
    same = ("--recipe", recipe, "--data", pairs, "--json")
    workspace.start("out-a", "compress", clip, *same, "-o", "out-a")
    workspace.start("out-b", "compress", clip, *same, "-o", "out-b")
    workspace.start("inspect", "inspect", clip, "--json")
    workspace.start("plan", "plan", clip, *same, "-o", "plan.json")
    workspace.start("methods", "methods", "quantize.gptq", "--json")
    workspace.start("recipes", "recipes", "--json")
    return workspace


@pytest.fixture(scope="session")
def artifact(job: Workspace) -> Path:
    """`out-a`, complete."""
    done = job.done("out-a")
    assert done.code == 0, done.err
    return job.root / "out-a"


Refused = Callable[..., Done]


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Refused:
    """Calls the command line in an empty folder and checks that it is told off in a sentence and leaves no trace."""
    monkeypatch.chdir(tmp_path)

    def run(arguments: Sequence[str | Path], *words: str, code: int = 2) -> Done:
        before = listing(tmp_path)
        done = call(*arguments)
        assert (done.code, done.out) == (code, ""), done
        said_clearly(done.err, *words)
        assert listing(tmp_path) == before
        return done

    return run
