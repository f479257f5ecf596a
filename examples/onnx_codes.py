"""Codes of images by ONNX Runtime, Pillow and numpy: what a program without hashfaiss has to do.

hashfaiss export-model --to onnx --model photos.pt --out photos.onnx
python examples/onnx_codes.py photos.onnx a.jpg b.jpg
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def weights(inputs: int, outputs: int, cubic: bool) -> tuple[np.ndarray, int]:
    """What each output is of the inputs, in whole numbers times 2 ** precision: a triangle or Keys' cubic, a = -0.5."""
    scale = inputs / outputs
    stretch = max(scale, 1.0)
    centres = scale * (np.arange(outputs)[:, None] + 0.5)
    reach = (2 if cubic else 1) * stretch
    first = np.maximum((centres - reach + 0.5).astype(int), 0)
    last = np.minimum((centres + reach + 0.5).astype(int), inputs)
    places = np.arange(inputs)[None, :]
    x = np.abs((places - centres + 0.5) * (1.0 / stretch))
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    shares = np.where(x < 1, near, np.where(x < 2, far, 0)) if cubic else np.maximum(1 - x, 0)
    shares = np.where((places >= first) & (places < last), shares, 0)
    shares /= shares.sum(axis=1, keepdims=True)
    precision = 0
    while precision < 22 and int(0.5 + shares.max() * 2 ** (precision + 1)) < 2**15:
        precision += 1
    return np.trunc(shares * 2**precision + np.copysign(0.5, shares)), precision


def resized(pixels: np.ndarray, size: int, cubic: bool) -> np.ndarray:
    """uint8 (height, width, 3) → (size, size, 3), as torch does it: along each row, then along each column."""
    for axis in (1, 0):
        if pixels.shape[axis] != size:
            matrix, precision = weights(pixels.shape[axis], size, cubic)
            sums = np.tensordot(pixels.astype(np.float64), matrix, (axis, 1)).astype(np.int64)  # exact: whole numbers
            pixels = np.clip((sums + (1 << precision >> 1)) >> precision, 0, 255).astype(np.uint8)
            pixels = np.moveaxis(pixels, -1, axis)
    return pixels


def prepared(path: str, size: int, fit: str, crop: float, interpolation: str) -> np.ndarray:
    """An image file as the graph takes it: RGB, upright, the middle of its central square, resized."""
    pixels = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
    if fit == "crop":
        height, width = pixels.shape[:2]
        side = max(1, round(min(height, width) * crop))
        top, left = (height - side) // 2, (width - side) // 2
        pixels = pixels[top : top + side, left : left + side]
    return resized(pixels, size, interpolation == "bicubic")


session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
how = json.loads(session.get_modelmeta().custom_metadata_map["hashfaiss.preprocessing"])
how = {name: how[name] for name in ("size", "fit", "crop", "interpolation")}
images = np.stack([prepared(path, **how) for path in sys.argv[2:]])
codes, outputs = session.run(["codes", "outputs"], {"images": images})
for path, code in zip(sys.argv[2:], codes, strict=True):
    print(f"{path}: {code.tobytes().hex()}")
