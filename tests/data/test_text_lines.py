"""A text file: one sample a line."""

from __future__ import annotations

from pathlib import Path

import pytest

from trimodal.data import open_data, read_samples
from trimodal.errors import DataError


def test_every_line_that_is_not_blank_is_a_sample(tmp_path: Path) -> None:
    file = tmp_path / "lines.txt"
    file.write_bytes("\ufeffa red bus\r\n\n  \n{not json}\n 3, \"x\"".encode())
    samples = read_samples(file)
    assert [(s.text, s.line) for s in samples] == [("a red bus", 1), ("{not json}", 4), (' 3, "x"', 5)]
    assert samples[1].where == f"{file}, line 4"
    with pytest.raises(DataError, match="no image, audio, text or signal"):
        read_samples(open_data(file, map={"target": "text"}))


@pytest.mark.parametrize(("content", "found"), [
    (b"", "holds no text; expected one sample per line"), (b"a\n\xff\n", "line 2: is not UTF-8 text"), (b"a\0b\n", "line 1: holds a null"),
])  # fmt: skip
def test_what_is_no_text_is_told(tmp_path: Path, content: bytes, found: str) -> None:
    (tmp_path / "lines.txt").write_bytes(content)
    with pytest.raises(DataError, match=found):
        read_samples(tmp_path / "lines.txt")
