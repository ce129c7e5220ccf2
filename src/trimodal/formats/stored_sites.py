"""What is stored at every site of a model, by the modules that hold it: what the manifest lists, and is held against."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from trimodal.core import Layout, Site
from trimodal.core.storage import BASE
from trimodal.core.stored_site import Kept, StoredSite, describe_input, describe_parts, describe_weight
from trimodal.errors import IntegrityError
from trimodal.layers import CodedWeight, FactorChain, SparseWeight, has_shared_weight
from trimodal.manifest import MANIFEST, Manifest
from trimodal.maths.codebook import find_table_name
from trimodal.maths.packing import unpack_codes

_RUNS = (4, 2, 8, 16)


def describe_stored_sites(module: nn.Module, layout: Layout) -> tuple[StoredSite, ...]:
    """What `module` keeps at each site of its `layout`, in that order."""
    modules = dict(module.named_modules())
    paths = {id(found): path for path, found in modules.items()}
    return tuple(_describe_site(site, modules, paths) for site in layout.sites)


def check_stored_sites(module: nn.Module, manifest: Manifest, folder: Path) -> None:
    """Hold what the manifest in `folder` lists against what `module` keeps. Manifests before format 3 list nothing.

    Raises:
        IntegrityError: it lists other sites, or says something else of one.
    """
    _check_scales(module, folder)
    if manifest.format < 3:
        return
    found = describe_stored_sites(module, manifest.layout)
    if [said.path for said in manifest.stored] != [site.path for site in found]:
        raise IntegrityError(f"{folder / MANIFEST} lists as stored other sites than the model has; do not use it")
    for said, site in zip(manifest.stored, found, strict=True):
        if said != site:
            one, other = asdict(said), asdict(site)
            name = next(name for name in one if one[name] != other[name])
            raise IntegrityError(
                f"{folder / MANIFEST} says of {site.path:.80} {name} {one[name]!r:.120}, but its weights have {other[name]!r:.120}; "
                "do not use it"
            )


def _check_scales(module: nn.Module, folder: Path) -> None:
    """Refuse a grid that calls itself positive and is not."""
    for path, store in module.named_modules():
        if isinstance(store, CodedWeight) and store.options.get("positive") and not bool((store.get_buffer("scale") > 0).all()):
            raise IntegrityError(f"{folder}: {path.removesuffix('.stored'):.80} has scales that are not above 0 on a positive grid")


def _describe_site(site: Site, modules: dict[str, nn.Module], paths: dict[int, str]) -> StoredSite:
    layer, known = modules[site.path], _describe_factor(site.path, modules)
    known.update(tied=site.tied, bytes=site.stored_bytes)
    store = getattr(layer, "stored", None)
    if isinstance(store, CodedWeight):
        return StoredSite(site.path, tuple(store.shape), **known, **_describe_coded(store, paths))
    if isinstance(store, SparseWeight):
        dtype, kept = _dtype_name(store.values), _describe_mask(store.kept_mask)
        return StoredSite(site.path, tuple(store.shape), dtype, store.kind, kept=kept, **known)
    if has_shared_weight(layer):
        return StoredSite(site.path, site.shape, site.dtype, "shared", shared_with=paths[id(layer.lender)], **known)
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, Tensor):
        return StoredSite(site.path, site.shape, site.dtype, site.stored, **known)
    return StoredSite(site.path, tuple(weight.shape), _dtype_name(weight), site.stored, **known)


def _describe_coded(store: CodedWeight, paths: dict[int, str]) -> dict[str, Any]:
    scale, zero = store._buffers.get("input_scale"), store._buffers.get("input_zero")
    ends = (None, None) if scale is None or zero is None else (float(scale), float(zero))
    mask, lender = store._buffers.get("mask"), store.table_of
    columns = store.shape[1:].numel()
    return {
        "dtype": store.options["dtype"], "kind": store.kind,
        "weight": describe_weight(store.kind, store.options, _name_table(store)),
        "input": describe_input(store.options, *ends),
        "kept": None if mask is None else _describe_mask(unpack_codes(mask, 1, columns).bool()),
        "table_from": None if lender is None else paths[id(lender)].removesuffix(".stored"),
        **describe_parts(store.options),
    }  # fmt: skip


def _name_table(store: CodedWeight) -> str:
    """What a codebook's numbers are called: those of a known table, or learned ones."""
    learned = store.kind != "codebook" or store.options["tables"] != "tensor" or not store.options["scaled"]
    return "k-means" if learned else find_table_name(store.table[0]) or "k-means"


def _describe_mask(mask: Tensor) -> Kept:
    """The kept weights of a mask (rows, columns), and the pattern if every run of neighbours keeps equally many."""
    for of in _RUNS:
        if mask.numel() and mask.shape[1] % of == 0:
            counts = mask.view(-1, of).sum(dim=1)
            kept = int(counts[0])
            if 0 < kept < of and bool((counts == kept).all()):
                return Kept(int(mask.sum()), mask.numel(), f"{kept}:{of}")
    return Kept(int(mask.sum()), mask.numel())


def _describe_factor(path: str, modules: dict[str, nn.Module]) -> dict[str, Any]:
    """Ranks of the chain that the layer at `path` is a link of, and that chain's path; empty if it is none."""
    root, _, name = path.rpartition(".")
    chain = modules.get(root)
    if not isinstance(chain, FactorChain):
        return {}
    if name == BASE:
        return {"factor_of": root}
    *links, _ = (link for other, link in chain.named_children() if other != BASE)
    ranks = [_width_of(link) for link in links]
    return {"factor_of": root, "rank": ranks[0] if len(set(ranks)) == 1 else tuple(ranks)}


def _width_of(link: nn.Module) -> int:
    """How many numbers per token or place a link gives."""
    if isinstance(link, FactorChain):
        *_, link = link.children()
    for name in ("embedding_dim", "out_features", "out_channels"):
        if isinstance(found := getattr(link, name, None), int):
            return found
    return int(link.weight.shape[0])  # type: ignore[union-attr, index]


def _dtype_name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
