"""Peers that compress a graph: ONNX Runtime and NNCF (OpenVINO), both from one ONNX file. See `embedding.py`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from embedding import Forward, Job, torch_model

GROUP = 64
_CALIBRATION_BATCH = 8


def exported(job: Job) -> Path:
    """The encoder as ONNX with dynamic batch and length."""
    import onnx
    import torch

    file = job.scratch / "float" / "model.onnx"
    if file.exists():
        return file
    file.parent.mkdir()
    _, ids, mask = next(job.batches(job.calibration, 2))
    batch, tokens = torch.export.Dim("batch", min=1, max=256), torch.export.Dim("tokens", min=2, max=256)
    torch.onnx.export(
        _states(torch_model(job)), (torch.from_numpy(ids), torch.from_numpy(mask)), str(file), dynamo=True,
        input_names=["input_ids", "attention_mask"], output_names=["hidden"],
        dynamic_shapes={"ids": {0: batch, 1: tokens}, "mask": {0: batch, 1: tokens}}, verbose=False,
    )  # fmt: skip
    graph = onnx.load(file)
    del graph.graph.value_info[:]  # the exporter's shapes trip ONNX Runtime's quantizer
    file.with_name("model.onnx.data").unlink(missing_ok=True)  # `graph` holds it now, and is small enough for one file
    onnx.save(graph, file)
    return file


def _states(model: Any) -> Any:
    from torch import nn

    class States(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: Any, mask: Any) -> Any:
            return self.model(input_ids=ids, attention_mask=mask).last_hidden_state

    return States().eval()


def runtime(file: Path) -> tuple[Forward, int]:
    """ONNX Runtime on `file`, and the bytes of the file with its external data."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])

    def forward(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        hidden: np.ndarray = session.run(None, {"input_ids": ids, "attention_mask": mask})[0]
        return hidden

    return forward, sum(part.stat().st_size for part in file.parent.iterdir())


def _folder(job: Job, name: str) -> Path:
    folder = job.scratch / name
    folder.mkdir(exist_ok=True)
    return folder / "model.onnx"


def onnx_float(job: Job) -> tuple[Forward, int]:
    """The export itself, as a check."""
    return runtime(exported(job))


def onnx_dynamic(job: Job) -> tuple[Forward, int]:
    """Weights per channel, embeddings in one uint8 range, inputs' ranges per batch while it runs."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    file = _folder(job, "dynamic")
    quantize_dynamic(exported(job), file, per_channel=True, weight_type=QuantType.QInt8)
    return runtime(file)


def onnx_static(job: Job) -> tuple[Forward, int]:
    """QDQ with min-max ranges of the inputs, uint8, and weights per channel; embeddings too."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left: Iterator[dict[str, np.ndarray]] = iter(
                [{"input_ids": ids, "attention_mask": mask} for _, ids, mask in job.batches(job.calibration[:128], 8)]
            )

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.left, None)

    file = _folder(job, "static")
    quantize_static(
        exported(job), file, Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul", "Gemm", "Gather"],
    )  # fmt: skip
    return runtime(file)


def onnx_int4(job: Job) -> tuple[Forward, int]:
    """MatMulNBits and GatherBlockQuantized in blocks of 64."""
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

    config = DefaultWeightOnlyQuantConfig(
        block_size=GROUP, is_symmetric=True, accuracy_level=0, op_types_to_quantize=("MatMul", "Gather"),
        quant_axes=(("MatMul", 0), ("Gather", 1)),
    )  # fmt: skip
    quantizer = MatMulNBitsQuantizer(onnx.load(exported(job)), algo_config=config)
    quantizer.process()
    file = _folder(job, "int4")
    quantizer.model.save_model_to_file(str(file))
    return runtime(file)


def openvino(job: Job, name: str, change: Any) -> tuple[Forward, int]:
    """OpenVINO in float32 arithmetic, without quantizing inputs on its own, on what `change` made of the model."""
    import openvino as ov

    core = ov.Core()
    model = change(ov.convert_model(exported(job)))
    file = _folder(job, name).with_suffix(".xml")
    ov.save_model(model, file, compress_to_fp16=False)
    run = core.compile_model(
        core.read_model(file), "CPU", {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
    )

    def forward(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        hidden: np.ndarray = run({"input_ids": ids, "attention_mask": mask})[0]
        return hidden

    return forward, sum(part.stat().st_size for part in file.parent.iterdir())


def nncf_dataset(job: Job) -> Any:
    """Calibration texts, as NNCF wants them."""
    import nncf

    batches = list(job.batches(job.calibration[:256], _CALIBRATION_BATCH))
    return nncf.Dataset([{"input_ids": ids, "attention_mask": mask} for _, ids, mask in batches])


def nncf_weights(job: Job, name: str, **options: Any) -> tuple[Forward, int]:
    """NNCF weight compression."""
    import nncf

    return openvino(job, name, lambda model: nncf.compress_weights(model, **options))


def nncf_static(job: Job) -> tuple[Forward, int]:
    """NNCF post-training quantization of weights and inputs, with smoothing and bias correction."""
    import nncf

    def change(model: Any) -> Any:
        return nncf.quantize(
            model, nncf_dataset(job), model_type=nncf.ModelType.TRANSFORMER, preset=nncf.QuantizationPreset.MIXED,
            subset_size=32,
        )  # fmt: skip

    return openvino(job, "nncf_static", change)


def main() -> None:
    """All rows."""
    import nncf

    job = Job.from_arguments()
    job.row("ONNX Runtime float", "onnxruntime", lambda: onnx_float(job))
    job.row("ONNX Runtime int8 w+a dynamic", "onnxruntime", lambda: onnx_dynamic(job))
    job.row("ONNX Runtime int8 w+a static", "onnxruntime", lambda: onnx_static(job))
    job.row("ONNX Runtime int4 b64 + embeddings", "onnxruntime", lambda: onnx_int4(job))
    modes, every = nncf.CompressWeightsMode, {"group_size": GROUP, "ratio": 1.0, "all_layers": True}
    job.row("NNCF int8", "nncf", lambda: nncf_weights(job, "nncf8", mode=modes.INT8_ASYM))
    job.row("NNCF int4 g64", "nncf", lambda: nncf_weights(job, "nncf4", mode=modes.INT4_SYM, **every))
    job.row("NNCF int4 g64, scale estimation", "nncf", lambda: nncf_weights(
        job, "nncf4awq", mode=modes.INT4_SYM, dataset=nncf_dataset(job), awq=True, scale_estimation=True, **every))
    job.row("NNCF int4 g64, GPTQ", "nncf", lambda: nncf_weights(
        job, "nncf4gptq", mode=modes.INT4_SYM, dataset=nncf_dataset(job), gptq=True, **every))
    job.row("NNCF int8 w+a static", "nncf", lambda: nncf_static(job))


if __name__ == "__main__":
    main()
