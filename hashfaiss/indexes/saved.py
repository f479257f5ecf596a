"""The bytes of a built index: arrays beside FAISS's own format, behind a header that says where each lies."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hashfaiss.errors import CorruptIndexError, HashfaissError
from hashfaiss.files import fast_digest, write_atomic
from hashfaiss.indexes.kind import Arrays, Int64, ranges

Bytes = npt.NDArray[np.uint8]

MAGIC = b"hfindex1"
TYPES = ("|u1", "|b1", "<i2", "<i4", "<i8", "<u8", "<f8")
ALIGN = 64
FILE_MAGIC = b"hfcodes2"  # then the digest, zeros up to ALIGN, and what `join_arrays` made


def join_arrays(arrays: Arrays) -> bytes:
    """One run of bytes that `split_arrays` takes apart again."""
    about = [(name, array.dtype.str, list(array.shape)) for name, array in arrays.items()]
    header = json.dumps(about).encode()
    parts = [MAGIC, len(header).to_bytes(8, "little"), header]
    at = sum(map(len, parts))
    for array in arrays.values():
        data = np.ascontiguousarray(array).tobytes()
        parts += [b"\0" * (-at % ALIGN), data]
        at += -at % ALIGN + len(data)
    return b"".join(parts)


def split_arrays(data: Bytes) -> dict[str, npt.NDArray[np.generic]]:
    """The arrays of bytes (n,), without copying them.

    Raises:
        CorruptIndexError: these are not bytes of `join_arrays`.
    """
    try:
        if data[: len(MAGIC)].tobytes() != MAGIC:
            raise ValueError
        size = int.from_bytes(data[8:16].tobytes(), "little")
        about = json.loads(data[16 : 16 + size].tobytes())
        arrays, at = {}, 16 + size
        for name, kind, shape in about:
            if kind not in TYPES or not all(isinstance(length, int) and length >= 0 for length in shape):
                raise ValueError
            dtype, count = np.dtype(kind), math.prod(shape)
            at += -at % ALIGN
            arrays[name] = np.frombuffer(data.data, dtype, count, at).reshape(shape)
            at += dtype.itemsize * count
        if at != len(data):
            raise ValueError
    except (ValueError, TypeError, KeyError, IndexError, OverflowError, RecursionError):
        raise CorruptIndexError("the index file is not one of hashfaiss: delete it, it is rebuilt") from None
    return arrays


def packed_ids(ids: Int64) -> Int64:
    """Ascending ids as runs (2, runs): where each begins, and how many follow one another."""
    if len(ids) and ids[-1] - ids[0] == len(ids) - 1:  # one run, as they mostly are: nothing is compared
        return np.array([[ids[0]], [len(ids)]], np.int64)
    begins = np.flatnonzero(np.concatenate([np.ones(min(1, len(ids)), np.bool_), np.diff(ids) != 1]))
    return np.array([ids[begins], np.diff(np.append(begins, len(ids)))], np.int64)


def unpacked_ids(runs: npt.NDArray[np.generic], most: int = 1 << 48) -> Int64:
    """The ids of `packed_ids`; ValueError if these are no runs, or of more than `most` ids."""
    begins, lengths = runs.astype(np.int64, copy=False).reshape(2, -1)
    if (lengths < 0).any() or sum(lengths.tolist()) > most:
        raise ValueError("runs")
    if len(begins) == 1:  # a tenth of the time
        return np.arange(begins[0], begins[0] + lengths[0])
    return ranges(begins, lengths)


def write_file(path: str | os.PathLike[str], about: dict[str, Any], arrays: Arrays) -> None:
    """Write arrays and plain values as one file, whole or not at all; HashfaissError if it cannot be."""
    words = np.frombuffer(json.dumps(about).encode(), np.uint8)
    data = join_arrays({"about": words, **arrays})
    head = FILE_MAGIC + bytes.fromhex(fast_digest(data))
    try:
        write_atomic(Path(path), head.ljust(ALIGN, b"\0") + data)
    except OSError as error:
        raise HashfaissError(f"cannot write {os.fspath(path)!r}: {error.strerror or error}") from None


def read_file(path: str | os.PathLike[str]) -> tuple[dict[str, Any], Arrays]:
    """What `write_file` wrote.

    Raises:
        HashfaissError: there is no such file, or it is something else.
        CorruptIndexError: a byte was altered.
    """
    name = os.fspath(path)
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        if os.path.isdir(path):
            raise HashfaissError(f"{name!r} is a folder: open an index of images with ImageIndex.open") from None
        raise HashfaissError(f"cannot read {name!r}: {error.strerror or error}") from None
    if data[:8].tobytes() != FILE_MAGIC:
        known = data[:2].tobytes() == b"IB"
        fix = "read FAISS's own with CodeIndex.of" if known else "give one that CodeIndex.save wrote"
        raise HashfaissError(f"{name!r} is no file of codes: {fix}")
    if fast_digest(data[ALIGN:].data) != data[8:24].tobytes().hex() or data[24:ALIGN].any():
        raise CorruptIndexError(f"{name!r} is damaged: restore it from a copy")
    try:
        arrays = split_arrays(data[ALIGN:])
        about = json.loads(arrays.pop("about").tobytes())
        if not isinstance(about, dict):
            raise ValueError
    except (CorruptIndexError, KeyError, ValueError):
        raise CorruptIndexError(f"{name!r} is damaged: restore it from a copy") from None
    return about, arrays
