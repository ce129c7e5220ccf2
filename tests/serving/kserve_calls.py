"""Calls of KServe's client, in an environment of its own: `python kserve_calls.py REST_URL GRPC_ADDRESS` prints what came back, as JSON."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput


def make_request(name: str, binary: bool, outputs: list[RequestedOutput] | None = None) -> InferRequest:
    inputs = []
    for tensor, start in (("a", 1), ("b", 10)):
        inputs.append(InferInput(tensor, [2, 3], "INT64"))
        inputs[-1].set_data_from_numpy(np.arange(start, start + 6, dtype=np.int64).reshape(2, 3), binary_data=binary)
    return InferRequest(name, inputs, request_id="7", request_outputs=outputs)


def make_halves() -> InferRequest:
    pixels = InferInput("pixels", [1, 2], "FP16")
    pixels.set_data_from_numpy(np.array([[0.5, 1.5]], dtype=np.float16), binary_data=True)
    return InferRequest("sight", [pixels], request_outputs=[RequestedOutput("logits", {"binary_data": True})])


async def ask_rest(url: str) -> dict[str, Any]:
    client = InferenceRESTClient(RESTConfig(protocol="v2"))
    found: dict[str, Any] = {"live": await client.is_server_live(url), "ready": await client.is_server_ready(url)}
    found["model"] = await client.is_model_ready(url, "adder")
    for binary in (True, False):
        answer = await client.infer(url, make_request("adder", binary), model_name="adder")
        found[f"sum {binary}"] = answer.get_output_by_name("sum").as_numpy().tolist()
    answer = await client.infer(url, make_request("adder", True, [RequestedOutput("sum", {"binary_data": True})]), model_name="adder")
    found["sum out"] = answer.get_output_by_name("sum").as_numpy().tolist()
    found["halves"] = (await client.infer(url, make_halves(), model_name="sight")).get_output_by_name("logits").as_numpy().tolist()
    await client.close()
    return found


async def ask_grpc(address: str) -> dict[str, Any]:
    client = InferenceGRPCClient(address)
    found: dict[str, Any] = {
        "live": await client.is_server_live(),
        "ready": await client.is_server_ready(),
        "model": await client.is_model_ready("adder"),
    }
    for binary in (True, False):
        answer = await client.infer(make_request("adder", binary))
        found[f"sum {binary}"] = answer.get_output_by_name("sum").as_numpy().tolist()
    await client.close()
    return found


async def ask() -> None:
    print(json.dumps({"rest": await ask_rest(sys.argv[1]), "grpc": await ask_grpc(sys.argv[2])}))


if __name__ == "__main__":
    asyncio.run(ask())
