"""Keys that clients send: kept as digests, compared in a time that says nothing of how near a wrong one came."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from trimodal.serving.refusals import RefusedError


class Keys:
    """The keys of which a client must send one as `Bearer KEY`; where there are none, everyone may ask."""

    def __init__(self, keys: Sequence[str]) -> None:
        self.digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    def check(self, authorization: str) -> None:
        """Look at what stands in `authorization`, a header of HTTP or metadata of gRPC.

        Raises:
            RefusedError: 401, there is no key, or not one of ours.
        """
        if not self.digests:
            return
        scheme, _, key = authorization.partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise RefusedError(401, "a key is needed: Authorization: Bearer KEY")
        sent = hashlib.sha256(key.strip().encode("utf-8", "replace")).digest()
        if not sum(hmac.compare_digest(sent, known) for known in self.digests):  # all are compared
            raise RefusedError(401, "the key is not known")
