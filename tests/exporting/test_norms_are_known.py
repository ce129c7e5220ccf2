"""A root mean square norm reaches ONNX Runtime's own kernel."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnxruntime


def test_a_root_mean_square_norm_is_one_node(speak: Callable[..., Any], tmp_path: Path) -> None:
    spoken = speak("llama", 1.0)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    (part,) = spoken.result.components
    onnxruntime.InferenceSession(str(spoken.folder / part.files[0]), options)
    kinds = [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node]
    norms = sum(kinds.count(kind) for kind in ("SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization"))
    assert norms == 5 and "Reciprocal" not in kinds  # two for each of two blocks, and the last
