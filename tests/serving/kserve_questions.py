"""KServe's client, in an environment of its own: `python kserve_questions.py FILE REST_URL GRPC_ADDRESS` asks the questions in FILE over
both, with tensors in binary and, where that can be, in JSON; prints the answers as JSON."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from client_questions import DATATYPES, pack_arrays, unpack_arrays
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput


def make_request(asked: dict[str, Any], binary: bool, outputs: list[RequestedOutput] | None = None) -> InferRequest:
    inputs = []
    for name, value in unpack_arrays(asked["inputs"]).items():
        inputs.append(InferInput(name, list(value.shape), DATATYPES[str(value.dtype)]))
        inputs[-1].set_data_from_numpy(value, binary_data=binary)
    return InferRequest(asked["model"], inputs, parameters=asked["parameters"] or None, request_outputs=outputs)


def read_answer(answer: Any) -> dict[str, Any]:
    return pack_arrays({output.name: output.as_numpy() for output in answer.outputs})


async def ask_rest(url: str, questions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    client = InferenceRESTClient(RESTConfig(protocol="v2"))
    assert await client.is_server_live(url) and await client.is_server_ready(url)
    answers = []
    for asked in questions:
        assert await client.is_model_ready(url, asked["model"])
        wished = [RequestedOutput(name, {"binary_data": True}) for name in asked["outputs"]]
        found = {"binary": await client.infer(url, make_request(asked, True, wished), model_name=asked["model"])}
        found["mixed"] = await client.infer(url, make_request(asked, True), model_name=asked["model"])
        if asked["can_be_text"]:
            found["json"] = await client.infer(url, make_request(asked, False), model_name=asked["model"])
        answers.append({way: read_answer(answer) for way, answer in found.items()})
    await client.close()
    return answers


async def ask_grpc(address: str, questions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    client = InferenceGRPCClient(address)
    assert await client.is_server_live() and await client.is_server_ready()
    answers = []
    for asked in questions:
        assert await client.is_model_ready(asked["model"])
        found = {"raw": await client.infer(make_request(asked, True))}
        if asked["can_be_text"]:
            found["typed"] = await client.infer(make_request(asked, False))
        answers.append({way: read_answer(answer) for way, answer in found.items()})
    await client.close()
    return answers


async def ask() -> None:
    questions = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    print(json.dumps({"rest": await ask_rest(sys.argv[2], questions), "grpc": await ask_grpc(sys.argv[3], questions)}))


if __name__ == "__main__":
    asyncio.run(ask())
