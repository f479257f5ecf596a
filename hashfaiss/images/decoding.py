"""Read and decode images.

An image in memory is a uint8 tensor (3, height, width), RGB, upright, first frame, transparency laid over white.
Files are hostile: whatever is wrong with one becomes an ImageError with the reason, never a crash or a hang.
"""

from __future__ import annotations

import io
import os
import stat
import warnings
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from hashfaiss.errors import ArgumentError, ImageError

if TYPE_CHECKING:
    from torch import Tensor

MAX_FILE_BYTES = 1 << 29
MAX_PIXELS = 178_956_970  # where Pillow refuses too

# The limit above is our own, and Pillow's warnings name no file: noise, where an ImageError tells what matters.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """The bytes of an image file; ImageError for anything but a regular file of sensible size."""
    name = os.fspath(path)
    try:
        status = os.stat(name)
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(name, "not a regular file")
        if status.st_size > MAX_FILE_BYTES:
            raise ImageError(name, f"{status.st_size:,} bytes, more than {MAX_FILE_BYTES:,}")
        with open(name, "rb") as file:
            return file.read()
    except (OSError, ValueError) as error:
        raise ImageError(name, _file_trouble(error)) from None


def _file_trouble(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    return str(getattr(error, "strerror", None) or error)


def read_image(path: str | os.PathLike[str]) -> Tensor:
    """Read and decode one image file: uint8 (3, height, width).

    Raises:
        ImageError: missing, empty, truncated, not an image, too large, or of a kind that has no 8-bit colours.
    """
    return decode_image(read_bytes(path), os.fspath(path))


def decode_image(data: bytes, path: str | None = None) -> Tensor:
    """Decode the bytes of one image file (`path` names it in errors): uint8 (3, height, width)."""
    if not data:
        raise ImageError(path, "empty file")
    try:
        return _decode(data)
    except UnidentifiedImageError:
        raise ImageError(path, "not an image, or of a format that is not known here") from None
    except MemoryError:
        raise ImageError(path, "too large for the memory at hand") from None
    except ImageError as error:
        raise ImageError(path, error.reason) from None
    except Exception as error:  # decoders raise anything on hostile bytes
        raise ImageError(path, f"damaged: {_one_line(error)}") from None


def _one_line(error: Exception) -> str:
    # torchcodec's messages begin with a place in its source; what follows the last comma is for people.
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return text.rsplit(", ", 1)[-1][:200] if ".cpp" in text else text[:200]


def _decode(data: bytes) -> Tensor:
    if data[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftyphevc"):
        return _torchcodec(data)
    try:
        image = Image.open(io.BytesIO(data))
    except Image.DecompressionBombError:
        raise ImageError(None, f"claims more than {MAX_PIXELS:,} pixels") from None
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(None, f"claims {image.width:,} x {image.height:,} pixels, more than {MAX_PIXELS:,}")
    plain_jpeg = image.format in ("JPEG", "MPO") and image.mode in ("L", "RGB")
    plain_png = image.format == "PNG" and image.mode in ("L", "RGB", "I;16") and "transparency" not in image.info
    if plain_jpeg or (plain_png and not getattr(image, "is_animated", False)):
        return _torchcodec(data)
    return from_pillow(image)


def _torchcodec(data: bytes) -> Tensor:
    from torchcodec.decoders import decode_image

    decoded: Tensor = decode_image(data)
    return decoded[0] if decoded.dim() == 4 else decoded


def from_pillow(image: Image.Image) -> Tensor:
    """A Pillow image as uint8 (3, height, width): first frame, upright, 16 bits scaled to 8, alpha over white.

    Raises:
        ImageError: its file is damaged or closed, it has no pixels, or its values are no colours.
    """
    try:
        image.seek(0)
        image = ImageOps.exif_transpose(image)  # reads the pixels, where they were not yet read
    except Exception as error:  # as in decode_image
        raise ImageError(None, f"damaged: {_one_line(error)}") from None
    if 0 in image.size:
        raise ImageError(None, f"{image.width} x {image.height} pixels")
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min(initial=0) < 0 or values.max(initial=0) > 65535:
            raise ImageError(None, "32-bit values, which are no colours")
        clear = image.info.get("transparency")
        if isinstance(clear, int):
            values[values == clear] = 65535
        image = Image.fromarray((values >> 8).astype(np.uint8))
    elif image.mode == "F":
        raise ImageError(None, "floating-point values, which are no colours")
    if image.has_transparency_data:
        over = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", over.size, "white"), over)
    pixels = np.array(image.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def from_tensor(batch: Tensor) -> Tensor:
    """Check a batch of images (n, 3, height, width): uint8 0..255, or floats 0..1, which become uint8 on the CPU.

    Images are resized on the CPU: torch has no antialiasing of uint8 elsewhere.
    """
    if batch.dim() != 4 or batch.shape[1] != 3 or 0 in batch.shape[2:]:
        raise ArgumentError(f"a tensor of shape {tuple(batch.shape)} was given: give images as (n, 3, height, width)")
    if batch.dtype == torch.uint8:
        return batch.cpu()
    if not batch.is_floating_point():
        raise ArgumentError(f"a tensor of {batch.dtype} was given: give uint8 from 0 to 255, or floats from 0 to 1")
    if batch.numel() and not (batch.min() >= 0 and batch.max() <= 1):
        raise ArgumentError(
            f"a float tensor from {float(batch.min()):.3g} to {float(batch.max()):.3g} was given: give pixels "
            "from 0 to 1, not normalised ones; the encoder normalises them itself"
        )
    return (batch * 255).round().to(torch.uint8).cpu()
