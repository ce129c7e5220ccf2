"""Refusals in OpenAI's envelope: its client reads `error.message`, and raises by the HTTP status."""

from __future__ import annotations

from typing import Any

from trimodal.serving.refusals import RefusedError

_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
_CODES = {401: "invalid_api_key", 404: "not_found", 429: "queue_full", 503: "unavailable", 504: "deadline_exceeded"}


def tell_refusal(refused: RefusedError) -> dict[str, Any]:
    """The envelope of `refused`."""
    status = int(refused.status)
    type_ = _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": str(refused), "type": type_, "param": refused.field, "code": _CODES.get(status)}}
