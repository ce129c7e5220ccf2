"""Addresses of files on other machines: which are followed is the operator's to say, by name, and nobody else's.

An allowed place is HOST or HOST:PORT, reached by https, or http://HOST[:PORT]. A name must lead to public addresses alone, so that nobody
who owns a name, or a name server, reaches the inside of a network with it. An address in numbers that the operator allows is followed
wherever it is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import urlsplit

from trimodal.errors import InputError
from trimodal.serving.refusals import refuse_bad

PORTS = {"https": 443, "http": 80}
_MOST_CHARACTERS = 2048
_NAT64, _NAT64_OWN = ip_network("64:ff9b::/96"), ip_network("64:ff9b:1::/48")  # RFC 6052, 8215
_HOST = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
Place = tuple[str, str, int]
"""Scheme, host and port."""


@lru_cache(maxsize=8)
def read_places(hosts: tuple[str, ...]) -> frozenset[Place]:
    """What the operator allows.

    Raises:
        InputError: one of them is no place.
    """
    return frozenset(_read_place(host) for host in hosts)


def _read_place(text: str) -> Place:
    try:
        parts = urlsplit(text if "://" in text else f"https://{text}")
        port = parts.port or PORTS.get(parts.scheme, 0)
    except ValueError:
        parts, port = urlsplit(""), 0
    host = parts.hostname or ""
    is_more = parts.path not in ("", "/") or parts.query or parts.fragment or "@" in parts.netloc
    if not port or is_more or not _is_host(host):
        raise InputError(f"--media-host {text!r} is no place that files can come from; give HOST, HOST:PORT or http://HOST:PORT")
    return parts.scheme, host, port


def _is_host(host: str) -> bool:
    """A name, or an address in its usual digits: 127.1 and 0x7f.0.0.1 are neither."""
    if _is_number(host):
        return True
    last = host.split(".")[-1]
    return len(host) < 254 and bool(_HOST.fullmatch(host)) and not (last.isdigit() or last.startswith("0x"))


def _is_number(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def check_url(url: str, places: frozenset[Place], field: str) -> Place:
    """Where `url` leads, which must be one of `places`.

    Raises:
        RefusedError: 400, it is none, or malformed.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or PORTS.get(parts.scheme, 0)
    except ValueError:
        raise refuse_bad(f"{field} is no address", field) from None
    if (
        len(url) > _MOST_CHARACTERS
        or not url.isascii()
        or not url.isprintable()
        or " " in url
        or "\\" in url
        or "@" in parts.netloc
    ):
        raise refuse_bad(
            f"{field} is no address of at most {_MOST_CHARACTERS:,} plain characters without a user's name", field
        )
    place = parts.scheme, parts.hostname or "", port
    if place not in places:
        raise refuse_bad(
            f"{field}: files are fetched from places that the operator allows, not from here; send it as a data: URI",
            field,
        )
    return place


def may_connect(host: str, found: Sequence[str]) -> bool:
    """Whether a connection to `host` may go to the addresses `found` for it: to itself where it is one, else if all are public."""
    if _is_number(host):
        return all(ip_address(one) == ip_address(host) for one in found)
    return bool(found) and all(_is_public(one) for one in found)


def _is_public(text: str) -> bool:
    address = ip_address(text.partition("%")[0])
    within = [address, *_find_inner(address)]
    return all(one.is_global and not one.is_multicast for one in within) and not (address.version == 6 and address in _NAT64_OWN)


def _find_inner(address: IPv4Address | IPv6Address) -> list[IPv4Address]:
    """The addresses of version 4 that one of version 6 leads to."""
    if isinstance(address, IPv4Address):
        return []
    translated = IPv4Address(int(address) & 0xFFFFFFFF) if address in _NAT64 else None
    return [one for one in (address.ipv4_mapped, address.sixtofour, translated, *(address.teredo or ())) if one is not None]
