"""A model repository for Triton of the same ONNX files: one model per component, each with what it takes and gives.

Triton computes tensors: what turns a picture into them, and its answers into words, stays with the client.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import TensorProto

from trimodal.errors import InputError
from trimodal.packaging.bundle import Bundle
from trimodal.packaging.writing import write_files
from trimodal.runtimes.exported_folder import ExportedFolder, is_exported, read_exported

TYPES: dict[int, str] = {
    TensorProto.FLOAT: "TYPE_FP32", TensorProto.FLOAT16: "TYPE_FP16", TensorProto.BFLOAT16: "TYPE_BF16", TensorProto.DOUBLE: "TYPE_FP64",
    TensorProto.INT8: "TYPE_INT8", TensorProto.INT16: "TYPE_INT16", TensorProto.INT32: "TYPE_INT32", TensorProto.INT64: "TYPE_INT64",
    TensorProto.UINT8: "TYPE_UINT8", TensorProto.UINT16: "TYPE_UINT16", TensorProto.UINT32: "TYPE_UINT32",
    TensorProto.UINT64: "TYPE_UINT64", TensorProto.BOOL: "TYPE_BOOL", TensorProto.STRING: "TYPE_STRING",
}  # fmt: skip
_BATCH = "batch_size"
_DELAY_MICROSECONDS = 2000
_VERSION = "1"


@dataclass(frozen=True)
class Tensor:
    """An input or output: its name, Triton's name of its type, and its shape with a word for a length that may vary."""

    name: str
    type: str
    shape: tuple[int | str, ...]


def write_triton(bundle: Bundle, out: Path) -> list[str]:
    """`models/NAME/config.pbtxt` and `models/NAME/1/…` per component; paths below `out`.

    Raises:
        InputError: the folder holds no ONNX files.
    """
    exported, written = find_onnx(bundle.folder), list[str]()
    for component in exported.components:
        name = bundle.name if len(exported.components) == 1 else f"{bundle.name}-{component.replace('_', '-')}"
        place = out / "models" / name / _VERSION
        place.mkdir(parents=True)
        file = exported.path_of(component)
        for part in [file, *find_weights(file)]:
            shutil.copyfile(part, place / part.name)
            written.append(f"models/{name}/{_VERSION}/{part.name}")
        text = write_config(name, file.name, *read_tensors(file), bundle)
        written += write_files(out, {f"models/{name}/config.pbtxt": text})
    return written


def find_onnx(folder: Path) -> ExportedFolder:
    """The exported folder of ONNX files: this one, or the one inside of an artifact; checked.

    Raises:
        InputError: there is none.
    """
    for place in (folder, folder / "onnx"):
        if is_exported(place):
            found = read_exported(place)
            if found.to == "onnx":
                return found
    raise InputError(f"{folder} holds no ONNX files, which Triton needs; write them first: trimodal export {folder} --to onnx")


def find_weights(file: Path) -> list[Path]:
    """The files beside a graph that hold its larger weights: those that it names."""
    graph = onnx.load(str(file), load_external_data=False).graph
    named = {entry.value for tensor in graph.initializer for entry in tensor.external_data if entry.key == "location"}
    return [file.parent / Path(name).name for name in sorted(named)]


def read_tensors(file: Path) -> tuple[list[Tensor], list[Tensor]]:
    """The inputs and outputs of a graph."""
    graph = onnx.load(str(file), load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer}
    return [_read(one) for one in graph.input if one.name not in weights], [_read(one) for one in graph.output]


def _read(value: onnx.ValueInfoProto) -> Tensor:
    kind = value.type.tensor_type
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "any" for dim in kind.shape.dim)
    return Tensor(value.name, TYPES[kind.elem_type], shape)


def write_config(name: str, file: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor], bundle: Bundle) -> str:
    """config.pbtxt. Where every tensor begins with the batch, Triton puts requests together; elsewhere shapes are given whole."""
    batched = all(tensor.shape and tensor.shape[0] == _BATCH for tensor in (*inputs, *outputs))
    limits = bundle.limits
    lines = [
        f"name: {_quote(name)}",
        'backend: "onnxruntime"',
        f"default_model_filename: {_quote(file)}",
        f"max_batch_size: {limits.batch if batched else 0}",
        *_write_tensors("input", inputs, batched),
        *_write_tensors("output", outputs, batched),
        f"instance_group [ {{ count: {bundle.workers} kind: KIND_CPU }} ]",
        f'parameters {{ key: "intra_op_thread_count" value: {{ string_value: "{bundle.threads}" }} }}',
    ]
    if batched:
        policy = f"max_queue_size: {limits.queue} timeout_action: REJECT allow_timeout_override: true "
        policy += f"default_timeout_microseconds: {round(limits.request_seconds * 1e6)}"
        lines.append(f"dynamic_batching {{ max_queue_delay_microseconds: {_DELAY_MICROSECONDS} default_queue_policy {{ {policy} }} }}")
    return "\n".join(lines) + "\n"


def _write_tensors(kind: str, tensors: Sequence[Tensor], batched: bool) -> list[str]:
    lines = []
    for tensor in tensors:
        shape = tensor.shape[1:] if batched else tensor.shape
        dims = ", ".join(str(length if isinstance(length, int) else -1) for length in shape)
        given = f"dims: [ {dims} ]" if shape else "dims: [ 1 ] reshape: { shape: [ ] }"
        lines.append(f"{kind} {{ name: {_quote(tensor.name)} data_type: {tensor.type} {given} }}")
    return lines


def _quote(text: str) -> str:
    return json.dumps(text)  # protobuf's text format quotes as JSON does
