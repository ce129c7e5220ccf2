"""Python's search for garbage rests while our own processes import, and is as it was afterwards."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Iterator

import pytest

from trimodal.garbage import freeze_imports


@pytest.fixture(autouse=True)
def search_as_it_was() -> Iterator[None]:
    looking = gc.isenabled()
    yield
    gc.unfreeze()
    (gc.enable if looking else gc.disable)()


@pytest.mark.parametrize("looking", [True, False])
def test_rests_meanwhile_and_is_as_it_was_afterwards(looking: bool) -> None:
    (gc.enable if looking else gc.disable)()
    with pytest.raises(ImportError), freeze_imports():
        assert not gc.isenabled()
        raise ImportError
    assert gc.isenabled() == looking
    assert gc.get_freeze_count() > 0


def test_later_garbage_is_found() -> None:
    class Node:
        left = 0

        def __del__(self) -> None:
            Node.left += 1

    with freeze_imports():
        pass
    node = Node()
    node.itself = node  # type: ignore[attr-defined]
    del node
    gc.collect()
    assert Node.left == 1


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_exit_handlers_run_and_files_are_written() -> None:
    said = run(
        "import atexit, gc\n"
        "from trimodal.garbage import skip_final_collection\n"
        "atexit.register(lambda: print('frozen', gc.get_freeze_count() > 0))\n"
        "skip_final_collection()\n"
        "print('said', end=' ')"
    )
    assert said == "said frozen True\n"


def test_the_users_process_is_left_alone() -> None:
    assert run("import gc, trimodal; trimodal.load; print(gc.isenabled(), gc.get_freeze_count())") == "True 0\n"


def test_the_command_line_looks_again_once_it_has_imported() -> None:
    said = run(
        "import gc, sys\n"
        "from trimodal import cli\n"
        "from trimodal import pipeline\n"
        "pipeline.inspect = lambda *given, **rest: sys.exit(f'{gc.isenabled()} {gc.get_freeze_count() > 10000}')\n"
        "sys.argv = ['trimodal', 'inspect', 'nothing']\n"
        "try:\n    cli.main()\nexcept SystemExit as end:\n    print(end.code)"
    )
    assert said.strip() == "True True"
