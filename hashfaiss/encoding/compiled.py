"""A network that OpenVINO has compiled, asked by any number of threads. Imports no torch."""

from __future__ import annotations

import io
import queue
from typing import Any

import numpy as np
import numpy.typing as npt

HINTS = {"float32": "f32", "bfloat16": "bf16"}


class Compiled:
    """Resized images, uint8 (n, 3, S, S) → float32 (n, K).

    Each thread that asks is answered by one thread of OpenVINO's own.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()

    @classmethod
    def make(cls, model: Any, hint: str, threads: int) -> Compiled | None:
        """Compile a model of OpenVINO's; None where this CPU does not compute in that precision.

        Raises:
            Exception: whatever OpenVINO says of layers it does not know, or where it cannot be imported.
        """
        import openvino

        core = openvino.Core()
        if hint == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            return None
        return cls(core.compile_model(model(), "CPU", _settings(hint, threads)))

    @classmethod
    def read(cls, data: bytes, hint: str, threads: int) -> Compiled:
        """What `data` gave; Exception where it is of another build of OpenVINO, or damaged."""
        import openvino

        return cls(openvino.Core().import_model(data, "CPU", _settings(hint, threads)))

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


def _settings(hint: str, threads: int) -> dict[str, Any]:
    return {
        "NUM_STREAMS": threads,
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": hint,
        "ENABLE_CPU_PINNING": False,  # other processes want these cores, too
    }
