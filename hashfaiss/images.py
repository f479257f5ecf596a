"""Find, read and decode images; preprocessing as data.

An image in memory is a uint8 tensor (3, height, width), RGB, upright, first frame, transparency laid over white.
Files are hostile: whatever is wrong with one becomes an ImageError with the reason, never a crash or a hang.
"""

from __future__ import annotations

import io
import os
import stat
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch.nn.functional import interpolate

from hashfaiss.errors import ArgumentError, ImageError, ModelError

if TYPE_CHECKING:
    from torch import Tensor

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif"}
)
MAX_FILE_BYTES = 1 << 29
MAX_PIXELS = 178_956_970  # where Pillow refuses too
MAX_SIZE = 4096
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CROP_SHARE = 224 / 256  # the papers' evaluation crop: resize to 256, keep the central 224

# The limit above is our own, and Pillow's warnings name no file: noise, where an ImageError tells what matters.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

Fit = Literal["crop", "stretch"]


@dataclass(frozen=True, slots=True)
class ImageFile:
    """A file that by its name is an image: absolute path, size in bytes, modification time in ns."""

    path: str
    size: int
    mtime_ns: int


def image_file(path: str) -> ImageFile:
    """Describe `path`; a file that is not there gets size and time 0, so that reading it tells why."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return ImageFile(path, 0, 0)
    return ImageFile(path, status.st_size, status.st_mtime_ns)


def find_images(
    folder: str | os.PathLike[str], on_skip: Callable[[str, str], None] | None = None
) -> Iterator[ImageFile]:
    """Yield the image files below `folder`, sorted by name, each folder's own before those of its folders.

    Hidden names and names without an image suffix are passed over. Linked folders are followed, but never into
    themselves. A folder that cannot be listed is told to `on_skip(path, reason)`.

    Raises:
        ArgumentError: `folder` is not a folder.
    """
    root = os.path.abspath(os.fspath(folder))  # links are kept as they are named
    if not os.path.isdir(root):
        what = "is a file" if os.path.exists(root) else "does not exist"
        raise ArgumentError(f"{os.fspath(folder)!r} {what}: give a folder of images")
    return _walk(root, on_skip)


def _walk(root: str, on_skip: Callable[[str, str], None] | None) -> Iterator[ImageFile]:
    waiting: list[tuple[str, frozenset[tuple[int, int]]]] = [(root, frozenset())]
    while waiting:
        folder, above = waiting.pop()
        try:
            status = os.stat(folder)
            names: list[str] = []  # of many files, the names alone are kept
            folders: list[str] = []
            with os.scandir(folder) as listing:
                for entry in listing:
                    if entry.name.startswith("."):
                        continue
                    if _is_folder(entry):
                        folders.append(entry.name)
                    elif os.path.splitext(entry.name)[1].lower() in SUFFIXES:
                        names.append(entry.name)
        except OSError as error:
            if on_skip:
                on_skip(folder, f"folder cannot be listed: {error.strerror}")
            continue
        here = (status.st_dev, status.st_ino)
        if here in above:
            continue
        within = above | {here}
        waiting += [(os.path.join(folder, name), within) for name in sorted(folders, reverse=True)]
        names.sort()
        for name in names:
            yield image_file(os.path.join(folder, name))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()  # looks at the file only where it is a link
    except OSError:  # a link to itself
        return False


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


@dataclass(frozen=True)
class Preprocessing:
    """From a decoded image to what the network sees, as data that travels in the model file.

    Attributes:
        size: side in pixels of the square the network sees.
        fit: "crop" keeps the aspect ratio: of the central square, the middle 224/256 (ImageNet's usual evaluation
            crop); "stretch" scales the whole image to the square (the papers' way on CIFAR-10).
        mean, std: subtracted from and divided into RGB values from 0 to 1.
    """

    size: int = 224
    fit: Fit = "crop"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        if isinstance(self.size, bool) or not isinstance(self.size, int) or not 8 <= self.size <= MAX_SIZE:
            raise ArgumentError(f"input size is {self.size!r}: give a whole number of pixels from 8 to {MAX_SIZE}")
        if self.fit not in ("crop", "stretch"):
            raise ArgumentError(f"fit is {self.fit!r}: give 'crop' or 'stretch'")

    def resize(self, image: Tensor, margin: bool = False) -> Tensor:
        """Scale one image, uint8 (3, h, w), to (3, size, size), antialiased.

        With `margin`, keep what a random crop needs: the side is `margin_size`, and nothing is cut off the central
        square. The crop is taken before scaling, so that no long thin image can ask for much memory.
        """
        if self.fit == "crop":
            height, width = image.shape[-2:]
            side = min(height, width)
            if not margin:
                side = max(1, round(side * CROP_SHARE))
            top, left = (height - side) // 2, (width - side) // 2
            image = image[..., top : top + side, left : left + side]
        side = self.margin_size if margin else self.size
        if image.shape[-2:] == (side, side):
            return image.contiguous()
        return interpolate(image[None], size=(side, side), mode="bilinear", antialias=True)[0]

    @property
    def margin_size(self) -> int:
        """Side of the image a random crop of `size` is taken from: size * 256 / 224."""
        return round(self.size / CROP_SHARE)

    def normalise(self, batch: Tensor) -> Tensor:
        """uint8 (n, 3, size, size) → float32 of the same shape, on the same device."""
        mean = torch.tensor(self.mean, device=batch.device).view(1, 3, 1, 1)
        std = torch.tensor(self.std, device=batch.device).view(1, 3, 1, 1)
        return batch.to(torch.float32, copy=True).div_(255).sub_(mean).div_(std)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the model file."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Any) -> Preprocessing:
        """The reverse of `to_dict`; ModelError when the values are not such a description."""
        try:
            mean, std = (tuple(float(v) for v in values[name]) for name in ("mean", "std"))
            if len(mean) != 3 or len(std) != 3 or not np.isfinite(mean + std).all() or min(std) <= 0:
                raise ValueError("mean and std need three finite values each, and std positive ones")
            return cls(values["size"], values["fit"], mean, std)
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise ModelError(f"the model file's preprocessing cannot be used ({error}): take another file") from None
