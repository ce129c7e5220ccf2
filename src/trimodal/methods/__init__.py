"""All methods, one file each. A new method is its file, one line in `METHODS`, and its test."""

from trimodal.errors import RecipeError, nearest
from trimodal.methods.distill import recover
from trimodal.methods.factorize import eigen
from trimodal.methods.method import Method
from trimodal.methods.prune import magnitude, structured, wanda
from trimodal.methods.quantize import gptq, rtn

METHODS: tuple[Method, ...] = (
    rtn.METHOD,
    gptq.METHOD,
    magnitude.METHOD,
    wanda.METHOD,
    structured.NEURONS,
    structured.HEADS,
    eigen.METHOD,
    recover.METHOD,
)

__all__ = ["METHODS", "Method", "method"]


def method(name: str, where: str = "") -> Method:
    """The method called `name`.

    Raises:
        RecipeError: there is none; the nearest name is suggested. `where` says who asked.
    """
    for known in METHODS:
        if known.name == name:
            return known
    prefix = f"{where}: " if where else ""
    raise RecipeError(f"{prefix}there is no method '{name}'; {nearest(name, [known.name for known in METHODS])}")
