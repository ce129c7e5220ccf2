"""All methods, one file each. A new method is its file, one line in `METHODS`, and its test."""

from __future__ import annotations

from trimodal.errors import RecipeError, suggest_names
from trimodal.installed import METHODS as ADDED
from trimodal.installed import list_added
from trimodal.methods.distill import lora, recover
from trimodal.methods.factorize import cp, eigen, svd, tucker
from trimodal.methods.fold import exact
from trimodal.methods.merge import tokens
from trimodal.methods.method import Method, works_on
from trimodal.methods.prune import gradient, layers, magnitude, obs, ria, sparsegpt, structured, wanda, width
from trimodal.methods.prune import tokens as unread_tokens
from trimodal.methods.quantize import awq, entropy, gptq, hqq, learned, rotated, rtn, smooth
from trimodal.methods.share import layers as shared_layers
from trimodal.methods.train import quantized

METHODS: tuple[Method, ...] = (
    rtn.METHOD,
    gptq.METHOD,
    awq.METHOD,
    rotated.METHOD,
    hqq.METHOD,
    learned.METHOD,
    smooth.METHOD,
    entropy.METHOD,
    magnitude.METHOD,
    wanda.METHOD,
    ria.METHOD,
    gradient.METHOD,
    sparsegpt.METHOD,
    obs.METHOD,
    structured.NEURONS,
    structured.HEADS,
    structured.CHANNELS,
    layers.METHOD,
    width.METHOD,
    unread_tokens.METHOD,
    eigen.METHOD,
    svd.METHOD,
    tucker.METHOD,
    cp.METHOD,
    shared_layers.METHOD,
    tokens.METHOD,
    exact.METHOD,
    recover.METHOD, lora.METHOD, quantized.METHOD,
)

__all__ = ["METHODS", "Method", "get_method", "list_known_methods", "recovery_method", "select_methods", "works_on"]


def list_known_methods() -> tuple[Method, ...]:
    """Ours, and what packages and the program added; a name is ours first.

    Raises:
        InputError: a package declares as a method what is none.
    """
    ours = {known.name for known in METHODS}
    return (*METHODS, *(added for added in list_added(ADDED, Method) if added.name not in ours))


def get_method(name: str, where: str = "") -> Method:
    """The method called `name`.

    Raises:
        RecipeError: there is none; the nearest name is suggested. `where` says who asked.
    """
    for known in list_known_methods():
        if known.name == name:
            return known
    prefix = f"{where}: " if where else ""
    raise RecipeError(f"{prefix}there is no method '{name}'; {suggest_names(name, [known.name for known in list_known_methods()])}")


def select_methods(name: str | None = None) -> tuple[Method, ...]:
    """All methods, or the one called `name`.

    Raises:
        RecipeError: there is no such method; the nearest name is suggested.
    """
    return list_known_methods() if name is None else (get_method(name),)


def recovery_method() -> Method:
    """The method that mends what the steps before it did: what follows each step of a gradual schedule."""
    return recover.METHOD
