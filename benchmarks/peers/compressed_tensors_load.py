"""Loads compressed-tensors folders as somebody does who has never heard of trimodal, and runs them.

    python compressed_tensors_load.py JOBS.json

A job is {"folder", "class", "mode", "probe", "result"}: a name of Transformers' (AutoModel, CLIPTextModel, …); `default`, `dequantize`
or `run_compressed`; a safetensors file with the inputs; and where to write the outputs, as `output.NAME`, and every floating-point
tensor that the model has after it ran, as `tensor.NAME`. Prints a line of JSON for each job: what Transformers said of missing or
unexpected tensors, or the error; and first the versions.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any


def run_job(job: Mapping[str, str]) -> dict[str, Any]:
    """Load, run, save."""
    import torch
    import transformers
    from safetensors.torch import load_file, save_file

    how: dict[str, Any] = {
        "default": {},
        "dequantize": {"quantization_config": transformers.CompressedTensorsConfig(dequantize=True)},
        "run_compressed": {"quantization_config": transformers.CompressedTensorsConfig(run_compressed=False)},
    }[job["mode"]]
    loaded: Any = getattr(transformers, job["class"]).from_pretrained(
        job["folder"], dtype="auto", local_files_only=True, output_loading_info=True, **how
    )
    model, info = loaded
    with torch.inference_mode():
        output = model.eval()(**load_file(job["probe"]))
    found = {f"output.{name}": value for name, value in output.items() if isinstance(value, torch.Tensor)}
    found |= {f"tensor.{name}": value for name, value in model.state_dict().items() if value.is_floating_point()}
    save_file({name: value.detach().clone().contiguous() for name, value in found.items()}, job["result"])
    return {"class": type(model).__name__, **{what: sorted(map(str, names)) for what, names in info.items() if names}}


def main() -> None:
    """All jobs, one after the other."""
    assert find_spec("trimodal") is None, "this environment has trimodal in it"
    print(json.dumps({name: version(name) for name in ("torch", "transformers", "compressed-tensors")}))
    for job in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
        try:
            said = run_job(job)
        except Exception as error:  # whatever it is, the table says it
            said = {"error": f"{type(error).__name__}: {error}"[:300]}
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
