"""A runtime for MLServer that runs ONNX models, as its documents tell to write one; loaded by MLServer."""

from __future__ import annotations

import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Onnx(MLModel):  # type: ignore[misc]
    """One model."""

    async def load(self) -> bool:
        """Opens the file that the settings name."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        file = self.settings.parameters.uri
        self._session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        self._names = [node.name for node in self._session.get_outputs()]
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Runs one request."""
        results = self._session.run(None, {each.name: NumpyCodec.decode_input(each) for each in payload.inputs})
        outputs = [NumpyCodec.encode_output(name, array) for name, array in zip(self._names, results, strict=True)]
        return InferenceResponse(id=payload.id, model_name=self.name, model_version=self.version, outputs=outputs)
