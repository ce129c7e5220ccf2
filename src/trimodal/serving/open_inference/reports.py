"""What the protocol tells without a request: metadata, configuration, statistics and index, in the words of JSON."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from trimodal.serving.open_inference.directory import Entry, Tensor, list_entries
from trimodal.serving.service import Service

SERVER = "trimodal"
EXTENSIONS = ("binary_tensor_data", "model_configuration", "model_repository", "statistics", "parameters")


def tell_version() -> str:
    """The version of this package."""
    try:
        return version(SERVER)
    except PackageNotFoundError:
        return "0"


def tell_server() -> dict[str, Any]:
    """The server's metadata."""
    return {"name": SERVER, "version": tell_version(), "extensions": list(EXTENSIONS)}


def tell_metadata(entry: Entry) -> dict[str, Any]:
    """The metadata of one name."""
    return {
        "name": entry.name, "versions": [entry.card.version], "platform": _tell_platform(entry),
        "inputs": [_tell_tensor(tensor) for tensor in entry.inputs], "outputs": [_tell_tensor(tensor) for tensor in entry.outputs],
    }  # fmt: skip


def tell_config(entry: Entry, batch: int) -> dict[str, Any]:
    """The configuration of one name, in Triton's words: `dims` are without the samples, of which `batch` go at once."""
    return {
        "name": entry.name, "platform": _tell_platform(entry), "backend": entry.card.runtime, "max_batch_size": batch,
        "input": [{**_tell_dims(tensor), "optional": tensor.optional} for tensor in entry.inputs],
        "output": [_tell_dims(tensor) for tensor in entry.outputs],
        "dynamic_batching": {}, "instance_group": [{"name": entry.name, "kind": "KIND_CPU", "count": 1}],
        "parameters": {name: {"string_value": value} for name, value in _tell_about(entry).items()},
    }  # fmt: skip


def tell_statistics(service: Service, entry: Entry) -> dict[str, Any]:
    """The statistics of one name, in Triton's words: those of its whole model, which is what is counted."""
    counted = service.count(entry.card.name)
    answered = int(counted.get("requests", 0) - counted.get("failed", 0))
    times = {"queue": "queue", "compute_input": "encode", "compute_infer": "compute"}
    total = sum(counted.get(ours, 0.0) for ours in times.values())
    return {
        "name": entry.name, "version": entry.card.version, "last_inference": 0, "inference_count": int(counted.get("items", 0)),
        "execution_count": int(counted.get("batches", counted.get("requests", 0))),
        "inference_stats": {
            "success": _tell_time(answered, total), "fail": _tell_time(int(counted.get("failed", 0)), 0.0),
            **{theirs: _tell_time(answered, counted.get(ours, 0.0)) for theirs, ours in times.items()},
            "compute_output": _tell_time(answered, 0.0),
        },
        "batch_stats": [],
    }  # fmt: skip


def tell_all_statistics(service: Service) -> list[dict[str, Any]]:
    """The statistics of all names."""
    return [tell_statistics(service, entry) for entry in list_entries(service.list_models()).values()]


def tell_index(service: Service) -> list[dict[str, str]]:
    """All names with their state."""
    state = "READY" if service.ready else "UNAVAILABLE"
    return [
        {"name": entry.name, "version": entry.card.version, "state": state, "reason": "" if service.ready else "loading or draining"}
        for entry in list_entries(service.list_models()).values()
    ]


def _tell_platform(entry: Entry) -> str:
    return {"onnxruntime": "onnxruntime_onnx", "openvino": "openvino"}.get(entry.card.runtime, entry.card.runtime)


def _tell_about(entry: Entry) -> dict[str, str]:
    card = entry.card
    told = {"family": card.family, "model": card.name, "tasks": ",".join(card.tasks), "modalities": ",".join(card.inputs)}
    return told | ({"component": entry.component} if entry.component else {"task": str(entry.task)})


def _tell_tensor(tensor: Tensor) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}


def _tell_dims(tensor: Tensor) -> dict[str, Any]:
    type_ = "STRING" if tensor.datatype == "BYTES" else tensor.datatype
    dims = tensor.shape[1:] if tensor.shape[:1] == (-1,) else tensor.shape
    return {"name": tensor.name, "data_type": f"TYPE_{type_}", "dims": list(dims) or [1]}


def _tell_time(count: int, seconds: float) -> dict[str, int]:
    return {"count": max(count, 0), "ns": int(seconds * 1e9)}
