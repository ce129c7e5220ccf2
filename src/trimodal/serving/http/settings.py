"""How the service is offered over HTTP."""

from __future__ import annotations

from dataclasses import dataclass

from trimodal.serving.limits import MiB


@dataclass(frozen=True)
class Settings:
    """What the operator chose.

    Attributes:
        keys: any of which a client must send as `Authorization: Bearer KEY`; none, and everyone may ask.
        open_health: whether health is told without a key; `open_metrics` whether the metrics are.
        hosts: names by which the service may be called, without ports; none for any. `localhost` and addresses of loopback, where only
            this machine is served, keep foreign web pages from reaching it under a name of their own.
        origins: web pages of other hosts that may ask (`https://example.org`); those of this host always may.
        open_paths: what else is told without a key, as the playground's page, which can carry none; an entry that ends in `/` is
            all below it, but for `/` itself.
        bodies_bytes: of all bodies that are held at once; more are refused with 503.
        chunks: pieces in which a body may come.
        parts: of a form.
    """

    keys: tuple[str, ...] = ()
    open_health: bool = True
    open_metrics: bool = False
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    open_paths: tuple[str, ...] = ("/", "/playground/")
    bodies_bytes: int = 1024 * MiB
    chunks: int = 65_536
    parts: int = 1024
