"""Which numbers of a model a recovery trains: all that are plain ones, or only the few of norms, biases and scales."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Literal

from torch import nn

from trimodal.core import Layout
from trimodal.errors import RecipeError
from trimodal.layers import CodedWeight, train_scales

TrainedPart = Literal["all", "norms", "biases", "scales", "small"]
TRAINED_PARTS: tuple[TrainedPart, ...] = ("all", "norms", "biases", "scales", "small")
TRAIN_HELP = (
    "what is trained: all plain numbers and the levels of codebooks; norms or biases alone; scales of coded weights and levels; or "
    "these small parts together"
)


@contextmanager
def free_parameters(module: nn.Module, layout: Layout, train: TrainedPart, who: str) -> Iterator[int]:
    """While open, the parameters that `train` names are trained and no others; afterwards scales and levels are what is stored
    again. Gives how many numbers are trained.

    Raises:
        RecipeError: there are none, said in the name of the method `who`.
    """
    before = {parameter: parameter.requires_grad for parameter in module.parameters()}
    with ExitStack() as opened:
        coded = {id(p) for p in opened.enter_context(unfreeze_codebook_levels(module))} if train in ("all", "scales", "small") else set()
        if train in ("scales", "small"):
            coded |= {id(p) for p in opened.enter_context(train_scales(module))}
        opened.callback(_put_back, before)
        wanted = coded | _find_small_parameters(module, layout, train)
        for parameter in module.parameters():
            meant = train == "all" or id(parameter) in wanted
            parameter.requires_grad_(meant and parameter.is_floating_point() and before.get(parameter, True))
        count = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
        if not count:
            raise RecipeError(f"{who}: {_explain_nothing(train)}")
        yield count


def _explain_nothing(train: TrainedPart) -> str:
    if train == "all":
        return "no weight of the model is left to train; put it before the steps that quantize"
    return f"the model has no {'norms, biases or scales' if train == 'small' else train} that could be trained; use train: all"


def _put_back(before: dict[nn.Parameter, bool]) -> None:
    for parameter, trained in before.items():
        parameter.requires_grad_(trained)


def _find_small_parameters(module: nn.Module, layout: Layout, train: TrainedPart) -> set[int]:
    """The parameters of norms, or the biases of all other layers, or both; by identity."""
    norms = {site.path for site in layout.sites if site.kind == "norm"}
    found: set[int] = set()
    for path, part in module.named_modules():
        is_norm = path in norms or "norm" in type(part).__name__.lower()
        for name, parameter in part.named_parameters(recurse=False):
            if train in ("norms", "small") and is_norm and parameter.dim() <= 1:
                found.add(id(parameter))
            if train in ("biases", "small") and not is_norm and "bias" in name and parameter.dim() <= 1:
                found.add(id(parameter))
    return found


@contextmanager
def unfreeze_codebook_levels(module: nn.Module) -> Iterator[list[nn.Parameter]]:
    """While open, the learned levels of codebooks are parameters; afterwards they are what is stored again."""
    books = [part for part in module.modules() if isinstance(part, CodedWeight) and part.has_own_levels]
    for book in books:
        book.unfreeze_levels_()
    try:
        yield [book.get_parameter("levels") for book in books]
    finally:
        for book in books:
            book.freeze_levels_()
