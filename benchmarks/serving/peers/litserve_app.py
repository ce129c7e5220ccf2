"""LitServe's side: the same ONNX file, batched as its documentation shows."""

import os
import sys

import litserve
import numpy as np
import onnxruntime


class OnnxApi(litserve.LitAPI):
    def setup(self, device: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ["SERVING_THREADS"])
        self._session = onnxruntime.InferenceSession(os.environ["SERVING_MODEL"], options)

    def decode_request(self, request: dict) -> dict:
        return {one["name"]: np.array(one["data"], np.int64).reshape(one["shape"]) for one in request["inputs"]}

    def batch(self, inputs: list) -> dict:
        return {name: np.concatenate([one[name] for one in inputs]) for name in inputs[0]}

    def predict(self, given: dict) -> np.ndarray:
        return self._session.run([os.environ["SERVING_OUTPUT"]], given)[0]

    def unbatch(self, output: np.ndarray) -> list:
        return [output[row : row + 1] for row in range(len(output))]

    def encode_response(self, output: np.ndarray) -> dict:
        return {"outputs": [{"name": os.environ["SERVING_OUTPUT"], "shape": list(output.shape), "data": output.ravel().tolist()}]}


if __name__ == "__main__":
    api = OnnxApi(max_batch_size=16, batch_timeout=0.005)
    litserve.LitServer(api, accelerator="cpu").run(port=int(sys.argv[1]), host="127.0.0.1", generate_client_file=False, log_level="warning")
