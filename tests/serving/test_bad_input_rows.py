"""The benchmark of bad inputs: it has every row of the table once, and knows an answer that tells too much."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.serving.bad_inputs.__main__ import list_all, run
from benchmarks.serving.bad_inputs.cases import judge
from benchmarks.serving.bad_inputs.sockets import CLOSED, Reply, make_request


def reply(status: int, words: object) -> Reply:
    return Reply(status, b"", json.dumps({"error": words}).encode(), 0.0)


def test_every_row_is_there_once_and_has_variants_of_different_names() -> None:
    rows = list_all(False)
    assert [row.number for row in rows] == list(range(1, 87))
    for row in rows:
        assert row.cases and row.required and all(case.request or case.attempt for case in row.cases)


@pytest.mark.parametrize(
    "words",
    [
        "cannot identify <_io.BytesIO object at 0x7f3a5c0>", "see /usr/lib/python3/a", "in decoding.py", 'File "a", line 3, in b',
        "Traceback (most recent call last)", "/home/model is missing", "x" * 3000, "", {"message": ""}, 7,
    ],
)  # fmt: skip
def test_an_answer_that_tells_too_much_or_nothing_is_a_fault(words: object) -> None:
    assert judge(reply(400, words), (400,)).fault


def test_an_answer_is_right_where_its_status_is_one_of_those_that_are_allowed() -> None:
    assert not judge(reply(400, "the image has no pixels"), (400, 415)).fault
    assert not judge(reply(413, {"message": "too large"}), (413,)).fault
    assert "500, not 400" in judge(reply(500, "the server made a fault"), (400,)).fault
    assert judge(Reply(CLOSED, b"", b"", 0.0), (400,)).fault
    assert judge(reply(200, ""), (200,), lambda found: "no text").fault == "no text"


def test_a_request_has_the_length_that_it_is_told() -> None:
    assert b"Content-Length: 2\r\n" in make_request("/a", b"{}") and b"Content-Length: 99\r\n" in make_request("/a", b"{}", length=99)
    assert b"Content-Length" not in make_request("/a", b"", length=-1)


@pytest.mark.slow
def test_some_rows_against_a_real_service(tmp_path: Path) -> None:
    found = run(tmp_path, True, {7, 13, 27, 35, 38, 52}, 0).outcomes
    assert [one.row.number for one in found] == [7, 13, 27, 35, 38, 52] and not [fault for one in found for fault in one.faults]
