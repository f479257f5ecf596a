"""Read and decode images.

An image in memory is uint8 (3, height, width), RGB, upright, first frame, transparency laid over white: a tensor, or an
array where torch is not imported. Files are hostile: whatever is wrong with one becomes an ImageError with the reason,
never a crash or a hang.
"""

from __future__ import annotations

import io
import os
import stat
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from hashfaiss.errors import ArgumentError, ImageError
from hashfaiss.images.colours import (
    bands,
    eight_bits,
    foreign_profile,
    grey_of_words,
    over_white,
    standard_colours,
)
from hashfaiss.images.deep_tiff import is_deep, is_negative, read_deep
from hashfaiss.images.large import Admission, webp_size
from hashfaiss.images.raw import refuse_raw
from hashfaiss.images.sniffing import AVIF_BRANDS, ISO_BRANDS, RAW, brands

if TYPE_CHECKING:
    from torch import Tensor

Pixels = npt.NDArray[np.uint8]  # (3, height, width)

MAX_FILE_BYTES = 1 << 29
MAX_PIXELS = 178_956_970  # where Pillow refuses too, which lets nobody say otherwise for one image
REDUCTION = 4  # of a JPEG's sides, at least: to half, Pillow takes as long as torchcodec does for all
ORIENTATION = 274
MEGAPIXELS = "HASHFAISS_MAX_MEGAPIXELS"  # read anew for each image: processes that encode are given it, too

# What Pillow may open. It knows more formats, and starts another program (Ghostscript) for one of them.
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "DIB", "TIFF", "AVIF", "JPEG2000", "PPM", "TGA", "PCX")

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
            if name.lower().endswith(tuple(RAW)):  # large, and read in vain
                refuse_raw(file, name)
                file.seek(0)
            return file.read()
    except (OSError, ValueError) as error:
        raise ImageError(name, _file_trouble(error)) from None


def _file_trouble(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    return str(getattr(error, "strerror", None) or error)


def read_image(path: str | os.PathLike[str], least: int | None = None) -> Tensor:
    """Read and decode one image file: uint8 (3, height, width); `least` as in `decode_image`.

    Raises:
        ImageError: missing, empty, truncated, not an image, too large, or of a kind that has no 8-bit colours.
    """
    return decode_image(read_bytes(path), os.fspath(path), least)


def decode_image(data: bytes, path: str | None = None, least: int | None = None, note: Path | None = None) -> Tensor:
    """Decode the bytes of one image file (`path` names it in errors): uint8 (3, height, width).

    Args:
        least: decode a JPEG file at 1/4 or 1/8 of its size (libjpeg's scaled inverse DCT) if its sides have this many
            pixels there, the smaller if both do.
        note: see `hashfaiss.images.large.Admission`.
    """
    import torch

    return torch.from_numpy(_decoded(data, path, least, _torchcodec, note))


def decode_alone(data: bytes, path: str | None = None, least: int | None = None) -> Pixels:
    """As `decode_image`, by Pillow alone, without importing torch: the same pixels, in more time.

    Raises:
        ImageError: also for a PNG file of 16 bits a channel, of which Pillow keeps 8.
    """
    return _decoded(data, path, least, _pillow)


def _decoded(data: bytes, path: str | None, least: int | None, codec: Codec, note: Path | None = None) -> Pixels:
    if not data:
        raise ImageError(path, "empty file")
    most = max_pixels()
    try:
        refuse_raw(io.BytesIO(data), path)
        with Admission(path, len(data), most, _ADVICE, note) as admission:
            return _decode(data, admission, most, least, codec)
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


def max_pixels() -> int:
    """Pixels that an image may have: HASHFAISS_MAX_MEGAPIXELS million, or 178,956,970.

    Raises:
        ArgumentError: that is no whole number above 0.
    """
    asked = os.environ.get(MEGAPIXELS)
    if not asked:
        return MAX_PIXELS
    if not asked.isdecimal() or not 0 < int(asked) <= 10_000:
        raise ArgumentError(f"the most megapixels of an image are {asked!r}: give a whole number from 1 to 10,000")
    most = int(asked) * 1_000_000
    if Image.MAX_IMAGE_PIXELS is not None and most > 2 * Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = most // 2  # Pillow refuses from twice this on
    return most


def open_image(source: str | BinaryIO) -> Image.Image:
    """Open an image of a known format with Pillow, which reads its header; ImageError for the path of a raw one."""
    if isinstance(source, str):
        with open(source, "rb") as file:
            refuse_raw(file, source)
    return Image.open(source, formats=FORMATS)


def _decode(data: bytes, admission: Admission, most: int, least: int | None, codec: Codec) -> Pixels:
    if data[:2] == b"\xff\x0a" or data[4:12] == b"JXL \r\n\x87\n":
        raise ImageError(None, "JPEG XL, which is not read here: convert it to JPEG or PNG")
    named = brands(data[:256])
    if named & ISO_BRANDS and not named & AVIF_BRANDS:
        return _pixels_of(_heic(data, admission))
    if (size := webp_size(data)) is not None:
        admission.admit(*size)
    try:
        image = open_image(io.BytesIO(data))
    except Image.DecompressionBombError:
        raise ImageError(None, f"claims more than {most:,} pixels{_ADVICE}") from None
    if size is None:
        admission.admit(*image.size)
    if least is not None and image.format in ("JPEG", "MPO") and min(image.size) >= REDUCTION * least:
        image.draft(None, (least, least))
        return _pixels_of(image)
    wide = image.format == "PNG" and data[24] == 16 and image.mode != "I;16"
    if wide:  # Pillow reads the upper 8 bits alone
        return _in_colours_of(image, eight_bits(codec(data, True).astype(np.uint16, copy=False)))
    if is_deep(image):
        return _in_colours_of(image, eight_bits(read_deep(data, open_image)))
    if foreign_profile(image) is None:
        plain_jpeg = image.format in ("JPEG", "MPO") and image.mode in ("L", "RGB")
        plain_png = image.format == "PNG" and image.mode in ("L", "RGB") and "transparency" not in image.info
        if plain_jpeg or (plain_png and not getattr(image, "is_animated", False)):
            return codec(data, False).astype(np.uint8, copy=False)
    return _pixels_of(image)


def _in_colours_of(image: Image.Image, pixels: Pixels) -> Pixels:
    """Pixels (3, height, width) in the colours of sRGB by the profile of the image they are of."""
    sample = Image.new("RGB", (1, 1))
    sample.info["icc_profile"] = image.info.get("icc_profile")
    if foreign_profile(sample) is None:
        return pixels
    made = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    made.info = sample.info
    return _pixels_of(made)


_ADVICE = f" (--max-megapixels or {MEGAPIXELS} allows more)"


def _heic(data: bytes, admission: Admission) -> Image.Image:
    """The primary picture of a HEIC file, upright."""
    try:
        import pillow_heif
    except ImportError:
        raise ImageError(None, "HEIC, for which pillow-heif (libheif) is missing: pip install pillow-heif") from None
    file = pillow_heif.open_heif(io.BytesIO(data))
    picture = file[file.primary_index]
    admission.admit(*picture.size)
    image: Image.Image = picture.to_pillow()
    for name in ("exif", "xmp"):  # libheif has turned it already
        image.info.pop(name, None)
    return image


# Decodes JPEG and PNG files that need nothing else: their bytes, and whether values are 16 bits with alpha: (4, h, w).
Codec = Callable[[bytes, bool], npt.NDArray[np.integer]]


def _torchcodec(data: bytes, wide: bool) -> npt.NDArray[np.integer]:
    import torch
    from torchcodec.decoders import decode_image

    mode, dtype = ("RGB_ALPHA", torch.uint16) if wide else ("RGB", torch.uint8)
    decoded: Tensor = decode_image(data, mode=mode, output_dtype=dtype)
    pixels: npt.NDArray[np.integer] = (decoded[0] if decoded.dim() == 4 else decoded).numpy()
    return pixels


def _pillow(data: bytes, wide: bool) -> npt.NDArray[np.integer]:
    if wide:
        raise ImageError(None, "16 bits a channel, of which Pillow keeps 8")
    return _pixels_of(open_image(io.BytesIO(data)))


def from_pillow(image: Image.Image) -> Tensor:
    """A Pillow image as uint8 (3, height, width): first frame, upright, sRGB, 16 bits scaled to 8, alpha over white.

    Raises:
        ImageError: its file is damaged or closed, it has no pixels, or its values are no colours.
    """
    import torch

    return torch.from_numpy(_pixels_of(image))


def _pixels_of(image: Image.Image) -> Pixels:
    negative = is_negative(image)
    try:
        image.seek(0)
        image.load()
        if image.getexif().get(ORIENTATION, 1) != 1:
            image = ImageOps.exif_transpose(image)
    except Exception as error:  # as in decode_image
        raise ImageError(None, f"damaged: {_one_line(error)}") from None
    if 0 in image.size:
        raise ImageError(None, f"{image.width} x {image.height} pixels")
    if image.mode.startswith("I"):
        grey = grey_of_words(np.asarray(image), image.info.get("transparency"))
        return np.subtract(255, grey, out=grey) if negative else grey
    if image.mode == "F":
        raise ImageError(None, "floating-point values, which are no colours")
    pixels: Pixels = np.empty((3, image.height, image.width), np.uint8)
    for rows in bands(image.height, image.width):
        band = image if rows.stop - rows.start == image.height else image.crop((0, rows.start, image.width, rows.stop))
        pixels[:, rows] = np.asarray(over_white(standard_colours(band))).transpose(2, 0, 1)
    return pixels


def from_tensor(batch: Tensor) -> Tensor:
    """Check a batch of images (n, 3, height, width): uint8 0..255, or floats 0..1, which become uint8 on the CPU.

    Images are resized on the CPU: torch has no antialiasing of uint8 elsewhere.
    """
    import torch

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
