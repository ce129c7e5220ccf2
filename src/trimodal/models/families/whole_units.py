"""Units that a family knows of and that cannot be cut, with the reason: what a user is told who asks for them."""

from __future__ import annotations

from trimodal.core import Layout


def keep_units_whole(layout: Layout, tower: str, unit: str, reason: str) -> Layout:
    """`layout` in which no block of `tower` can lose units of the kind `unit`, such as `heads` or `cross.heads`, for `reason`."""
    for number in range(len(layout.get_tower(tower).blocks)):
        layout = layout.mark_uncuttable(f"{tower}.{number}.{unit}", reason)
    return layout
