"""What a request costs the processor: a compressed model served beside its original, both as ONNX files by `trimodal serve`.

`python -m benchmarks.serving.cpu_seconds`: MiniLM with 8-bit weights and inputs, and in float32; texts of 32 and of 128 tokens, one a
request. Two clients ask as soon as they are answered; the seconds are those of all processes of the service, from the kernel.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
from pathlib import Path

from benchmarks.minilm import model_folder
from benchmarks.passlines import PassLine, finish, table
from benchmarks.serving.load import CACHE, OUTPUT, Server, make_artifact, run_server
from benchmarks.serving.open_loop import Target, measure_capacity

TOKENS, ROUNDS, SECONDS = (32, 128), 3, 6.0
_TICK = os.sysconf("SC_CLK_TCK")


def make_original() -> Path:
    """The original as ONNX; made once."""
    from trimodal.exporting.export import export

    out = CACHE / "minilm-float"
    if not (out / "export.json").is_file():
        export(str(model_folder()), "onnx", out)
    return out


def make_body(tokens: int) -> bytes:
    """One text, as the Open Inference Protocol has it."""
    values = {"input_ids": [101, *range(2000, 2000 + tokens - 2), 102], "attention_mask": [1] * tokens, "token_type_ids": [0] * tokens}
    inputs = [{"name": name, "shape": [1, tokens], "datatype": "INT64", "data": data} for name, data in values.items()]
    return json.dumps({"inputs": inputs, "outputs": [{"name": OUTPUT}]}).encode()


def read_cpu_seconds(port: int) -> float:
    """Of all processes that were begun with this port in their group."""
    total = 0.0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            command = (stat.parent / "environ").read_bytes()
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if f"SERVING_PORT={port}".encode() in command:
            total += (int(fields[11]) + int(fields[12])) / _TICK
    return total


def measure(folder: Path, tokens: int) -> float:
    """CPU milliseconds per request."""
    def begin(port: int, place: Path) -> list[str]:
        serve = [sys.executable, "-m", "trimodal", "serve", f"minilm={folder}", "--port", str(port)]
        return ["env", f"SERVING_PORT={port}", *serve]

    body = make_body(tokens)
    server = Server("trimodal", begin, lambda port: Target(port, "/v2/models/minilm/infer", body), "/v2/health/ready", {})
    with run_server(server) as asked:
        asyncio.run(measure_capacity(asked, clients=2, seconds=1.0, warm_up=0))
        before = read_cpu_seconds(asked.port)
        rate = asyncio.run(measure_capacity(asked, clients=2, seconds=SECONDS, warm_up=0))
        return 1e3 * (read_cpu_seconds(asked.port) - before) / (rate * SECONDS)


def main() -> None:
    """The table and the lines."""
    folders = {"float32": make_original(), "W8A8": make_artifact()}
    rows, ratios = [], {}
    for tokens in TOKENS:
        found = {name: [measure(folder, tokens) for _ in range(ROUNDS)] for name, folder in folders.items()}
        middle = {name: statistics.median(values) for name, values in found.items()}
        ratios[tokens] = middle["W8A8"] / middle["float32"]
        rows += [(str(tokens), name, f"{middle[name]:.2f}", f"{min(v):.2f} to {max(v):.2f}") for name, v in found.items()]
    print(table(("tokens", "model", "CPU ms per request", "spread"), rows))
    finish([PassLine(f"CPU of the compressed over the original, {tokens} tokens", ratios[tokens], most=0.5) for tokens in TOKENS])


if __name__ == "__main__":
    main()
