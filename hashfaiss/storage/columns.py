"""What the columns of a segment are, and a look at them before HDF5 reads one.

A file that a stranger made can name other files, hold a terabyte of fill in no byte, or pointers in place of text. Its
digest says nothing of that, for whoever made the file made the digest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np

from hashfaiss.codes import code_bytes
from hashfaiss.files import DIGEST_BYTES

# name: type, further axes, how many rows, may be missing
NUMBERS: dict[str, tuple[type[Any], tuple[int, ...], str, bool]] = {
    "ids": (np.int64, (), "images", False),
    "path": (np.uint8, (), "bytes of paths", False),
    "path_end": (np.int64, (), "images", False),
    "path_key": (np.uint64, (2,), "paths", True),
    "path_row": (np.int32, (), "paths", True),
    "size": (np.int64, (), "images", False),
    "mtime_ns": (np.int64, (), "images", False),
    "ctime_ns": (np.int64, (), "images", True),
    "inode": (np.int64, (), "images", True),
    "digest": (np.uint8, (DIGEST_BYTES,), "images", False),
    "label": (np.int32, (), "labels", False),
    "label_end": (np.int64, (), "images", False),
    "label_name": (np.uint8, (), "bytes of names", False),
    "label_name_end": (np.int64, (), "names", False),
    "removed": (np.int64, (), "removals", False),
}
FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_FLETCHER32}
DENSEST = 1100  # times that deflate makes smaller what is all the same


def check_columns(file: h5py.File, bits: int) -> None:
    """ValueError or KeyError unless all columns are there, of their types and lengths, and hold what they say."""
    rows: dict[str, int] = {}
    columns: Mapping[str, tuple[type[Any], tuple[int, ...], str, bool]] = {
        "codes": (np.uint8, (code_bytes(bits),), "images", False),
        **NUMBERS,
    }
    for name, (kind, further, what, optional) in columns.items():
        link = file.get(name, getlink=True)
        if link is None and optional:
            continue
        column = file[name] if isinstance(link, h5py.HardLink) else None
        if not isinstance(column, h5py.Dataset):
            raise ValueError(f"{name} is no column of its own")
        if column.dtype != kind or column.ndim != 1 + len(further) or column.shape[1:] != further:
            raise ValueError(f"{name} is {column.dtype} {column.shape}")
        if rows.setdefault(what, len(column)) != len(column):
            raise ValueError(f"{name} has {len(column)} rows for {rows[what]} {what}")
        _check_stored(name, column)


def _check_stored(name: str, column: h5py.Dataset) -> None:
    """ValueError unless a column lies in this file, as many bytes as it says."""
    made = column.id.get_create_plist()
    filters = {made.get_filter(number)[0] for number in range(made.get_nfilters())}
    if column.external or column.is_virtual or filters - FILTERS:
        raise ValueError(f"{name} lies elsewhere, or needs a filter that is not ours")
    room = column.id.get_storage_size() * (DENSEST if h5py.h5z.FILTER_DEFLATE in filters else 1)
    if column.nbytes > room:
        raise ValueError(f"{name} says {column.nbytes} bytes, and {column.id.get_storage_size()} are stored")
