"""LiteRT, which was TensorFlow Lite: a .tflite file per component for phones, with our codes as its integer weights.

    DIR/config.json, tokenizer.json, …     what other loaders need
    DIR/model.tflite                       or text_model.tflite and vision_model.tflite; the signature has the model's own names

The converter gets the decoded weights; afterwards every constant that is a layer's codes times a scale is replaced by these codes
(`programs/convert_litert.py`). A layer whose input is quantized becomes a product of integers with a range of each token's own, which is
what LiteRT has from floats to floats; one whose input is float gets its weight from a DEQUANTIZE. Conversion runs in an environment with
litert-torch (`make litert`), as another process.
"""

from __future__ import annotations

from pathlib import Path

from torch import nn

from trimodal.exporting.exporter import ExportResult, ExportSource
from trimodal.exporting.layer_codes import LayerCodes
from trimodal.exporting.mobile_graph.coded_layers import PlacedCodes
from trimodal.exporting.mobile_graph.integer_weights import IntegerTable, IntegerWeight
from trimodal.exporting.mobile_graph.job import Job, open_job
from trimodal.exporting.mobile_graph.prepare import (
    ForeignExporter,
    WrittenFiles,
    check_codes,
    check_scales,
    describe_ranges,
    find_lost_codes,
    gather_result,
    keep_used,
    name_arrays,
    prepare_components,
)
from trimodal.runtimes.environment import Environment

ENVIRONMENT = Environment("litert", ("litert_torch", "ai_edge_litert"))
_BEHIND_PRODUCTS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.BatchNorm1d, nn.BatchNorm2d)
_LOOKED_UP = "its indices are constants: the converter looked its rows up, and the file has those"
_SCALED = "the scales of {} layers, first {}, are the stored ones times a factor of each row that stands behind, as a batch norm's"
_MELTED = "the converter merged its weight with something else: it is no longer a layer's codes times one number for each row"


def write_litert(source: ExportSource, folder: Path) -> ExportResult:
    """Write every component of `source` into `folder`.
    Inputs are quantized of the layers whose input the artifact has quantized.

    Raises:
        InputError: no environment has litert-torch.
        ModelError: a component cannot be traced or converted.
        IntegrityError: a layer's codes are not in the file.
    """
    components, placed = prepare_components(source, "float")
    floats = {path for path in placed.coded if _stays_float(source.layers.get(path))}
    written = WrittenFiles()
    for component in components:
        with open_job(component) as job:
            _write_component(job, placed, floats, written, folder)
    products = {path for path in written.coded if isinstance(placed.coded[path], IntegerWeight)} - floats
    notes = describe_ranges(source.layers, products, "LiteRT's products of integers do")
    if written.scaled:
        notes.append(_SCALED.format(len(written.scaled), written.scaled[0]))
    if any(isinstance(made := placed.coded[path], IntegerWeight) and made.group for path in products):
        notes.append("scales by group are float16 in the file, up to 0.05 % from those that are stored")
    return gather_result(written, placed, notes)


def find_input_factors(module: nn.Module) -> set[str]:
    """The names of what a converter may compute with beforehand, so that codes are no longer there: what norms multiply by and add, and a
    coded layer's factors, which it puts into the weights behind; coded tables, of which it looks up rows where indices are constants.
    Batch norms stand behind products: their factors go into scales."""
    found = set()
    for path, layer in module.named_modules():
        if isinstance(layer, _BEHIND_PRODUCTS):
            names = ["columns"] if getattr(layer, "columns", None) is not None else []
        elif hasattr(layer, "table"):
            names = [name for name, value in layer.named_buffers(recurse=False) if value is not None]
        else:
            names = [name for name, value in layer.named_parameters(recurse=False) if value.dim() == 1]
        found |= {f"{path}.{name}" for name in names}
    return found


def _stays_float(codes: LayerCodes | None) -> bool:
    return codes is None or codes.input is None


def _write_component(job: Job, placed: PlacedCodes, floats: set[str], written: WrittenFiles, folder: Path) -> None:
    traced = job.trace()
    used = keep_used(placed, traced, "decoded")
    products = {path: made for path, made in used.items() if isinstance(made, IntegerWeight)}
    said = {
        "inputs": list(job.component.inputs), "outputs": list(job.component.outputs),
        "layers": [
            {"path": path, "bits": made.bits, "group": made.group, "floats": path in floats} for path, made in products.items()
        ],
        "apart": sorted(f"model.{name}" for name in find_input_factors(job.component.module) & traced.tensors),
    }  # fmt: skip
    found = job.run("convert_litert.py", ENVIRONMENT, said, name_arrays(products.values()))
    file = folder / f"{job.component.name}.tflite"
    file.write_bytes((job.folder / "model.tflite").read_bytes())
    tables = {path: made for path, made in used.items() if isinstance(made, IntegerTable)}
    held = {path: products[path] for path in found["coded"]}
    check_codes(file, held, signed=True)
    looked_up = find_lost_codes(file, tables, signed=True)
    rows = {path: made for path, made in tables.items() if path not in looked_up}
    written.scales += check_scales(file, {**held, **rows}, found["scaled"])
    written.scaled += found["scaled"]
    written.coded |= rows.keys() | found["coded"].keys()
    written.decoded |= dict.fromkeys(found["lost"], _MELTED) | dict.fromkeys(looked_up, _LOOKED_UP)
    written.add(job, traced, file.name, found)


EXPORTER = ForeignExporter(
    "litert", "phones: LiteRT (TensorFlow Lite), fixed shapes; in an environment of its own", (), "litert",
    write_litert, target="litert", runtime="litert", environment=ENVIRONMENT, own_ranges=True,
)  # fmt: skip
