"""The bytes of a built index: arrays beside FAISS's own format, behind a header that says where each lies."""

from __future__ import annotations

import json

import numpy as np
import numpy.typing as npt

from hashfaiss.errors import CorruptIndexError
from hashfaiss.indexes.kind import Arrays

Bytes = npt.NDArray[np.uint8]

MAGIC = b"hfindex1"
ALIGN = 64


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
            dtype, count = np.dtype(kind), int(np.prod(shape, dtype=np.int64))
            if dtype.hasobject or count < 0:
                raise ValueError
            at += -at % ALIGN
            arrays[name] = np.frombuffer(data.data, dtype, count, at).reshape(shape)
            at += dtype.itemsize * count
        if at != len(data):
            raise ValueError
    except (ValueError, TypeError, KeyError, IndexError):
        raise CorruptIndexError("the index file is not one of hashfaiss: delete it, it is rebuilt") from None
    return arrays
