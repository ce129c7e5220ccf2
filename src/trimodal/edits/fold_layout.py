"""What the sites are after a fold. Planning, carrying out and replaying all ask here, so that bytes are known beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from trimodal.core.layout import Layout
from trimodal.core.site import Fold, Site, is_width


def fold_sites(fold: Fold, sites: Sequence[Site]) -> tuple[Site, ...]:
    """The sites that are left of `sites`: the one that goes first, if it is one, and those that take it over."""
    if fold.what == "idle":
        return ()
    if fold.what == "scale" or not sites:
        return tuple(sites)
    gone, *rest = sites
    if fold.what == "twin":
        return (replace(rest[0], tied=(*rest[0].tied, gone.path, *gone.tied)),)
    if fold.what == "linear":
        rest = [replace(rest[0], shape=(rest[0].rows, *gone.shape[1:]), input_axis=gone.input_axis)]
    after = [replace(site, bias=site.bias or gone.bias) for site in rest]
    return tuple(replace(site, stored_bytes=site.dense_bytes) for site in after)


def sites_of_fold(fold: Fold, layout: Layout) -> tuple[Site, ...] | None:
    """The sites that the fold is about, what goes first, as far as it is one; None if one of them is there no longer."""
    known = {site.path: site for site in layout.sites}
    paths = fold.into if fold.what == "scale" else (fold.path, *fold.into)
    if fold.what == "idle" and fold.tensor_bytes:
        return ()
    if fold.what == "twin":
        paths = tuple(name.removesuffix(".weight") for name in paths)
        if not any(path in known for path in paths):
            return ()
    return tuple(known[path] for path in paths) if all(path in known for path in paths) else None


def fold_layout(fold: Fold, layout: Layout) -> Layout:
    """The layout after the fold."""
    sites = sites_of_fold(fold, layout) or ()
    return forbid_stream_cuts(fold, sites, layout.replace_sites(sites, fold_sites(fold, sites)))


def forbid_stream_cuts(fold: Fold, sites: Sequence[Site], layout: Layout) -> Layout:
    """The `layout` that is left after a fold of one with `sites`: the streams along which something is gone or stored
    elsewhere can no longer be cut, since nobody knows of it."""
    known = {site.path for site in layout.sites}
    gone = [site for site in sites if site.path not in known]
    labels = {axis.label for site in gone for axis in (site.input_axis, site.output_axis) if axis and is_width(axis.label)}
    labels |= {bare.label for bare in layout.free_parameters if bare.path in (fold.path, *fold.into)}
    for label in sorted(labels & set(layout.list_labels())):
        layout = layout.mark_uncuttable(label, "a layer along it was folded into others; prune.width before that")
    return layout
