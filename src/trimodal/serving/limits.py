"""How much a client may ask for. Every limit has a number, so that none is met by memory that runs out."""

from __future__ import annotations

from dataclasses import dataclass

MiB = 2**20


@dataclass(frozen=True)
class Limits:
    """The limits of one service.

    Attributes:
        body_bytes: of a request, and of what a compressed body becomes.
        header_bytes: of all headers of a request.
        body_seconds: from the headers to the last byte of the body; `header_seconds` to the end of the headers.
        json_depth: how deep arrays and objects may lie in each other.
        items: samples of one request.
        image_pixels: of one image, as its header says, before it is decoded.
        request_pixels: of all images of a request together.
        media_hosts: places that files are fetched from where a request gives an address; none for never.
        fetch_bytes: of a file that is fetched; `fetch_seconds` from the first name that is looked up to the last byte.
        audio_seconds: of one sound, as its header says; `audio_channels` of it.
        text_characters: of one text.
        decode_bytes: memory of the process that decodes; `decode_seconds` that one file may take there.
        batch: samples that are computed at once.
        queue: samples that may wait, over all requests; more are refused with 429.
        wait_seconds: of work that may wait when more comes than can be done, and has for `burst_seconds`; more is refused with 429.
        compute_seconds: that one call into a runtime may take; then its process is killed and replaced. 0 for as long as it wants.
        request_seconds: the longest that a request waits for its answer where it does not say less.
        new_tokens: the most that a text may be continued by; `usual_tokens` where nothing is asked.
        connections: open at the same time per process.
        drain_seconds: that requests under way have when the service is told to end.
    """

    body_bytes: int = 64 * MiB
    header_bytes: int = 32 * 1024
    header_seconds: float = 10.0
    body_seconds: float = 30.0
    json_depth: int = 32
    items: int = 256
    image_pixels: int = 50_000_000
    request_pixels: int = 200_000_000
    audio_seconds: float = 600.0
    audio_channels: int = 8
    text_characters: int = 100_000
    media_hosts: tuple[str, ...] = ()
    fetch_bytes: int = 20 * MiB
    fetch_seconds: float = 10.0
    decode_bytes: int = 2048 * MiB
    decode_seconds: float = 10.0
    batch: int = 16
    queue: int = 256
    wait_seconds: float = 0.03
    burst_seconds: float = 0.5
    compute_seconds: float = 120.0
    request_seconds: float = 60.0
    new_tokens: int = 1024
    usual_tokens: int = 256
    connections: int = 1024
    drain_seconds: float = 30.0
