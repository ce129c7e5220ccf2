"""The layout of a model that stands inside of another one, as part of that one's layout: other paths, another name for its tower."""

from __future__ import annotations

from dataclasses import replace

from trimodal.core import Axis, FreeParameter, Layout, Site, SizeAttribute, Tower, Uncuttable
from trimodal.models.weighted import join_path


def reroot_layout(layout: Layout, root: str, name: str, modality: str) -> Layout:
    """`layout` of a model with one tower, which now stands at the path `root` and is the tower `name` of `modality`: paths, and labels of
    axes, are renamed."""
    old = layout.towers[0].name

    def label(given: str) -> str:
        return f"{name}{given.removeprefix(old)}" if given.startswith(f"{old}.") else given

    def axis(given: Axis | None) -> Axis | None:
        if given is None:
            return None
        return replace(given, label=label(given.label), then=tuple(replace(part, label=label(part.label)) for part in given.then))

    def site(given: Site) -> Site:
        return replace(
            given, path=join_path(root, given.path), tower=name, input_axis=axis(given.input_axis), output_axis=axis(given.output_axis),
            tied=tuple(join_path(root, path) for path in given.tied),
        )  # fmt: skip

    def tower(given: Tower) -> Tower:
        blocks = tuple(join_path(root, path) for path in given.blocks)
        return replace(given, name=name, modality=modality, blocks=blocks, prefixes=(root,))

    return Layout(
        tuple(map(tower, layout.towers)),
        tuple(map(site, layout.sites)),
        tuple(SizeAttribute(label(s.label), join_path(root, s.path), s.attribute, s.per_unit) for s in layout.size_attributes),
        tuple(Uncuttable(label(one.label), one.reason) for one in layout.uncuttable),
        free_parameters=tuple(
            FreeParameter(label(bare.label), join_path(root, bare.path), bare.unit_bytes, bare.width, bare.repeats)
            for bare in layout.free_parameters
        ),
    )
