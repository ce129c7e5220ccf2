"""Which modules of a model have a weight that can be worked on, and what kind of site each is."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from trimodal.core import Site
from trimodal.core.site import Kind
from trimodal.core.storage import FLOATS
from trimodal.errors import ModelError
from trimodal.layers import ExpertMatrix, OpenedLayer, TransposedConvolution

_KINDS: tuple[tuple[type[nn.Module] | tuple[type[nn.Module], ...], Kind], ...] = (
    (nn.Linear, "linear"),
    ((nn.Conv1d, nn.Conv2d, nn.Conv3d, TransposedConvolution), "conv"),
    ((nn.Embedding, nn.EmbeddingBag), "embedding"),
    (ExpertMatrix, "experts"),
    ((nn.LayerNorm, nn.GroupNorm, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.RMSNorm), "norm"),
)

_PLAIN_FORWARDS = tuple(kind.forward for kind in (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Embedding, ExpertMatrix))


def kind_of(module: nn.Module) -> Kind | None:
    """The kind of site that `module` can be, or None: it has no weight of its own, or one that nobody knows.

    RMS norms come in a class of their own with nearly every model, as routers do, and are told by name.
    """
    weight = module._parameters.get("weight")
    if weight is None or str(weight.dtype).removeprefix("torch.") not in FLOATS:
        return None
    for types, kind in _KINDS:
        if isinstance(module, types):
            return kind
    if weight.dim() == 2 and type(module).__name__.endswith(("Router", "router")):
        return "linear"
    return "norm" if type(module).__name__.endswith("Norm") and weight.dim() == 1 else None


def is_router(module: nn.Module, path: str) -> bool:
    """Whether the layer at `path` chooses between experts: it stands beside them, and gives one number for each."""
    parent, _, name = path.rpartition(".")
    layer, experts = module.get_submodule(path), getattr(module.get_submodule(parent), "experts", None)
    if name == "experts" or not isinstance(experts, nn.Module):
        return False
    weight = layer._parameters.get("weight")
    count = len(experts) if isinstance(experts, nn.ModuleList) else getattr(experts, "num_experts", None)
    return kind_of(layer) == "linear" and weight is not None and len(weight) == count


def find_weighted_modules(module: nn.Module) -> dict[str, Kind]:
    """Path -> kind of every module that can be a site, in the order of registration.

    What stands inside an `nn.MultiheadAttention` that was not opened (`layers/opening.py`) is left out: that module uses its parts'
    weights without calling them, so that nothing can observe or replace them.
    """
    closed = {
        id(inner)
        for part in module.modules() if isinstance(part, nn.MultiheadAttention) and not isinstance(part, OpenedLayer)
        for inner in part.modules()
    }  # fmt: skip
    found = {path: kind_of(part) for path, part in module.named_modules() if id(part) not in closed}
    return {path: kind for path, kind in found.items() if kind is not None}


def make_site(module: nn.Module, path: str, tower: str, block: int | None, role: str, branch: str = "") -> Site:
    """The site at `path` without axes.

    Raises:
        ModelError: the module there has no weight in floating point.
    """
    part = module.get_submodule(path)
    kind = kind_of(part)
    if kind is None:
        raise ModelError(f"{path} is a {type(part).__name__}, expected a layer with a weight in floating point.")
    weight = part._parameters["weight"]
    assert weight is not None  # kind_of says so; for the type checker
    site = Site(
        path,
        tower,
        block,
        role,
        kind,
        tuple(weight.shape),
        str(weight.dtype).removeprefix("torch."),
        part._parameters.get("bias") is not None,
        branch,
        groups=getattr(part, "groups", 1) if kind in ("conv", "experts") else 1,
        own_forward=kind != "norm" and type(part).forward not in _PLAIN_FORWARDS,
        running=kind == "norm" and part._buffers.get("running_mean") is not None,
    )
    return replace(site, stored_bytes=site.dense_bytes)


def has_module(module: nn.Module, path: str) -> bool:
    """Whether something stands at `path`."""
    try:
        module.get_submodule(path)
    except AttributeError:
        return False
    return True


def has_weight(module: nn.Module, path: str) -> bool:
    """Whether a layer that can be a site stands at `path`."""
    return has_module(module, path) and kind_of(module.get_submodule(path)) is not None


def join_path(root: str, path: str) -> str:
    """`path` below `root`, either of which may be empty."""
    return f"{root}.{path}" if root and path else root or path
