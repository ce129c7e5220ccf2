"""The objects of JSON that go in and out, as JSON Schema, for the OpenAPI file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trimodal.serving.open_inference.datatypes import MOST_DIMENSIONS, TYPES
from trimodal.serving.open_inference.requests import MOST_ID, MOST_MICROSECONDS
from trimodal.serving.openai.transcriptions import FORMATS

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
WHOLE: Schema = {"type": "integer"}
NUMBER: Schema = {"type": "number"}
FLAG: Schema = {"type": "boolean"}
FILE: Schema = {"type": "string", "contentMediaType": "application/octet-stream"}
SAID: Schema = {"type": "string", "minLength": 1}
STOP: Schema = {"type": "string", "minLength": 1, "maxLength": 64}


def make_object(required: Mapping[str, Schema], optional: Mapping[str, Schema] = {}, more: bool = False) -> Schema:
    """An object with these properties, and others only where `more` says so."""
    schema: Schema = {"type": "object", "properties": {**required, **optional}, "required": list(required)}
    return schema if more else {**schema, "additionalProperties": False}


def make_list(items: Schema, least: int = 0) -> Schema:
    """An array of `items`."""
    return {"type": "array", "items": items, **({"minItems": least} if least else {})}


def refer(name: str) -> Schema:
    """The schema called `name` below `components`."""
    return {"$ref": f"#/components/schemas/{name}"}


_SHAPE = {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 1, "maxItems": MOST_DIMENSIONS}
_DATATYPE = {"type": "string", "enum": list(TYPES)}
_TENSOR = make_object({"name": TEXT, "datatype": _DATATYPE, "shape": make_list(WHOLE)})
_DIMS = make_object({"name": TEXT, "data_type": TEXT, "dims": make_list(WHOLE)}, {"optional": FLAG})
_TIME = make_object({"count": WHOLE, "ns": WHOLE})
_PART = {
    "oneOf": [
        make_object({"type": {"const": "text"}, "text": SAID}),
        make_object({"type": {"const": "image_url"}, "image_url": make_object({"url": SAID}, {"detail": TEXT})}),
        make_object({"type": {"const": "audio_url"}, "audio_url": make_object({"url": SAID})}),
        make_object({"type": {"const": "input_audio"}, "input_audio": make_object({"data": SAID, "format": {"enum": ["wav", "flac"]}})}),
    ]
}
_MESSAGE = make_object(
    {"role": {"enum": ["system", "developer", "user"]}, "content": {"oneOf": [SAID, make_list(_PART, 1)]}},
    {"name": TEXT},
)
_ITEM = {**make_object({}, {"image": SAID, "audio": SAID, "text": SAID}), "minProperties": 1}
_OPTIONS: dict[str, Schema] = {
    "labels": make_list(SAID, 1),
    "top": {"type": "integer", "minimum": 1, "maximum": 1000}, "max_tokens": {"type": "integer", "minimum": 1},
    "language": SAID, "dimensions": {"type": "integer", "minimum": 1},
}  # fmt: skip
_LABEL = make_object({"label": TEXT, "score": NUMBER})
_BOX = make_object({"label": TEXT, "score": NUMBER, "box": make_list(NUMBER)})
_USAGE = make_object({"prompt_tokens": WHOLE, "total_tokens": WHOLE}, {"completion_tokens": WHOLE})

SCHEMAS: dict[str, Schema] = {
    "Error": make_object({"error": TEXT}),
    "OpenAIError": make_object(
        {
            "error": make_object(
                {"message": TEXT, "type": TEXT, "param": {"type": ["string", "null"]}, "code": {"type": ["string", "null"]}}
            )
        }
    ),
    "Live": make_object({"live": FLAG}),
    "Ready": make_object({"ready": FLAG}, {"name": TEXT}),
    "Server": make_object({"name": TEXT, "version": TEXT, "extensions": make_list(TEXT)}),
    "Metadata": make_object(
        {"name": TEXT, "versions": make_list(TEXT), "platform": TEXT, "inputs": make_list(_TENSOR), "outputs": make_list(_TENSOR)}
    ),
    "Config": make_object(
        {"name": TEXT, "platform": TEXT, "max_batch_size": WHOLE, "input": make_list(_DIMS), "output": make_list(_DIMS)}, more=True
    ),
    "Statistics": make_object(
        {
            "model_stats": make_list(
                make_object(
                    {
                        "name": TEXT,
                        "version": TEXT,
                        "inference_count": WHOLE,
                        "execution_count": WHOLE,
                        "inference_stats": {"type": "object", "additionalProperties": _TIME},
                    },
                    more=True,
                )
            )
        }
    ),
    "Index": make_list(make_object({"name": TEXT, "version": TEXT, "state": {"enum": ["READY", "UNAVAILABLE"]}, "reason": TEXT})),
    "IndexRequest": make_object({}, {"ready": FLAG, "repository_name": TEXT}),
    "InferRequest": make_object(
        {
            "inputs": make_list(
                make_object(
                    {"name": TEXT, "shape": _SHAPE, "datatype": _DATATYPE}, {"data": {"type": "array"}, "parameters": {"type": "object"}}
                ),
                1,
            )
        },
        {
            "id": {"type": "string", "maxLength": MOST_ID},
            "parameters": make_object(
                {},
                {
                    "timeout": {"type": "integer", "minimum": 1, "maximum": MOST_MICROSECONDS},
                    "binary_data_output": FLAG,
                    **{name: schema for name, schema in _OPTIONS.items() if name != "labels"},
                },
            ),
            "outputs": make_list(make_object({"name": TEXT}, {"parameters": make_object({}, {"binary_data": FLAG})})),
        },
    ),
    "InferResponse": make_object(
        {
            "model_name": TEXT,
            "model_version": TEXT,
            "outputs": make_list(
                make_object(
                    {"name": TEXT, "datatype": _DATATYPE, "shape": make_list(WHOLE)},
                    {"data": {"type": "array"}, "parameters": {"type": "object"}},
                )
            ),
        },
        {"id": TEXT},
    ),
    "EmbeddingRequest": {
        "oneOf": [
            make_object(
                {"model": SAID, "input": {"oneOf": [SAID, make_list({"oneOf": [SAID, _ITEM]}, 1)]}},
                {
                    "modality": {"enum": ["text", "image", "audio"]},
                    "encoding_format": {"enum": ["float", "base64"]},
                    "dimensions": _OPTIONS["dimensions"],
                    "user": TEXT,
                },
            ),
            make_object(
                {"model": SAID, "messages": make_list(_MESSAGE, 1)},
                {"encoding_format": {"enum": ["float", "base64"]}, "dimensions": _OPTIONS["dimensions"], "user": TEXT},
            ),
        ]
    },
    "Embeddings": make_object(
        {
            "object": {"const": "list"},
            "model": TEXT,
            "usage": _USAGE,
            "data": make_list(
                make_object({"object": {"const": "embedding"}, "index": WHOLE, "embedding": {"oneOf": [TEXT, make_list(NUMBER)]}})
            ),
        }
    ),
    "ChatRequest": make_object(
        {"model": SAID, "messages": make_list(_MESSAGE, 1)},
        {
            "max_tokens": _OPTIONS["max_tokens"],
            "max_completion_tokens": _OPTIONS["max_tokens"],
            "stream": FLAG,
            "temperature": {"type": "number", "minimum": 0, "maximum": 2},
            "top_p": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
            "seed": {"type": "integer", "minimum": 0, "maximum": 2**63 - 1},
            "stop": {"oneOf": [STOP, {"type": "array", "items": STOP, "maxItems": 4}]},
            "stream_options": make_object({}, {"include_usage": FLAG}),
            "user": TEXT,
        },
    ),
    "ChatCompletion": make_object(
        {
            "id": TEXT,
            "object": {"const": "chat.completion"},
            "created": WHOLE,
            "model": TEXT,
            "usage": _USAGE,
            "choices": make_list(
                make_object(
                    {
                        "index": WHOLE,
                        "message": make_object({"role": TEXT, "content": TEXT}),
                        "finish_reason": TEXT,
                        "logprobs": {"type": "null"},
                    }
                )
            ),
        }
    ),
    "TranscriptionForm": make_object(
        {"file": FILE, "model": SAID},
        {"language": TEXT, "response_format": {"enum": list(FORMATS)}, "stream": {"enum": ["true", "false"]}},
    ),
    "Transcription": make_object({"text": TEXT}, {"task": TEXT, "language": TEXT}),
    "Model": make_object({"id": TEXT, "object": {"const": "model"}, "created": WHOLE, "owned_by": TEXT}, more=True),
    "TaskForm": make_object({}, {"image": make_list(FILE), "audio": make_list(FILE), "text": make_list(SAID), "model": SAID, **_OPTIONS}),
    "TaskRequest": make_object({}, {"items": make_list(_ITEM, 1), "image": SAID, "audio": SAID, "text": SAID, "model": SAID, **_OPTIONS}),
    "TaskAnswer": make_object(
        {
            "model": TEXT,
            "answers": make_list(
                {
                    "oneOf": [
                        make_object({"error": TEXT, "status": WHOLE}),
                        make_object({"embedding": make_list(NUMBER), "modality": TEXT}),
                        make_object(
                            {"labels": make_list(_LABEL)}, {"outputs": {"type": "object", "additionalProperties": make_list(_LABEL)}}
                        ),
                        make_object({"boxes": make_list(_BOX)}),
                        make_object({"text": TEXT, "finish": {"enum": ["stop", "length"]}, "tokens": WHOLE}),
                    ]
                }
            ),
        }
    ),
}
SCHEMAS["Models"] = make_object({"object": {"const": "list"}, "data": make_list(refer("Model"))})
