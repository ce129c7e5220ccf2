"""The protocol's messages, described here and built by protobuf when this is imported: there is no generated code to go out of date.

They live in a pool of their own, so that a client's generated messages of the same names (Triton's, KServe's) can be in the same
process. Fields that are not listed are kept by protobuf as unknown, as its rules say.

Source: `open_inference_grpc.proto` of the specification; Triton's `grpc_service.proto` and `model_config.proto` for configuration,
statistics and index; `grpc.health.v1` for the health check that Kubernetes calls.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

SERVICE = "inference.GRPCInferenceService"
HEALTH = "grpc.health.v1.Health"

_TENSOR = {
    1: "name string",
    2: "datatype string",
    3: "shape int64*",
    4: "parameters string>InferParameter",
    5: "contents InferTensorContents",
}
_NAMED = {1: "name string", 2: "version string"}
_TIMES = {
    1: "success StatisticDuration",
    2: "fail StatisticDuration",
    3: "queue StatisticDuration",
    4: "compute_input StatisticDuration",
    5: "compute_infer StatisticDuration",
    6: "compute_output StatisticDuration",
    7: "cache_hit StatisticDuration",
    8: "cache_miss StatisticDuration",
}
_CONTROL = {1: "repository_name string", 2: "model_name string"}

_FIELDS: dict[str, dict[int, str]] = {
    "ServerLiveRequest": {},
    "ServerLiveResponse": {1: "live bool"},
    "ServerReadyRequest": {},
    "ServerReadyResponse": {1: "ready bool"},
    "ModelReadyRequest": _NAMED,
    "ModelReadyResponse": {1: "ready bool"},
    "ServerMetadataRequest": {},
    "ServerMetadataResponse": {1: "name string", 2: "version string", 3: "extensions string*"},
    "ModelMetadataRequest": _NAMED,
    "ModelMetadataResponse": {
        1: "name string",
        2: "versions string*",
        3: "platform string",
        4: "inputs TensorMetadata*",
        5: "outputs TensorMetadata*",
    },
    "TensorMetadata": {1: "name string", 2: "datatype string", 3: "shape int64*"},
    "ModelInferRequest": {
        1: "model_name string",
        2: "model_version string",
        3: "id string",
        4: "parameters string>InferParameter",
        5: "inputs InferInputTensor*",
        6: "outputs InferRequestedOutputTensor*",
        7: "raw_input_contents bytes*",
    },
    "InferInputTensor": _TENSOR,
    "InferRequestedOutputTensor": {1: "name string", 2: "parameters string>InferParameter"},
    "ModelInferResponse": {
        1: "model_name string",
        2: "model_version string",
        3: "id string",
        4: "parameters string>InferParameter",
        5: "outputs InferOutputTensor*",
        6: "raw_output_contents bytes*",
    },
    "InferOutputTensor": _TENSOR,
    "ModelStreamInferResponse": {1: "error_message string", 2: "infer_response ModelInferResponse"},
    "InferParameter": {
        1: "bool_param bool|",
        2: "int64_param int64|",
        3: "string_param string|",
        4: "double_param double|",
        5: "uint64_param uint64|",
    },
    "InferTensorContents": {
        1: "bool_contents bool*",
        2: "int_contents int32*",
        3: "int64_contents int64*",
        4: "uint_contents uint32*",
        5: "uint64_contents uint64*",
        6: "fp32_contents float*",
        7: "fp64_contents double*",
        8: "bytes_contents bytes*",
    },
    "ModelConfigRequest": _NAMED,
    "ModelConfigResponse": {1: "config ModelConfig"},
    "ModelConfig": {
        1: "name string",
        2: "platform string",
        17: "backend string",
        4: "max_batch_size int32",
        5: "input ModelInput*",
        6: "output ModelOutput*",
        11: "dynamic_batching ModelDynamicBatching",
        7: "instance_group ModelInstanceGroup*",
        14: "parameters string>ModelParameter",
    },
    "ModelInput": {1: "name string", 2: "data_type enum", 4: "dims int64*", 8: "optional bool"},
    "ModelOutput": {1: "name string", 2: "data_type enum", 3: "dims int64*"},
    "ModelDynamicBatching": {},
    "ModelInstanceGroup": {1: "name string", 4: "kind int32", 2: "count int32"},
    "ModelParameter": {1: "string_value string"},
    "ModelStatisticsRequest": _NAMED,
    "ModelStatisticsResponse": {1: "model_stats ModelStatistics*"},
    "ModelStatistics": {
        1: "name string",
        2: "version string",
        3: "last_inference uint64",
        4: "inference_count uint64",
        5: "execution_count uint64",
        6: "inference_stats InferStatistics",
    },
    "InferStatistics": _TIMES,
    "StatisticDuration": {1: "count uint64", 2: "ns uint64"},
    "RepositoryIndexRequest": {1: "repository_name string", 2: "ready bool"},
    "RepositoryIndexResponse": {1: "models ModelIndex*"},
    "ModelIndex": {1: "name string", 2: "version string", 3: "state string", 4: "reason string"},
    "RepositoryModelLoadRequest": _CONTROL,
    "RepositoryModelLoadResponse": {},
    "RepositoryModelUnloadRequest": _CONTROL,
    "RepositoryModelUnloadResponse": {},
}
"""Fields by number: `*` is repeated, `|` one of several, `A>B` a map."""

DATA_TYPES = (
    "INVALID",
    "BOOL",
    "UINT8",
    "UINT16",
    "UINT32",
    "UINT64",
    "INT8",
    "INT16",
    "INT32",
    "INT64",
    "FP16",
    "FP32",
    "FP64",
    "STRING",
    "BF16",
)
"""Triton's `DataType`, by number."""

_Field = descriptor_pb2.FieldDescriptorProto
_KINDS = {
    "string": _Field.TYPE_STRING,
    "bytes": _Field.TYPE_BYTES,
    "bool": _Field.TYPE_BOOL,
    "int32": _Field.TYPE_INT32,
    "int64": _Field.TYPE_INT64,
    "uint32": _Field.TYPE_UINT32,
    "uint64": _Field.TYPE_UINT64,
    "float": _Field.TYPE_FLOAT,
    "double": _Field.TYPE_DOUBLE,
    "enum": _Field.TYPE_INT32,
}


def _describe_file(package: str, fields: dict[str, dict[int, str]]) -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto3")
    for name, numbered in fields.items():
        message = file.message_type.add(name=name)
        if any(said.endswith("|") for said in numbered.values()):
            message.oneof_decl.add(name="parameter_choice")
        for number, said in numbered.items():
            _add_field(message, package, number, *said.split(" "))
    return file


def _add_field(message: descriptor_pb2.DescriptorProto, package: str, number: int, name: str, kind: str) -> None:
    plain = kind.rstrip("*|")
    if ">" in plain:
        entry = message.nested_type.add(name=name.title().replace("_", "") + "Entry", options={"map_entry": True})
        key, value = plain.split(">")
        _add_field(entry, package, 1, "key", key)
        _add_field(entry, package, 2, "value", value)
        plain, kind = f"{message.name}.{entry.name}", kind + "*"
    field = message.field.add(name=name, number=number, label=_Field.LABEL_REPEATED if kind.endswith("*") else _Field.LABEL_OPTIONAL)
    if plain in _KINDS:
        field.type = _KINDS[plain]
    else:
        field.type, field.type_name = _Field.TYPE_MESSAGE, f".{package}.{plain}"
    if kind.endswith("|"):
        field.oneof_index = 0


def _build(package: str, fields: dict[str, dict[int, str]]) -> dict[str, Any]:
    pool = descriptor_pool.DescriptorPool()
    pool.Add(_describe_file(package, fields))  # type: ignore[no-untyped-call]
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}")) for name in fields}


MESSAGES: dict[str, Any] = _build("inference", _FIELDS)
"""The classes of the protocol's messages by name."""

HEALTH_MESSAGES: dict[str, Any] = _build(
    "grpc.health.v1", {"HealthCheckRequest": {1: "service string"}, "HealthCheckResponse": {1: "status int32"}}
)
"""Those of gRPC's own health check."""
