"""A process of its own that loads a model folder as somebody does who has never heard of trimodal, and runs it.

    python stock_load_check.py FOLDER PROBE RESULT

Imports Transformers and nothing of trimodal, which cannot be imported here even where it is installed. The class is the
one that config.json names. PROBE holds the inputs, RESULT takes the outputs.
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


def collect_outputs(module: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every tensor of the module's output for `batch`, by name, in the shape and dtype that it has."""
    with torch.inference_mode():
        result = module(**batch)
    if isinstance(result, Tensor):
        return {"output": result.contiguous().cpu()}
    named = result.items() if isinstance(result, Mapping) else enumerate(result)
    return {str(name): value.contiguous().cpu() for name, value in named if isinstance(value, Tensor)}


def _main() -> None:
    sys.modules["trimodal"] = None  # type: ignore[assignment]
    gc.disable()  # the model's module, imported next, stays: see garbage.py, which cannot be imported here
    folder, probe, result = sys.argv[1:]
    (name,) = json.loads(Path(folder, "config.json").read_text(encoding="utf-8"))["architectures"]
    found: Any = getattr(transformers, name).from_pretrained(
        folder, dtype="auto", local_files_only=True, output_loading_info=True
    )
    module, info = found
    wrong = {what: sorted(map(str, names)) for what, names in info.items() if names}
    if wrong:
        sys.exit(f"{name} finds {wrong}"[:400])
    batch = load_file(probe)
    save_file({key: value.clone() for key, value in collect_outputs(module.eval(), batch).items()} if batch else {}, result)
    gc.freeze()  # nor need it be looked through at the end


if __name__ == "__main__":
    _main()
