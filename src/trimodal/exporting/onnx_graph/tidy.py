"""A traced graph tidied up: constants folded, casts and reshapes that do nothing removed, equal nodes made one.

Codes stay codes: what dequantizes or quantizes is never folded. Runtimes tidy again when they load a file; this makes the file small and
readable, and keeps their pattern search from stumbling over what tracing leaves behind.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript import optimizer

from trimodal.exporting.onnx_graph.editing import OURS

_FOLDED_BYTES = 1 << 20  # a constant larger than this is not computed beforehand, so that no weight is stored decoded


@dataclass(frozen=True)
class NodeCounts:
    """How many nodes a graph had `before` and `after`."""

    before: int
    after: int


def tidy_graph_(model: ir.Model) -> NodeCounts:
    """Fold, deduplicate and remove what the graph can do without."""
    before = count_nodes(model)
    optimizer.optimize_ir(model, input_size_limit=_FOLDED_BYTES, output_size_limit=_FOLDED_BYTES, should_fold=_may_fold)
    common.CommonSubexpressionEliminationPass()(model)
    common.DeduplicateInitializersPass()(model)
    common.RemoveUnusedNodesPass()(model)
    return NodeCounts(before, count_nodes(model))


def count_nodes(model: ir.Model) -> int:
    """The nodes of the graph itself, those of its branches left out."""
    return len(list(model.graph))


def _may_fold(node: ir.Node) -> bool | None:
    """Not what decodes weights; the optimizer's own judgement of everything else."""
    return False if (node.name or "").startswith(OURS) else None
