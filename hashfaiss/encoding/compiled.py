"""A network that OpenVINO has compiled, asked by any number of threads. Imports no torch."""

from __future__ import annotations

import io
import queue
from typing import Any

import numpy as np
import numpy.typing as npt


class Compiled:
    """Resized images, uint8 (n, 3, S, S) → float32 (n, K), computed in float32.

    Each thread that asks is answered by one thread of OpenVINO's own.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()

    @classmethod
    def make(cls, model: Any, threads: int, precision: str = "f32") -> Compiled:
        """Compile a model of OpenVINO's.

        Raises:
            Exception: whatever OpenVINO says of layers it does not know, or where it cannot be imported.
        """
        import openvino

        return cls(openvino.Core().compile_model(model, "CPU", _settings(threads, precision)))

    @classmethod
    def read(cls, data: bytes, threads: int) -> Compiled:
        """What `data` gave; Exception where it is of another build of OpenVINO, or damaged."""
        import openvino

        return cls(openvino.Core().import_model(data, "CPU", _settings(threads, "f32")))

    def data(self) -> bytes:
        """For `read`."""
        made = self._model.export_model()
        return made.getvalue() if isinstance(made, io.BytesIO) else bytes(made)

    def __call__(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        try:
            request = self._requests.get_nowait()
        except queue.Empty:
            request = self._model.create_infer_request()
        try:
            found = request.infer([np.ascontiguousarray(images)], share_inputs=True)
        finally:
            self._requests.put(request)
        outputs: npt.NDArray[np.float32] = found[0]
        return outputs


def _settings(threads: int, precision: str) -> dict[str, Any]:
    return {
        "NUM_STREAMS": threads,
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": precision,
        "ENABLE_CPU_PINNING": False,  # other processes want these cores, too
    }
