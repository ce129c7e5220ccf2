"""BentoML's side: the same ONNX file, batched as its documentation shows."""

from __future__ import annotations

import os

import bentoml
import numpy as np
import onnxruntime

NAMES = os.environ["SERVING_INPUTS"].split(",")


@bentoml.service(traffic={"timeout": 60}, workers=1)
class Onnx:
    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ["SERVING_THREADS"])
        self._session = onnxruntime.InferenceSession(os.environ["SERVING_MODEL"], options)

    @bentoml.api(batchable=True, batch_dim=0, max_batch_size=16, max_latency_ms=60_000)
    def infer(self, given: np.ndarray) -> np.ndarray:
        """(samples, inputs, tokens) int64 -> (samples, width)."""
        columns = {name: np.ascontiguousarray(given[:, place], np.int64) for place, name in enumerate(NAMES)}
        return self._session.run([os.environ["SERVING_OUTPUT"]], columns)[0]
