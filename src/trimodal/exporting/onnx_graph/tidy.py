"""A traced graph tidied up: constants folded, casts and reshapes that do nothing removed, equal nodes made one.

Codes stay codes: what dequantizes or quantizes is never folded. Runtimes tidy again when they load a file; this makes the file small and
readable, and keeps their pattern search from stumbling over what tracing leaves behind. Every step says what it did.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript import optimizer, rewriter

from trimodal.exporting.graph_changes import GraphChange
from trimodal.exporting.onnx_graph.editing import OURS

_FOLDED_BYTES = 1 << 20  # a constant larger than this is not computed beforehand, so that no weight is stored decoded
_ROUNDS = 3  # of computing and rewriting in turn; the second finds what the first made possible, a third hardly ever finds more

COMPUTED = "nodes computed beforehand"
JOINED = "idle nodes removed or joined with their neighbours"
DIVIDED = "products with a reciprocal made divisions, by which norms are known"
STORED = "constants stored as tensors"
MERGED = "equal nodes made one"


def tidy_graph_(model: ir.Model) -> tuple[GraphChange, ...]:
    """Fold, join, deduplicate and remove what the graph can do without: what each step removed, in the order of the steps."""
    tidying = _Tidying(model)
    common.InlinePass()(model)
    for _ in range(_ROUNDS):
        before = count_nodes(model)
        tidying.apply(COMPUTED, _fold_constants)
        tidying.apply(JOINED, rewriter.rewrite)
        if count_nodes(model) == before:
            break
    tidying.apply(DIVIDED, _divide_by_roots)
    tidying.apply(
        STORED, common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.LiftSubgraphInitializersToMainGraphPass(),
    )  # fmt: skip
    tidying.apply(MERGED, common.DeduplicateInitializersPass(), common.CommonSubexpressionEliminationPass())
    for last in (common.RemoveUnusedOpsetsPass(), common.OutputFixPass(), common.NameFixPass()):
        last(model)
    return tidying.list_changes()


class _Tidying:
    """Passes carried out one after another, and what all those of one name removed together."""

    def __init__(self, model: ir.Model) -> None:
        self._model, self._first = model, count_nodes(model)
        self._gone: dict[str, Counter[str]] = {}

    def apply(self, name: str, *passes: Callable[[ir.Model], Any]) -> None:
        """Carry them out, take away what nothing uses afterwards, and count."""
        before = _count_kinds(self._model)
        cleaning: list[Callable[[ir.Model], Any]] = [common.IdentityEliminationPass(), common.RemoveUnusedNodesPass()]
        for one in (*passes, *cleaning):
            one(self._model)
        gone = self._gone.setdefault(name, Counter())
        gone.update(before)
        gone.subtract(_count_kinds(self._model))

    def list_changes(self) -> tuple[GraphChange, ...]:
        """One for each name; a step is written as if all of its name had been carried out at once."""
        changes, nodes = [], self._first
        for name, gone in self._gone.items():
            changes.append(GraphChange(name, nodes, nodes - gone.total(), {kind: n for kind, n in sorted(gone.items()) if n > 0}))
            nodes -= gone.total()
        return tuple(changes)


def count_nodes(model: ir.Model) -> int:
    """The nodes of the graph itself, those of its branches left out."""
    return len(list(model.graph))


def _count_kinds(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)


def _fold_constants(model: ir.Model) -> None:
    optimizer.fold_constants_ir(
        model, onnx_shape_inference=True, input_size_limit=_FOLDED_BYTES, output_size_limit=_FOLDED_BYTES, should_fold=_may_fold
    )


def _divide_by_roots(model: ir.Model) -> None:
    """x · (1 / y) as x / y: ONNX Runtime knows a root mean square norm by its division, and runs it twice as fast."""
    for node in list(model.graph):
        places = [place for place, value in enumerate(node.inputs) if value is not None and _is_reciprocal(value)]
        if node.op_type != "Mul" or len(places) != 1:
            continue
        reciprocal, x = node.inputs[places[0]], node.inputs[1 - places[0]]
        maker = None if reciprocal is None else reciprocal.producer()
        assert maker is not None
        division = ir.node("Div", [x, maker.inputs[0]], name=f"{node.name}_divided")
        division.outputs[0].name = f"{node.outputs[0].name}_divided"
        division.outputs[0].shape, division.outputs[0].type = node.outputs[0].shape, node.outputs[0].type
        model.graph.insert_before(node, division)
        node.outputs[0].replace_all_uses_with(division.outputs[0], replace_graph_outputs=True)


def _is_reciprocal(value: ir.Value) -> bool:
    maker = value.producer()
    return maker is not None and maker.op_type == "Reciprocal" and len(value.uses()) == 1


def _may_fold(node: ir.Node) -> bool | None:
    """Not what decodes weights; the optimizer's own judgement of everything else."""
    return False if (node.name or "").startswith(OURS) else None
