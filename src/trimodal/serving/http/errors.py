"""Refusals as answers of HTTP, in the words of the dialect that was spoken.

    /v1/…    OpenAI's     {"error": {"message", "type", "param", "code"}}
    else     {"error": "message"}, as the Open Inference Protocol says
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping

from starlette.responses import JSONResponse

from trimodal.serving.openai.errors import tell_refusal
from trimodal.serving.refusals import RefusedError

logger = logging.getLogger("trimodal.serving")

FAULT = RefusedError(500, "the server made a fault; it is written in its log")
"""What a client is told of a fault of ours: nothing."""


class ClientGoneError(Exception):
    """The client closed the connection; nobody waits for an answer."""


def answer_refusal(refused: RefusedError, path: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The answer to a request at `path` that is refused."""
    told = dict(headers or {})
    if refused.status in (429, 503):
        told["Retry-After"] = str(max(1, math.ceil(refused.retry_after or 1)))
    if refused.status == 401:
        told["WWW-Authenticate"] = "Bearer"
    body = tell_refusal(refused) if path.startswith("/v1/") else {"error": str(refused)}
    return JSONResponse(body, int(refused.status), told)


def answer_fault(error: Exception, path: str) -> JSONResponse:
    """The answer where we made a fault: it is logged, and not told."""
    logger.error("fault while answering a request", exc_info=error)
    return answer_refusal(FAULT, path)
