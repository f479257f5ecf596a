"""CIFAR-10 as published for Python: pickled batches, written out once as PNG files in class folders.

A pickle is a program, and the file is a stranger's: it may name five functions only, each of which is played by a
harmless class of this module, so that neither numpy nor anything else is called on its behalf.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from PIL import Image

from hashfaiss.errors import LabelError, TrainingError
from hashfaiss.images.finding import find_images

FOLDER = "cifar-10-batches-py"
META = "batches.meta"
TRAIN_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
BATCHES = {"train": TRAIN_BATCHES, "test": ("test_batch",)}
MAX_FILE_BYTES = 1 << 26  # twice a published batch
SIDE = 32


def extract_cifar10(batches: Path, cache: Path) -> Path:
    """Write the images of `batches` below `cache`, once, and return the folder: train/<class>/ and test/<class>/.

    A file is named by its place in its part, `train/frog/00000.png`. The folder is named by the batches' sha256 and
    appears whole, under its name, or not at all; one that has lost images since is made again.

    Raises:
        LabelError: a batch is missing or is not one.
        TrainingError: the images cannot be written.
    """
    files = {name: _read(batches, name) for name in (META, *TRAIN_BATCHES, *BATCHES["test"])}
    digest = hashlib.sha256(b"".join(hashlib.sha256(data).digest() for data in files.values())).hexdigest()
    target = cache / f"cifar10-{digest[:16]}"
    names = _class_names(files[META])
    parts = {part: [_images(name, files[name], names) for name in of] for part, of in BATCHES.items()}
    count = sum(len(labels) for batches_of in parts.values() for _, labels in batches_of)
    aside = cache / f".{target.name}.tmp"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / ".cifar10.lock"):
            if _whole(target) == count:
                return target
            for old in (aside, target):  # left by a run that was killed, or no longer whole
                if old.exists():
                    shutil.rmtree(old)
            try:
                for part, contents in parts.items():
                    _write(aside / part, contents, names)
                aside.rename(target)
            except BaseException:
                shutil.rmtree(aside, ignore_errors=True)
                raise
    except OSError as error:
        raise TrainingError(f"cannot write CIFAR-10's images below {str(cache)!r}: {error.strerror or error}") from None
    return target


def _whole(folder: Path) -> int:
    """How many images that are not empty lie below: after a power cut files may be there without their content."""
    return sum(file.size > 0 for file in find_images(folder)) if folder.is_dir() else 0


def _write(folder: Path, contents: list[tuple[np.ndarray, list[int]]], names: list[str]) -> None:
    for name in names:
        (folder / name).mkdir(parents=True, exist_ok=True)
    place = 0
    for pixels, labels in contents:
        for image, label in zip(pixels, labels, strict=True):
            picture = Image.fromarray(np.ascontiguousarray(image.reshape(3, SIDE, SIDE).transpose(1, 2, 0)))
            picture.save(folder / names[label] / f"{place:05}.png", compress_level=1)
            place += 1


def _read(batches: Path, name: str) -> bytes:
    file = batches / name
    if not file.is_file():
        raise LabelError(
            f"{str(batches)!r} has no {name!r}: CIFAR-10's Python version is {META}, data_batch_1 to 5 and test_batch"
        )
    try:
        size = os.stat(file).st_size
        if size > MAX_FILE_BYTES:
            raise LabelError(f"{str(file)!r} has {size:,} bytes, more than any of CIFAR-10: give the published file")
        return file.read_bytes()
    except OSError as error:
        raise LabelError(f"cannot read {str(file)!r}: {error.strerror}") from None


def _class_names(data: bytes) -> list[str]:
    names = _load(META, data).get("label_names")
    if not isinstance(names, list) or not all(isinstance(name, str) and re.fullmatch(r"\w+", name) for name in names):
        raise LabelError(f"{META!r} of CIFAR-10 gives no plain names of classes: give the published file")
    return names


def _images(name: str, data: bytes, names: list[str]) -> tuple[np.ndarray, list[int]]:
    """Pixels (n, 3072) uint8, red, green, then blue, and n places in `names`."""
    batch = _load(name, data)
    array, labels = batch.get("data"), batch.get("labels")
    pixels = array.uint8() if isinstance(array, _Array) else None
    if not isinstance(labels, list) or not all(type(label) is int and 0 <= label < len(names) for label in labels):
        labels = []
    if pixels is None or not labels or pixels.shape != (len(labels), 3 * SIDE * SIDE):
        raise LabelError(f"{name!r} of CIFAR-10 holds no images of {SIDE} x {SIDE} pixels with a label each")
    return pixels, labels


def _load(name: str, data: bytes) -> dict[Any, Any]:
    try:
        # latin1: the files were written by Python 2, whose text and bytes are one
        loaded = _Unpickler(io.BytesIO(data), encoding="latin1").load()
    except Exception as error:  # unpicklers raise anything on hostile bytes
        raise LabelError(f"{name!r} cannot be read as a file of CIFAR-10: {str(error)[:200]}") from None
    if type(loaded) is not dict:
        raise LabelError(f"{name!r} is no file of CIFAR-10: it holds no dictionary")
    return loaded


class _Stand:
    """Plays what a pickle names; takes whatever it is called with."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Type(_Stand):
    """numpy.dtype."""


class _Array(_Stand):
    """numpy.ndarray, and numpy's function that makes an empty one."""

    def uint8(self) -> np.ndarray | None:
        """The array, or None where it is not one of two dimensions of bytes."""
        if not isinstance(self.state, tuple) or len(self.state) != 5:
            return None
        _, shape, kind, by_column, raw = self.state
        if isinstance(raw, str):
            raw = raw.encode("latin1", "ignore")
        plain = isinstance(shape, tuple) and len(shape) == 2 and all(type(side) is int and side >= 0 for side in shape)
        if not (plain and isinstance(raw, bytes) and isinstance(kind, _Type) and kind.arguments[:1] == ("u1",)):
            return None
        if len(raw) != shape[0] * shape[1]:
            return None
        return np.frombuffer(raw, np.uint8).reshape(shape, order="F" if by_column else "C")


class _Bytes(_Stand):
    """_codecs.encode, by which Python 3 writes bytes for Python 2."""

    def __new__(cls, text: str, encoding: str) -> Any:
        if encoding not in ("latin1", "latin-1"):
            raise pickle.UnpicklingError(f"text in {encoding!r}")
        return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], type[_Stand]] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("_codecs", "encode"): _Bytes,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type[_Stand]:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no image needs")
        return _ALLOWED[module, name]
