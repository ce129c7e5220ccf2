"""An exported program into a .tflite file with our codes in it. Run as: python convert_litert.py JOB

JOB is a folder:    program.pt2    the float program, weights decoded, shapes fixed
                    codes.npz      per layer n: n.codes int8 in the weight's shape, n.scale float32 (rows,) or (rows, groups)
                    job.json       {"inputs": [names], "outputs": [names], "layers": [{"path", "bits", "group", "floats"}],
                                    "apart": [names of the program's tensors]}
it leaves           model.tflite, result.json    {"coded": {path: [tensors]}, "scaled": [paths], "lost": [paths], "operators", "versions"}

The converter knows no codes. So it converts the decoded weights, and afterwards every constant that is a layer's codes times one number
per row is replaced by these codes: a factor that the converter folded into a row only changes its scale. Factors of columns, as a norm
has them, would make other weights of them: such tensors, `apart`, are inputs while it converts, and become constants afterwards.
`floats` says that the layer's input stays float: its weight is dequantized by an operator of its own, else the product is one of
integers, with a range for each token that the runtime takes from the input.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import torch
import torch.ao.quantization.fx._decomposed
from ai_edge_litert import schema_py_generated as schema

Array = np.ndarray[Any, Any]
_PRODUCTS = ("FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV")
_CLOSE = 1e-5  # of the largest weight of a row: what rounding to float32 leaves after a factor was folded in
_SAME = 1e-6


@dataclass(frozen=True)
class Layer:
    """What `job.json` and `codes.npz` say of one layer."""

    path: str
    codes: Array
    scale: Array
    bits: int
    group: int
    floats: bool

    def laid_out(self, rank: int) -> list[Array]:
        """The codes as the file may have them, outputs first, inputs last: (out, in), (out, height, width, in)."""
        codes = self.codes
        if rank == 2:
            return [codes.reshape(len(codes), -1)]
        if codes.ndim == 2:
            return [codes[:, None, None, :]]
        last = np.moveaxis(codes, 1, -1)
        return [last[:, None], last[:, :, None]] if codes.ndim == 3 else [last]


def read_layers(job: Path, said: list[dict[str, Any]]) -> list[Layer]:
    """The layers of a job."""
    with np.load(job / "codes.npz") as arrays:
        return [
            Layer(layer["path"], arrays[f"{n}.codes"], arrays[f"{n}.scale"], layer["bits"], layer["group"], layer["floats"])
            for n, layer in enumerate(said)
        ]  # fmt: skip


class Opened(torch.nn.Module):
    """A program with some of its tensors as further inputs, behind its own."""

    def __init__(self, program: torch.nn.Module, apart: list[str]) -> None:
        super().__init__()
        self.program, self.apart = program, apart
        self.training = False  # a traced program refuses eval()

    def forward(self, *tensors: torch.Tensor) -> Any:
        """The program's inputs, then the tensors apart -> its outputs."""
        inputs = len(tensors) - len(self.apart)
        return torch.func.functional_call(self.program, dict(zip(self.apart, tensors[inputs:])), tensors[:inputs])


def convert(job: Path, inputs: tuple[Any, ...], names: list[str]) -> tuple[bytes, list[Array]]:
    """The float file, which takes the tensors called `names` as further inputs, and their values."""
    import litert_torch

    program = torch.export.load(job / "program.pt2").module()
    known = {**dict(program.named_parameters()), **dict(program.named_buffers())}
    apart = [known[name].detach() for name in names]
    litert_torch.convert(Opened(program, names), (*inputs, *apart)).export(str(job / "float.tflite"))
    return (job / "float.tflite").read_bytes(), [value.numpy() for value in apart]


class FileEditor:
    """A .tflite file of one subgraph, taken apart, with layers' codes written into it."""

    def __init__(self, data: bytes) -> None:
        self.model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
        self.graph = self.model.subgraphs[0]
        self.kinds = {number: name for name, number in vars(schema.BuiltinOperator).items() if isinstance(number, int)}
        self.scaled: list[str] = []

    def kind_of(self, operator: Any) -> str:
        """The operator's name in the schema."""
        code = self.model.operatorCodes[operator.opcodeIndex]
        return str(self.kinds[max(code.builtinCode, code.deprecatedBuiltinCode)])

    def count_operators(self) -> dict[str, int]:
        """How many there are of each kind."""
        return dict(Counter(map(self.kind_of, self.graph.operators)))

    def list_weights(self) -> list[tuple[int, Any]]:
        """The weights of products that are float constants, as (index of the tensor, tensor)."""
        found: dict[int, Any] = {}
        for operator in self.graph.operators:
            if self.kind_of(operator) in _PRODUCTS:
                tensor = self.graph.tensors[operator.inputs[1]]
                if tensor.type == schema.TensorType.FLOAT32 and self.model.buffers[tensor.buffer].data is not None:
                    found[int(operator.inputs[1])] = tensor
        return list(found.items())

    def read_floats(self, tensor: Any) -> Array:
        """A constant in its own shape."""
        return np.frombuffer(self.model.buffers[tensor.buffer].data.tobytes(), np.float32).reshape(tensor.shape)

    def fix_inputs_(self, behind: int, values: list[Array]) -> None:
        """Make constants of the inputs behind the first so many."""
        signature = self.model.signatureDefs[0]
        numbers = {entry.tensorIndex: _read_number(entry.name) for entry in signature.inputs}
        for index in [index for index, number in numbers.items() if number >= behind]:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(values[numbers[index] - behind].tobytes(), np.uint8)
            self.model.buffers.append(buffer)
            self.graph.tensors[index].buffer = len(self.model.buffers) - 1
        signature.inputs = [entry for entry in signature.inputs if numbers[entry.tensorIndex] < behind]
        self.graph.inputs = [int(index) for index in self.graph.inputs if numbers[int(index)] < behind]

    def shorten_names_(self) -> None:
        """Number the tensors: the converter's names tell where in its own work each came from, 500 to 1000 bytes for each."""
        for number, tensor in enumerate(self.graph.tensors):
            tensor.name = b"%d" % number

    def write_codes_(self, index: int, codes: Array, scale: Array, layer: Layer, axis: int) -> None:
        """Make the tensor one of codes; products read it as it is, or dequantized where the layer's input stays float."""
        tensor = self.graph.tensors[index]
        if not np.array_equal(scale, layer.scale):
            self.scaled.append(layer.path)
        tensor.type = schema.TensorType.INT4 if layer.bits == 4 else schema.TensorType.INT8
        tensor.quantization = self._describe_scale(tensor, scale, layer, axis)
        self.model.buffers[tensor.buffer].data = pack(codes, layer.bits)
        if layer.floats:
            self._dequantize_(index)

    def _describe_scale(self, tensor: Any, scale: Array, layer: Layer, axis: int) -> Any:
        made = schema.QuantizationParametersT()
        made.quantizedDimension = axis
        if not layer.group:
            made.scale, made.zeroPoint = scale.astype(np.float32), np.zeros(len(scale), np.int64)
            return made
        blocks = schema.BlockwiseQuantizationT()
        blocks.scales = self._add_constant(tensor.name + b".scale", scale.astype(np.float16), schema.TensorType.FLOAT16)
        blocks.zeroPoints, blocks.blockSize = -1, layer.group
        made.detailsType, made.details = schema.QuantizationDetails.BlockwiseQuantization, blocks
        return made

    def _add_constant(self, name: bytes, values: Array, kind: int) -> int:
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(values.tobytes(), np.uint8)
        self.model.buffers.append(buffer)
        return self._add_tensor(name, list(values.shape), kind, len(self.model.buffers) - 1)

    def _add_tensor(self, name: bytes, shape: list[int], kind: int, buffer: int = 0) -> int:
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.buffer = name, shape, kind, buffer
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def _dequantize_(self, index: int) -> None:
        tensor = self.graph.tensors[index]
        plain = self._add_tensor(tensor.name + b".float", tensor.shape, schema.TensorType.FLOAT32)
        users = [n for n, operator in enumerate(self.graph.operators) if index in list(operator.inputs)]
        for n in users:
            operator = self.graph.operators[n]
            operator.inputs = [plain if k == index else int(k) for k in operator.inputs]
        made = schema.OperatorT()
        made.opcodeIndex, made.inputs, made.outputs = self._code_of("DEQUANTIZE"), [index], [plain]
        self.graph.operators.insert(users[0], made)

    def _code_of(self, kind: str) -> int:
        number = getattr(schema.BuiltinOperator, kind)
        for index, code in enumerate(self.model.operatorCodes):
            if max(code.builtinCode, code.deprecatedBuiltinCode) == number:
                return index
        made = schema.OperatorCodeT()
        made.builtinCode, made.deprecatedBuiltinCode, made.version = number, min(number, 127), 6
        self.model.operatorCodes.append(made)
        return len(self.model.operatorCodes) - 1

    def name_signature_(self, inputs: list[str], outputs: list[str]) -> None:
        """Call what goes in and comes out as the model does: the converter numbers them."""
        signature = self.model.signatureDefs[0]
        for entry in signature.inputs:
            entry.name = inputs[_read_number(entry.name)].encode()
        for entry in signature.outputs:
            entry.name = outputs[_read_number(entry.name)].encode()

    def pack(self) -> bytes:
        """The file."""
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def _read_number(name: bytes) -> int:
    """Which input or output it is: the converter calls them args_0, output_0 and so on."""
    return int(name.decode().rpartition("_")[2])


def pack(codes: Array, bits: int) -> Array:
    """Codes int8 as bytes uint8: two to a byte with 4 bits, the lower half first."""
    flat = codes.reshape(-1).view(np.uint8)
    if bits != 4:
        return flat.copy()
    if len(flat) % 2:
        flat = np.append(flat, np.uint8(0))
    return np.asarray((flat[::2] & 15) | ((flat[1::2] & 15) << 4), np.uint8)


def find_scale(values: Array, codes: Array, layer: Layer) -> Array | None:
    """The scales with which `codes` (rows, …) are `values` of the same shape; None where no scales do that.

    They are the layer's own, or those times a factor for each row that the converter has put into the weight.
    """
    rows = len(codes)
    flat, numbers = values.reshape(rows, -1).astype(np.float64), codes.reshape(rows, -1).astype(np.float64)
    own = layer.scale.reshape(rows, -1).astype(np.float64)
    unit = numbers * np.repeat(own, numbers.shape[1] // own.shape[1], axis=1)
    square = (unit * unit).sum(1)
    factor = np.where(square > 0, (flat * unit).sum(1) / np.where(square > 0, square, 1), 1.0)
    least = np.abs(unit * factor[:, None]).max(1) * _CLOSE
    if bool((np.abs(flat - unit * factor[:, None]).max(1) > least).any()) or bool((factor <= 0).any()):
        return None
    if bool((np.abs(factor - 1) <= _SAME).all()):
        return layer.scale
    return np.asarray((own * factor[:, None]).astype(np.float32).reshape(layer.scale.shape))


def place_codes_(editor: FileEditor, layers: list[Layer]) -> dict[str, list[int]]:
    """Write each layer's codes wherever its weight is a constant of a product; the tensors by layer."""
    found: dict[str, list[int]] = {}
    for index, tensor in editor.list_weights():
        values = editor.read_floats(tensor)
        depthwise = values.ndim == 4 and values.shape[0] == 1
        for layer in layers:
            if layer.codes.size == values.size and _place_one_(editor, index, values, layer, depthwise):
                found.setdefault(layer.path, []).append(index)
                break
    return found


def _place_one_(editor: FileEditor, index: int, values: Array, layer: Layer, depthwise: bool) -> bool:
    forward = np.moveaxis(values[0], -1, 0)[..., None] if depthwise and len(layer.codes) != 1 else values
    for codes in layer.laid_out(forward.ndim):
        scale = find_scale(forward, codes, layer) if codes.shape == forward.shape else None
        if scale is not None:
            written = np.moveaxis(codes[..., 0], 0, -1) if forward is not values else codes
            editor.write_codes_(index, np.ascontiguousarray(written), scale, layer, 3 if forward is not values else 0)
            return True
    return False


def main(job: Path) -> None:
    """Carry out the job."""
    said = json.loads((job / "job.json").read_text(encoding="utf-8"))
    inputs = tuple(torch.load(job / "inputs.pt"))
    data, apart = convert(job, inputs, said["apart"])
    editor = FileEditor(data)
    editor.fix_inputs_(len(inputs), apart)
    layers = read_layers(job, said["layers"])
    found = place_codes_(editor, layers)
    editor.name_signature_(said["inputs"], said["outputs"])
    editor.shorten_names_()
    (job / "model.tflite").write_bytes(editor.pack())
    lost = [layer.path for layer in layers if layer.path not in found]
    versions = {name: version(name) for name in ("litert-torch", "ai-edge-litert", "torch")}
    result = {
        "coded": found, "scaled": sorted(set(editor.scaled)), "lost": lost, "operators": editor.count_operators(), "versions": versions,
    }  # fmt: skip
    (job / "result.json").write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
