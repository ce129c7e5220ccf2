"""The strict reader: what it takes, and what it refuses without being slow."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimodal.serving.refusals import RefusedError
from trimodal.serving.strict_json import MOST_CONTAINERS, read_json, read_object

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0")),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0")), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(VALUES, st.booleans())
def test_json_is_read_as_it_was_written(value: object, ascii: bool) -> None:
    assert read_json(json.dumps(value, ensure_ascii=ascii).encode(), 100) == value


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nope",
        b"[1,]",
        b"{'a': 1}",
        b'{"a": 1} x',
        b"NaN",
        b"[Infinity]",
        b"-Infinity",
        b"1e999",
        b"[-1e400]",
        b"01",
        b'"\x01"',
        b'{"a": 1, "a": 1}',
        b'[{"b": {"a": 1, "\\u0061": 2}}]',
        b'"\\ud800"',
        b'{"\\udc00": 1}',
        b'"\\u0000"',
        b'["\\ud800\\ud800"]',
        b"\xff",
        b'"\xed\xa0\x80"',
        b"\xef\xbb\xbf{}",
        b"[" * 33 + b"]" * 33,
        b"[" * 100_000,
        b'{"a":' * 5000,
        b"1" * 5000,
        b"[" * 33,
        b'"' + b"\\",
        b"\x00",
    ],
)
def test_refused(body: bytes) -> None:
    with pytest.raises(RefusedError) as caught:
        read_json(body, 32)
    assert caught.value.status == 400 and len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "body", [b'"[[[["', b'"\\"[[[["', b'["\\\\", [[1]], "]]"]', b'"\\\\u0000"', b'"\\ud83d\\ude00"', b"[" * 3 + b"]" * 3]
)
def test_taken(body: bytes) -> None:
    assert read_json(body, 3) == json.loads(body)


def test_texts_of_quotes_and_backslashes_take_no_quadratic_time() -> None:
    for body in (b'"' + b'\\"' * 500_000 + b"[" * 40, b'"' + b"\\" * 1_000_001 + b"[" * 40, b'["' + b'","' * 300_000):
        with pytest.raises(RefusedError):
            read_json(body, 32)


def test_containers_are_counted() -> None:
    with pytest.raises(RefusedError, match="more than"):
        read_json(b"[" + b"[]," * MOST_CONTAINERS + b"[]]", 32)


def test_only_an_object_is_an_object() -> None:
    assert read_object(b'{"a": [1]}', 3) == {"a": [1]}
    with pytest.raises(RefusedError, match="an array; expected an object"):
        read_object(b"[]", 3)
