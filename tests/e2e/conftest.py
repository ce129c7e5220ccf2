"""Miniatures, data and finished processes that the tests of this folder share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from calling import Done, Workspace, call, listing, said_clearly


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """A folder with nothing under way."""
    with ThreadPoolExecutor(2) as pool:
        yield Workspace(tmp_path_factory.mktemp("e2e"), pool)


@pytest.fixture(scope="session")
def job(workspace: Workspace) -> Workspace:
    """The workspace with the main job under way."""
    workspace.begin()
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
