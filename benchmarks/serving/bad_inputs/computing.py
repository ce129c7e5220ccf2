"""Rows 10, 82 and 83: what native code costs others that wait for it, at a service of one worker."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.serving.bad_inputs.cases import Case, Found, Place, Row, post_json
from benchmarks.serving.bad_inputs.files import as_base64, make_png
from benchmarks.serving.bad_inputs.good import ADD, SUM, TENSORS
from benchmarks.serving.bad_inputs.models import ROWS
from benchmarks.serving.bad_inputs.sockets import as_json, connect, make_request, talk
from benchmarks.serving.bad_inputs.transport import drop_clients

LOOK, SPIN = "/v2/models/tensors.look/infer", "/v2/models/tensors.spin/infer"
_SECONDS, _MANY = 1.5, 8


def list_rows() -> list[Row]:
    """The rows."""
    return [
        Row(10, "clients go while they wait, and while they are computed", "their work is dropped", [
            Case("while they wait", attempt=_go_while_waiting), Case("while they are computed", attempt=_go_while_computed),
        ], "a batch that is computed already ends"),
        Row(82, "one bad item in a batch", "that item fails alone", [
            Case("requests in one batch", attempt=_share_batch), Case("items of one request", attempt=_one_of_three),
            Case("a tensor of one request", attempt=_one_of_three_tensors),
        ], "tensors and /v1/embeddings have no place for one item's error: there its request fails, and names it"),
        Row(83, "the time is over while native code runs", "the place stays taken until it ends",
            [Case("a timeout of 0.3 s", attempt=_run_over)]),
    ]  # fmt: skip


def make_spin(steps: int, **parameters: Any) -> bytes:
    """A request that computes for so many steps."""
    sent = {"inputs": [{"name": "steps", "datatype": "INT64", "shape": [1, 1], "data": [steps]}],
        **({"parameters": parameters} if parameters else {})}
    return post_json(SPIN, sent)


def make_look(place: int) -> bytes:
    """A request for one row of the table four times."""
    return post_json(LOOK, {"inputs": [{"name": "place_ids", "datatype": "INT64", "shape": [1, 4], "data": [place] * 4}]})


def measure_steps(port: int) -> int:
    """How many steps take `_SECONDS` here."""
    steps = 100_000
    begun = time.perf_counter()
    assert talk(port, make_spin(steps)).status == 200
    return int(steps * _SECONDS / (time.perf_counter() - begun))


def _ask_add(port: int) -> tuple[bool, float]:
    begun = time.perf_counter()
    told = as_json(talk(port, post_json(ADD, {"inputs": TENSORS})))
    return isinstance(told, dict) and told.get("outputs", [{}])[0].get("data") == SUM, time.perf_counter() - begun


def _count_batches(port: int) -> int:
    told = as_json(talk(port, make_request("/v2/models/tensors.add/stats", method="GET")))
    return int(told["model_stats"][0]["execution_count"])


def _go_while_waiting(place: Place) -> Found:
    steps = measure_steps(place.port)
    before = _count_batches(place.port)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(talk, place.port, make_spin(steps))
        time.sleep(0.2)
        drop_clients(place.port, make_spin(steps), _MANY)
        right, seconds = _ask_add(place.port)
        first.result()
    computed = _count_batches(place.port) - before
    fault = "" if right and computed == 2 and seconds < 3 * _SECONDS else f"{computed} were computed, in {seconds:.1f} s"
    return Found(f"{_MANY} dropped", fault)


def _go_while_computed(place: Place) -> Found:
    steps = measure_steps(place.port)
    before = _count_batches(place.port)
    drop_clients(place.port, make_spin(steps), 1)
    right, seconds = _ask_add(place.port)
    computed = _count_batches(place.port) - before
    return Found("ends",
        "" if right and computed == 2 and seconds < 3 * _SECONDS else f"{computed} computed, {seconds:.1f} s, right: {right}")


def _share_batch(place: Place) -> Found:
    """Eight that wait behind one that computes are taken as one batch; the fourth has a place that the table lacks."""
    steps, before = measure_steps(place.port), _count_batches(place.port)
    with ThreadPoolExecutor(_MANY + 1) as pool:
        first = pool.submit(talk, place.port, make_spin(steps))
        time.sleep(0.3)
        asked = [pool.submit(talk, place.port, make_look(ROWS + 5 if number == 3 else number)) for number in range(_MANY)]
        replies = [one.result() for one in asked]
        first.result()
    batches = _count_batches(place.port) - before - 1
    faults = [f"{number}: {reply.status} {reply.body[:80]!r}" for number, reply in enumerate(replies) if not _is_right(number, reply)]
    if batches != 1:
        faults.append(f"{batches} batches, so that they were not together")
    return Found("400 × 1, 200 × 7", "; ".join(faults[:2]))


def _is_right(number: int, reply: Any) -> bool:
    if number == 3:
        return reply.status == 400 and b"Gather" not in reply.body and b"ONNX" not in reply.body
    told = as_json(reply) if reply.status == 200 else None
    return told is not None and told["outputs"][0]["data"] == [2.0 * number, 2.0 * number + 1] * 4


def _one_of_three(place: Place) -> Found:
    good, other = as_base64(make_png(0)), as_base64(make_png(1))
    items = [{"image": good}, {"image": as_base64(b"\x89PNG\r\n\x1a\njunk")}, {"image": other}]
    told = as_json(talk(place.port, post_json("/embed", {"model": "clip", "items": items})))["answers"]
    alone = [as_json(talk(place.port, post_json("/embed", {"model": "clip", "image": one})))["answers"][0]["embedding"] for one in (good,
        other)]
    apart = max(abs(a - b) for found, right in zip((told[0], told[2]), alone) for a, b in zip(found["embedding"], right))
    fault = "" if apart < 1e-4 and told[1].get("status") == 400 else f"{apart} apart; {str(told[1])[:80]}"
    return Found("200 with an error in its place", fault)


def _one_of_three_tensors(place: Place) -> Found:
    """The request fails as a whole and names the item; one that is asked at the same time is answered."""
    good = as_base64(make_png())
    right = as_json(talk(place.port, post_json("/embed", {"model": "clip", "image": good})))["answers"][0]["embedding"]
    uris = [f"data:image/png;base64,{one}" for one in (good, as_base64(b"\x89PNG\r\n\x1a\njunk"), good)]
    with ThreadPoolExecutor(2) as pool:
        bad = pool.submit(talk, place.port, post_json("/v1/embeddings", {"model": "clip", "modality": "image", "input": uris}))
        beside = pool.submit(talk, place.port, post_json("/embed", {"model": "clip", "image": good}))
        refused, told = bad.result(), as_json(beside.result())
    apart = max(abs(a - b) for a, b in zip(told["answers"][0]["embedding"], right))
    fault = "" if refused.status == 400 and b"input[1]" in refused.body and apart < 1e-4 else f"{refused.body[:100]!r}, {apart}"
    return Found("400 that names it", fault)


def _run_over(place: Place) -> Found:
    steps, before = measure_steps(place.port), _count_batches(place.port)
    late = talk(place.port, make_spin(steps, timeout=300_000))
    right, seconds = _ask_add(place.port)
    if late.status != 504 or late.seconds > 1.0:
        return Found(str(late.status), f"{late.status} after {late.seconds:.1f} s")
    computed = _count_batches(place.port) - before
    fine = right and 0.3 < seconds < 3 * _SECONDS and computed == 2
    fault = "" if fine else f"the next was answered after {seconds:.2f} s, right: {right}, {computed} batches"
    return Found("504, then the next waits", fault)


def hold_line(port: int, request: bytes) -> Any:
    """A connection on which a request was sent, and whose answer nobody has read yet."""
    line = connect(port)
    line.sendall(request)
    return line
