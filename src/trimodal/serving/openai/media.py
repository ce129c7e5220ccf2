"""Files that come within JSON: base64, bare or as `data:` URIs, or addresses of places that the operator allows. No other address is
followed: not the web's, not this machine's."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any

from trimodal.serving.limits import Limits
from trimodal.serving.media.addresses import check_url, read_places
from trimodal.serving.refusals import refuse_bad, refuse_kind
from trimodal.serving.requests import RemoteFile
from trimodal.serving.strict_json import name_kind

_DATA = re.compile(r"data:([a-z]+)/([a-z0-9.+-]{1,64})((?:;[a-z0-9=_.\"-]{1,64}){0,4});base64,", re.IGNORECASE)
_MOST_HEAD = 400


def read_uri(value: Any, modality: str, field: str, limits: Limits) -> bytes | RemoteFile:
    """The file in a `data:` URI whose media type is of `modality`, `image` or `audio`; or the address where it lies, if files may be
    fetched from there.

    Raises:
        RefusedError: 400, another address, or broken; 415, another media type.
    """
    if not isinstance(value, str):
        raise refuse_bad(f"{field} is {name_kind(value)}; expected a data: URI", field)
    if value[:5].lower() != "data:":
        return _read_address(value, field, limits)
    found = _DATA.match(value, 0, _MOST_HEAD)
    if found is None:
        raise refuse_bad(f"{field} is no data: URI of the form data:{modality}/TYPE;base64,DATA", field)
    if found[1].lower() != modality:
        raise refuse_kind(f"{field} has another media type than {modality}/…", field)
    return read_base64(value[found.end() :], field)


def read_file(value: Any, modality: str, field: str, limits: Limits) -> bytes | RemoteFile:
    """The file in a `data:` URI or in bare base64, or its address.

    Raises:
        RefusedError: 400 and 415, as `read_uri`.
    """
    if isinstance(value, str) and ":" not in value[:_MOST_HEAD]:
        return read_base64(value, field)
    return read_uri(value, modality, field, limits)


def read_base64(text: str, field: str) -> bytes:
    """`text` from base64 with the standard alphabet and its padding, and nothing else.

    Raises:
        RefusedError: 400, other characters, wrong padding, or nothing in it.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise refuse_bad(f"{field} is not base64 with the alphabet A-Z a-z 0-9 + / and padding", field) from None
    if not data or len(text) != (len(data) + 2) // 3 * 4:
        raise refuse_bad(f"{field} is empty, or base64 with the wrong padding", field)
    return data


def _read_address(url: str, field: str, limits: Limits) -> RemoteFile:
    if not limits.media_hosts:
        raise refuse_bad(f"{field}: files are not fetched from addresses; send them as data: URIs", field)
    check_url(url, read_places(limits.media_hosts), field)
    return RemoteFile(url, field)
