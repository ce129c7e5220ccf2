"""The whole layout of a module: what its family declares, and for a family that declares no axes what a forward pass shows."""

from __future__ import annotations

from dataclasses import replace

from torch import nn
from transformers import PreTrainedModel

from trimodal.core import Layout, Uncuttable
from trimodal.errors import ModelError
from trimodal.graph.dependency_graph import find_dependencies
from trimodal.models.declare import record_outside_names
from trimodal.models.families import family_of

MOST_ENTRIES = 60_000
"""Rows and columns of all weights of a Transformers model that is watched whenever it is loaded: some seconds."""
MOST_LABELS = 32
"""Labels of such a model that are tried one by one."""


def find_layout(module: nn.Module) -> Layout:
    """Towers, sites and axis labels of `module`.

    A module of a family that declares no axes is run once on tensors without values, if its family has an example of one
    sample; where that fails, or would take minutes, `uncuttable` says why nothing of it can be cut.
    """
    family = family_of(module)
    layout = family.describe(module)
    if family.declares_axes:
        return layout
    ready_made = isinstance(module, PreTrainedModel)
    entries = sum(site.shape[0] + site.shape[-1] for site in layout.sites)
    if ready_made and entries > MOST_ENTRIES:
        reason = (
            f"nobody has declared what of it is cut together, and its {entries:,} rows and columns are too many to find out by watching it "
            f"run ({MOST_ENTRIES:,} at most)"
        )
        return replace(layout, uncuttable=(Uncuttable("", reason),))
    try:
        inputs = family.example(module)
    except ModelError as error:
        return replace(layout, uncuttable=(Uncuttable("", str(error)),))
    return find_dependencies(module, layout, inputs, MOST_LABELS if ready_made else None)


def describe_layout(module: nn.Module) -> Layout:
    """`find_layout`, in which every site also knows where its weight stands outside of all sites."""
    return record_outside_names(module, find_layout(module))
