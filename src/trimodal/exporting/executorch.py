"""ExecuTorch: a .pte file per component for phones, its products computed by XNNPACK from our codes.

    DIR/config.json, tokenizer.json, …     what other loaders need
    DIR/model.pte                          or text_model.pte and vision_model.pte; the method `describe` names inputs and outputs

Weights of 8 bits with a scale per output, or of 4 bits in groups, times inputs that are quantized to 8 bits with a range of each token's
own: these are the products of integers that XNNPACK has from floats to floats. Lowering runs in an environment with executorch
(`make executorch`), as another process.
"""

from __future__ import annotations

from pathlib import Path

from trimodal.exporting.exporter import ExportResult, ExportSource
from trimodal.exporting.mobile_graph.coded_layers import PlacedCodes
from trimodal.exporting.mobile_graph.integer_weights import IntegerWeight
from trimodal.exporting.mobile_graph.job import Job, open_job
from trimodal.exporting.mobile_graph.prepare import (
    NO_PRODUCT,
    ForeignExporter,
    WrittenFiles,
    check_codes,
    check_scales,
    describe_ranges,
    gather_result,
    keep_used,
    prepare_components,
)
from trimodal.runtimes.environment import Environment

ENVIRONMENT = Environment("executorch", ("executorch",))
_HALVED = "scales by group are bfloat16 in the file, as XNNPACK has them: up to 0.4 % from those that are stored"


def write_executorch(source: ExportSource, folder: Path) -> ExportResult:
    """Write every component of `source` into `folder`.

    Raises:
        InputError: no environment has executorch.
        ModelError: a component cannot be traced or lowered.
        IntegrityError: a layer's codes are not in the file.
    """
    components, placed = prepare_components(source, "integer")
    written = WrittenFiles()
    for component in components:
        with open_job(component) as job:
            _write_component(job, placed, written, folder)
    products = {path for path in written.coded if isinstance(placed.coded[path], IntegerWeight)}
    notes = describe_ranges(source.layers, products, "XNNPACK's products of integers do")
    if any(isinstance(made := placed.coded[path], IntegerWeight) and made.group for path in products):
        notes.append(_HALVED)
    outside = ", ".join(f"{count} {kind}" for kind, count in sorted(written.operators.items()) if kind != "delegate")
    return gather_result(written, placed, [*notes, f"outside of XNNPACK: {outside or 'nothing'}"])


def _write_component(job: Job, placed: PlacedCodes, written: WrittenFiles, folder: Path) -> None:
    traced = job.trace()
    used = keep_used(placed, traced, "codes")
    products = [path for path, made in used.items() if isinstance(made, IntegerWeight)]
    described = {
        "inputs": {name: (list(value.shape), str(value.dtype).removeprefix("torch.")) for name, value in job.component.inputs.items()},
        "outputs": list(job.component.outputs),
    }
    found = job.run("lower_executorch.py", ENVIRONMENT, {"describe": described, "layers": products}, {})
    file = folder / f"{job.component.name}.pte"
    file.write_bytes((job.folder / "model.pte").read_bytes())
    held = {path: made for path, made in used.items() if path not in found["lost"]}
    check_codes(file, held, signed=False)
    written.scales += check_scales(file, held)
    written.coded |= used.keys() - set(found["lost"])
    written.decoded |= dict.fromkeys(found["lost"], NO_PRODUCT)
    written.add(job, traced, file.name, found)


EXPORTER = ForeignExporter(
    "executorch", "phones: ExecuTorch with XNNPACK's integer kernels, fixed shapes; in an environment of its own", (), "executorch",
    write_executorch, target="executorch-xnnpack", runtime="executorch", environment=ENVIRONMENT, own_ranges=True,
)  # fmt: skip
