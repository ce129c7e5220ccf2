"""MLServer's side: the same ONNX file, in the runtime class that its documentation has users write."""

import os

import numpy as np
import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class OnnxModel(MLModel):
    async def load(self) -> bool:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ["SERVING_THREADS"])
        self._session = onnxruntime.InferenceSession(os.environ["SERVING_MODEL"], options)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        given = {one.name: NumpyCodec.decode_input(one).astype(np.int64) for one in payload.inputs}
        (found,) = self._session.run([os.environ["SERVING_OUTPUT"]], given)
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output(os.environ["SERVING_OUTPUT"], found)])
