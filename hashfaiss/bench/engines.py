"""What encoding is measured against: engines by themselves, and Pillow with onnxruntime, as peers have it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps
from torch import Tensor

from hashfaiss.encoding.compiled import Compiled
from hashfaiss.encoding.encoder import Encoder
from hashfaiss.encoding.engine import Graph
from hashfaiss.encoding.items import Item
from hashfaiss.encoding.pipeline import batched
from hashfaiss.encoding.precision import computes_in_bfloat16, images_together
from hashfaiss.images.preprocessing import Preprocessing

EXACT = ("float32", "f32")
PRECISIONS = dict([EXACT, ("bfloat16", "bf16")])
OPENVINO = "OpenVINO itself"
GRAPHS = "torch.compile with CUDA graphs, float16"
BATCH = 64
PEER = ("onnx", "onnxscript", "onnxruntime")


def by_themselves(encoder: Encoder, ready: Sequence[Tensor], workers: int) -> dict[str, Callable[[], int]]:
    """By name, what has an engine compute ready batches, and tells how many images these were.

    On a CPU that is OpenVINO, a stream a core; on CUDA what torch compiles. No sign is decided, none looked at again.
    """
    if encoder.device.type == "cuda":
        return {GRAPHS: _by_graphs(encoder, ready)}
    if encoder.device.type != "cpu" or not find_spec("openvino"):
        return {}
    graph = Graph(encoder.network, encoder.preprocessing.normalise, encoder.preprocessing.size)
    together = images_together(encoder.preprocessing.size)
    parts = [part.contiguous().numpy() for batch in ready for part in torch.split(batch, together)]
    found: dict[str, Callable[[], int]] = {}
    for name, precision in PRECISIONS.items() if computes_in_bfloat16() else [EXACT]:
        compiled = Compiled.make(graph.converted(), workers, precision)
        found[f"{OPENVINO}, {name}"] = partial(_all, compiled, parts, workers)
    return found


def _by_graphs(encoder: Encoder, ready: Sequence[Tensor]) -> Callable[[], int]:
    compiled: Any = torch.compile(encoder.precision.made(torch.float16), mode="reduce-overhead")
    inputs = [encoder.preprocessing.normalise(batch.to(encoder.device)) for batch in ready]

    def work() -> int:
        with torch.inference_mode():
            for batch in inputs:
                compiled(batch.contiguous(memory_format=torch.channels_last))
        torch.cuda.synchronize()
        return sum(map(len, inputs))

    work()  # compiles
    return work


def _all(compute: Compiled, parts: Sequence[npt.NDArray[np.uint8]], workers: int) -> int:
    with ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(compute, parts):
            pass
    return sum(map(len, parts))


def onnxruntime_pipeline(encoder: Encoder, items: Sequence[Item], workers: int) -> Callable[[], int] | None:
    """What takes files to codes as packages on onnxruntime do; None where what it needs is not installed.

    Pillow decodes and resizes in threads, the network is onnxruntime's in as many, 64 images at a time.
    """
    if encoder.device.type != "cpu" or not all(map(find_spec, PEER)):
        return None
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "network.onnx")
        encoder.export(path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = workers
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def work() -> int:
        done = 0
        with ThreadPoolExecutor(workers) as pool:
            for chunk in batched(items, BATCH):
                images = np.stack(list(pool.map(lambda item: _by_pillow(str(item.path), encoder.preprocessing), chunk)))
                done += len(session.run(["codes"], {"images": images})[0])
        return done

    return work


def _by_pillow(path: str, look: Preprocessing) -> npt.NDArray[np.uint8]:
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image).convert("RGB")
    if look.fit == "crop":
        side = max(1, round(min(upright.size) * look.crop))
        left, top = (upright.width - side) // 2, (upright.height - side) // 2
        upright = upright.crop((left, top, left + side, top + side))
    return np.asarray(upright.resize((look.size, look.size), Image.Resampling[look.interpolation.upper()]))
