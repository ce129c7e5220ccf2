"""Forms with files (`multipart/form-data`), read in memory: the body is there already, and no file of a client touches the disk."""

from __future__ import annotations

from dataclasses import dataclass, field

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from trimodal.serving.refusals import refuse_bad
from trimodal.serving.strict_json import shorten

MOST_NAME, MOST_HEADERS, MOST_HEADER = 200, 8, 4096
"""Characters of a field's name; headers of a part, and bytes of each."""


@dataclass
class Form:
    """What a form holds: texts and files by field, in the order in which they came."""

    fields: dict[str, list[str]] = field(default_factory=dict)
    files: dict[str, list[bytes]] = field(default_factory=dict)


def read_form(body: bytes, content_type: str, most_parts: int) -> Form:
    """The form in `body`.

    Raises:
        RefusedError: 400 where it is malformed, a part has no name, a text is not UTF-8; 413 for more parts or longer headers than are
        taken.
    """
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary or len(boundary) > 70:
        raise refuse_bad("expected multipart/form-data with a boundary of at most 70 characters", "Content-Type")
    collector = _Collector(most_parts)
    try:
        parser = MultipartParser(boundary, collector.list_callbacks(), max_header_count=MOST_HEADERS, max_header_size=MOST_HEADER)  # type: ignore[arg-type]
        parser.write(body)
        parser.finalize()
    except FormParserError:
        raise refuse_bad("the form is malformed") from None
    if not collector.ended:
        raise refuse_bad("the form ends early")
    return collector.form


class _Collector:
    """Takes the parts of a form as the parser finds them."""

    def __init__(self, most_parts: int) -> None:
        self.form, self.most_parts = Form(), most_parts
        self.parts, self.ended = 0, False
        self.header, self.value = bytearray(), bytearray()
        self.headers: dict[bytes, bytes] = {}
        self.data: list[bytes] = []

    def list_callbacks(self) -> dict[str, object]:
        """What the parser calls."""
        return {
            "on_part_begin": self._begin, "on_part_data": self._take_data, "on_part_end": self._end_part, "on_end": self._end,
            "on_header_field": self._take_header, "on_header_value": self._take_value, "on_header_end": self._end_header,
        }  # fmt: skip

    def _begin(self) -> None:
        self.parts += 1
        if self.parts > self.most_parts:
            raise refuse_bad(f"the form has more than {self.most_parts:,} parts")
        self.headers, self.data = {}, []

    def _take_header(self, data: bytes, start: int, end: int) -> None:
        self.header += data[start:end]

    def _take_value(self, data: bytes, start: int, end: int) -> None:
        self.value += data[start:end]

    def _end_header(self) -> None:
        self.headers[bytes(self.header).lower()] = bytes(self.value)
        self.header, self.value = bytearray(), bytearray()

    def _take_data(self, data: bytes, start: int, end: int) -> None:
        self.data.append(data[start:end])

    def _end_part(self) -> None:
        disposition, options = parse_options_header(self.headers.get(b"content-disposition", b""))
        name = options.get(b"name", b"")
        if disposition != b"form-data" or not 0 < len(name) <= MOST_NAME:
            raise refuse_bad("a part of the form has no name, or one that is too long")
        if b"content-transfer-encoding" in self.headers:
            raise refuse_bad("parts of a form must not be encoded (Content-Transfer-Encoding)")
        key, data = name.decode("utf-8", "replace"), b"".join(self.data)
        if b"filename" in options:
            self.form.files.setdefault(key, []).append(data)
        else:
            self.form.fields.setdefault(key, []).append(_read_text(data, key))

    def _end(self) -> None:
        self.ended = True


def _read_text(data: bytes, key: str) -> str:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise refuse_bad(f"field {shorten(key)!r} is not UTF-8; a file needs a filename", key[:64]) from None
    if "\0" in text:
        raise refuse_bad(f"field {shorten(key)!r} has the character NUL", key[:64])
    return text
