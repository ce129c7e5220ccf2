"""Every way in which trimodal keeps a weight, as ONNX: ONNX Runtime gives what the simulation gives, from a file that is no larger
than the plan said."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

from trimodal.exporting.component import Component
from trimodal.exporting.export import prepare_source
from trimodal.exporting.onnx import build_graph
from trimodal.methods import METHODS
from trimodal.models.tensors import tensor_bytes, unique_tensors
from trimodal.networks.tiny import make_miniature_batch
from trimodal.runtimes.onnxruntime import open_onnxruntime

RTN, PRUNE = "quantize.rtn", {"prune.magnitude": {"sparsity": 0.5}}
FORMS: Mapping[str, list[dict[str, Any]]] = {
    **{f"{bits} bits": [{RTN: {"bits": bits}}] for bits in (2, 3, 4, 5, 6, 7, 8, 16)},
    **{f"4 bits in blocks, {grid}": [{RTN: {"bits": 4, "group": 32, "grid": grid}}] for grid in ("positive", "symmetric", "asymmetric")},
    **{f"4 bits of {grid}": [{RTN: {"bits": 4, "group": 32, "grid": grid}}] for grid in ("nf", "fp", "kmeans")},
    "3 bits of a table per row": [{RTN: {"bits": 3, "grid": "kmeans"}}],
    "3 bits of one table": [{RTN: {"bits": 3, "grid": "kmeans", "group": "tensor"}}],
    "a table of the tower": [{RTN: {"bits": 4, "grid": "kmeans", "group": "tower"}}],
    "a table of the tower, scaled": [{RTN: {"bits": 4, "grid": "kmeans", "table": "tower", "group": 32}}],
    "low rank beside": [{RTN: {"bits": 4, "rank": 4}}],
    "a trained pair beside": [{RTN: {"bits": 2, "rank": 1}}, {"distill.lora": {"steps": 1, "rank": 2, "init": "error", "dora": True}}],
    "outliers": [{RTN: {"bits": 4, "outliers": 0.01}}],
    "low rank and outliers": [{RTN: {"bits": 4, "rank": 4, "outliers": 0.01}}],
    "sparse": [PRUNE],
    "sparse, 4 bits": [PRUNE, {RTN: {"bits": 4}}],
    "sparse, 3 bits of one table": [PRUNE, {RTN: {"bits": 3, "grid": "kmeans", "group": "tensor"}}],
    "two factors of 8 bits": [{"factorize.svd": {}}, {RTN: {"bits": 8}}],
    "hqq": [{"quantize.hqq": {"bits": 3, "group": 32}}],
    "rotated": [{"quantize.rotated": {"bits": 4, "feedback": False}}],
    "awq": [{"quantize.awq": {"bits": 4}}],
    "gptq": [{"quantize.gptq": {"bits": 3, "grid": "asymmetric", "group": 32}}],
    "learned": [{"quantize.learned": {"bits": 4, "steps": 2}}],
    "entropy": [{"quantize.entropy": {}}],
    "smooth": [{"quantize.smooth": {}}],
    "smooth, 6 bits": [{"quantize.smooth": {"bits": 6}}],
    "smooth, trained on": [{"quantize.smooth": {"bits": 4}}, {"train.quantized": {"steps": 1}}],
    **{name: [{name: options}] for name, options in {
        "prune.wanda": {}, "prune.ria": {}, "prune.gradient": {}, "prune.sparsegpt": {}, "prune.obs": {},
        "prune.neurons": {}, "prune.channels": {}, "factorize.svd": {}, "factorize.eigen": {}, "factorize.tucker": {},
        "factorize.cp": {"sweeps": 3}, "distill": {"steps": 1},
    }.items()},
}  # fmt: skip
SLOW = (
    "prune.wanda", "prune.ria", "prune.gradient", "prune.obs", "prune.channels", "prune.neurons", "prune.sparsegpt", "distill",
    "factorize.eigen", "factorize.tucker", "factorize.cp", "learned", "hqq", "smooth, 6 bits", "2 bits", "5 bits", "6 bits", "7 bits",
    "16 bits", "3 bits of a table per row", "4 bits of fp", "4 bits of nf", "4 bits of kmeans", "a table of the tower",
    "a table of the tower, scaled", "low rank beside", "low rank and outliers", "4 bits in blocks, positive", "4 bits in blocks, symmetric",
    "sparse", "gptq",
)  # fmt: skip
MINIATURES = {
    "prune.heads": ("bert", {}), "prune.layers": ("bert", {"sparsity": 0.5, "score": "divergence"}), "prune.width": ("llava", {}),
    "prune.tokens": ("llava", {}),
    "share.layers": ("bert", {"rank": 2}), "merge.tokens": ("vit", {}), "fold.exact": ("vit", {}),
}  # fmt: skip
ROUNDED = ("smooth", "smooth, 6 bits", "smooth, trained on")  # inputs in codes, of which single ones may fall to the other side


class Net(nn.Module):
    """A table, linear layers, a convolution, one in groups, and a head."""

    modalities = ("text",)

    def __init__(self) -> None:
        super().__init__()
        self.text_embedding = nn.Embedding(40, 128)
        self.text_fc1, self.text_fc2 = nn.Linear(128, 192), nn.Linear(192, 128)
        self.text_conv, self.text_depth = nn.Conv1d(128, 96, 3, padding=1), nn.Conv1d(96, 96, 3, groups=48, padding=1)
        self.text_head = nn.Linear(96, 40, bias=False)
        torch.manual_seed(0)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=1 / math.sqrt(max(1, math.prod(parameter.shape[1:]))) if parameter.dim() > 1 else 0.1)

    def example(self) -> dict[str, Tensor]:
        return {"input_ids": torch.zeros(1, 6, dtype=torch.long)}

    def forward(self, input_ids: Tensor) -> Tensor:
        hidden = self.text_embedding(input_ids) * 8
        hidden = hidden + self.text_fc2(torch.relu(self.text_fc1(hidden)))
        hidden = self.text_depth(torch.relu(self.text_conv(hidden.transpose(1, 2)))).transpose(1, 2)
        found: Tensor = self.text_head(hidden)
        return found


class Tied(Net):
    """The head is the table."""

    def __init__(self) -> None:
        super().__init__()
        self.text_depth = nn.Conv1d(96, 128, 1)
        self.text_head = nn.Linear(128, 40, bias=False)
        self.text_head.weight = self.text_embedding.weight


class Reader(nn.Module):
    """Two recurrent layers in both directions, and one of the other kind."""

    modalities = ("text",)

    def __init__(self) -> None:
        super().__init__()
        self.text_embedding = nn.Embedding(40, 24)
        self.text_lstm, self.text_gru = nn.LSTM(24, 16, 2, batch_first=True, bidirectional=True), nn.GRU(32, 24)
        self.text_head = nn.Linear(24, 40)

    def example(self) -> dict[str, Tensor]:
        return {"input_ids": torch.zeros(1, 6, dtype=torch.long)}

    def forward(self, input_ids: Tensor) -> Tensor:
        heard = self.text_lstm(self.text_embedding(input_ids))[0].transpose(0, 1)
        found: Tensor = self.text_head(self.text_gru(heard)[0].transpose(0, 1))
        return found


def _mark_slow(forms: Iterable[str], all_of_them: bool = False) -> list[Any]:
    """Parameters of a test, those that take long left to the slow suite."""
    return [pytest.param(form, marks=[pytest.mark.slow] if all_of_them or form in SLOW else []) for form in forms]


def test_every_method_is_here() -> None:
    covered = {method for steps in FORMS.values() for step in steps for method in step} | MINIATURES.keys()
    assert covered == {method.name for method in METHODS}


@pytest.mark.parametrize("form", _mark_slow(FORMS))
def test_a_stored_form_gives_the_same_outputs_from_no_more_bytes(form: str, compressed: Callable[..., Any], tmp_path: Path) -> None:
    made = compressed(Net(), FORMS[form], given=_draw_ids(4))
    planned = tensor_bytes(unique_tensors(made.model.module).values())
    graph, _ = _check_outputs(made, _draw_ids(3)[0], tmp_path / "net.onnx", 1e-3 if form in ROUNDED else 1e-5)
    written = _count_bytes(graph)
    print(f"{form}: {written} bytes of tensors, {planned} planned")
    assert written <= 1.05 * planned + 2048  # shapes and the like


@pytest.mark.parametrize("method", [pytest.param(m, marks=[pytest.mark.slow] if m != "prune.heads" else []) for m in MINIATURES])
def test_another_structure_comes_out_as_it_is(method: str, compressed: Callable[..., Any], tmp_path: Path) -> None:
    name, options = MINIATURES[method]
    if name == "llava":
        pytest.skip("its parts are files of their own")
    made = compressed(name, [{method: options}])
    _check_outputs(made, make_miniature_batch(name, 5, seed=9), tmp_path / "net.onnx", 1e-5)


@pytest.mark.parametrize("form", ["8 bits", "4 bits", "4 bits in blocks, asymmetric"])
def test_a_table_that_is_the_head_too_is_there_once(form: str, compressed: Callable[..., Any], tmp_path: Path) -> None:
    made = compressed(Tied(), FORMS[form], given=_draw_ids(4))
    planned = tensor_bytes(unique_tensors(made.model.module).values())
    graph, kinds = _check_outputs(made, _draw_ids(3)[0], tmp_path / "net.onnx", 1e-5)
    assert _count_bytes(graph) <= 1.05 * planned + 2048
    assert kinds["MatMulNBits"] == 3 and not kinds["DequantizeLinear"]


@pytest.mark.parametrize("form", ["8 bits", *_mark_slow(["3 bits of a table per row", "sparse, 4 bits"], all_of_them=True)])
def test_recurrent_layers_run_at_any_length(form: str, compressed: Callable[..., Any], tmp_path: Path) -> None:
    made = compressed(Reader(), FORMS[form], given=_draw_ids(4))
    _, kinds = _check_outputs(made, {"input_ids": torch.randint(0, 40, (3, 11))}, tmp_path / "net.onnx", 1e-5)
    assert (kinds["LSTM"], kinds["GRU"]) == (2, 1)


@pytest.mark.parametrize("form", _mark_slow(["3 bits", "5 bits", "sparse, 4 bits", "rotated", "low rank beside", "awq"]))
def test_codes_of_any_number_of_bits_are_multiplied_as_such(form: str, compressed: Callable[..., Any], tmp_path: Path) -> None:
    made = compressed(Net(), FORMS[form], given=_draw_ids(4))
    _, kinds = _check_outputs(made, _draw_ids(3)[0], tmp_path / "net.onnx", 1e-5)
    assert kinds["MatMulNBits"] == 3 and not kinds["DequantizeLinear"]


def _draw_ids(samples: int) -> list[dict[str, Tensor]]:
    random = torch.Generator().manual_seed(1)
    return [{"input_ids": torch.randint(0, 40, (samples, 9), generator=random)} for _ in range(2)]


def _check_outputs(made: Any, batch: Mapping[str, Tensor], file: Path, tolerance: float) -> tuple[ir.Model, Counter[str]]:
    """Export, run, compare; the graph, and the kinds of nodes that ONNX Runtime makes of it."""
    module = made.model.module.eval()
    with torch.no_grad():
        wanted = _as_arrays(module, batch)
        source = prepare_source(made.model)
        (component,) = source.components
        assert isinstance(component, Component)
        graph, _ = build_graph(component, source)
    ir.save(graph, file)
    session = open_onnxruntime(file, 1, exact=True)
    found = session.run({name: value.numpy() for name, value in batch.items()})
    session.close()
    for name, value in found.items():
        scale = max(float(np.abs(wanted[name]).max()), 1e-6)
        assert value.shape == wanted[name].shape and float(np.abs(value - wanted[name]).max()) <= tolerance * scale, name
    return graph, _optimised_kinds(file)


def _count_bytes(graph: ir.Model) -> int:
    return sum(value.const_value.nbytes for value in graph.graph.initializers.values() if value.const_value is not None)


def _as_arrays(module: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Any]:
    found = module(**batch)
    given = {"output": found} if isinstance(found, Tensor) else dict(found)
    return {name: value.numpy() for name, value in given.items() if isinstance(value, Tensor)}


def _optimised_kinds(file: Path) -> Counter[str]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    options.optimized_model_filepath = str(file.with_suffix(".optimised"))
    onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)
