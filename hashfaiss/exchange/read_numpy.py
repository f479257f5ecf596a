"""Codes in NumPy's files: an .npy of codes alone, or an .npz with the arrays that `npz` writes, or plainer ones.

Headers are read, and sizes compared with the file's, before anything is allocated. Objects are never loaded.
"""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from hashfaiss.exchange.source import ROWS, Found, Part, label_names, metadata
from hashfaiss.storage.segments import Labels

LONGEST = 1 << 15  # bytes of a text
MOST_LABELS = 1 << 10  # of a row


class _Array:
    """An array in a file, read row by row in order."""

    def __init__(self, file: IO[bytes], size: int, name: str) -> None:
        version = np.lib.format.read_magic(file)
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in readers:
            raise ValueError(f"{name} is of NumPy's format {version}: save plain numbers or texts")
        self.shape, columns_first, self.dtype = readers[version](file)
        self.name, self._file = name, file
        if self.dtype.kind not in "buiUS" or self.dtype.itemsize > LONGEST:
            raise ValueError(f"{name} is an array of {self.dtype}: save plain numbers or texts")
        if columns_first and len(self.shape) > 1:
            raise ValueError(f"{name} lies column by column: save numpy.ascontiguousarray of it")
        self._row = int(np.prod(self.shape[1:], dtype=object)) * self.dtype.itemsize
        length = self.shape[0] if self.shape else 1
        if min(self.shape, default=0) < 0 or file.tell() + length * self._row != size:
            raise ValueError(f"{name} is not of the size that its header says")

    def __len__(self) -> int:
        return int(self.shape[0]) if self.shape else 1

    def read(self, rows: int) -> npt.NDArray[Any]:
        """The next rows; ValueError where there are fewer."""
        data = self._file.read(rows * self._row)
        if len(data) != rows * self._row:
            raise ValueError(f"{self.name} is cut off")
        return np.frombuffer(data, self.dtype).reshape(rows, *self.shape[1:])


class _Texts:
    """Texts of which all bytes lie in one array and their ends in another, or an array of texts or numbers."""

    def __init__(self, values: _Array, ends: _Array | None) -> None:
        if ends is not None and (values.dtype != np.uint8 or ends.dtype.kind not in "iu"):
            raise ValueError(f"{values.name} are {values.dtype}: with ends, give bytes as uint8")
        if len(values.shape) != 1 or (ends is not None and len(ends.shape) != 1):
            raise ValueError(f"{values.name} have shape {values.shape}: give one for each row")
        self._values, self._ends, self._at = values, ends, 0

    def __len__(self) -> int:
        return len(self._values if self._ends is None else self._ends)

    def read(self, rows: int) -> list[Any]:
        """The next ones."""
        if self._ends is None:
            return [value.decode() if isinstance(value, bytes) else value for value in self._values.read(rows).tolist()]
        lengths = _lengths(self._ends, self._at, rows, LONGEST)
        self._at += sum(lengths)
        text, ends = self._values.read(sum(lengths)).tobytes(), np.cumsum([0, *lengths]).tolist()
        return [text[a:b].decode() for a, b in pairwise(ends)]


def _lengths(ends: _Array, at: int, rows: int, most: int) -> list[int]:
    """How many each of the next rows has, where `at` came before; ValueError for what cannot be."""
    found: list[int] = np.diff(ends.read(rows).astype(np.int64), prepend=at).tolist()
    if min(found, default=0) < 0 or max(found, default=0) > most:
        raise ValueError(f"{ends.name} do not ascend, by at most {most:,}")
    return found


def read_npy(path: Path, stack: contextlib.ExitStack) -> Found:
    """Codes alone."""
    codes = _codes(_Array(stack.enter_context(path.open("rb")), path.stat().st_size, "the array"))
    return Found(codes.shape[1], len(codes), {}, _parts({"codes": codes}))


def read_npz(path: Path, stack: contextlib.ExitStack) -> Found:
    """Codes, and ids, paths and labels where there are such."""
    archive = stack.enter_context(zipfile.ZipFile(path))
    wanted = ("codes", "ids", "paths", "paths_end", "labels", "labels_end", "labels_of", "about")
    held = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    if len(held) != len(archive.infolist()):
        raise ValueError("it has several arrays of one name")
    if "codes" not in held:
        raise ValueError(f"it has no array codes, but {', '.join(held)[:80]}: name that of the codes so")
    arrays = {
        name: _Array(stack.enter_context(archive.open(held[name])), held[name].file_size, name)
        for name in wanted
        if name in held
    }
    about = arrays.pop("about", None)
    codes = _codes(arrays["codes"])
    for name in ("ids", "paths_end" if "paths_end" in arrays else "paths", "labels_of"):
        if name in arrays and len(arrays[name]) != len(codes):
            raise ValueError(f"{name} are {len(arrays[name]):,}, and there are {len(codes):,} codes")
    said = {} if about is None else metadata(str(about.read(1)[()].item() if not about.shape else ""))
    return Found(codes.shape[1], len(codes), said, _parts(arrays))


def _codes(codes: _Array) -> _Array:
    if codes.dtype != np.uint8 or len(codes.shape) != 2:
        raise ValueError(
            f"{codes.name} is {codes.dtype} of shape {codes.shape}: give packed codes, uint8 (n, bytes of a code); "
            "numpy.packbits makes them of bits"
        )
    return codes


def _parts(arrays: dict[str, _Array]) -> Iterator[Part]:
    codes, ids, labels_of = arrays["codes"], arrays.get("ids"), arrays.get("labels_of")
    if ids is not None and (ids.dtype.kind not in "iu" or len(ids.shape) != 1):
        raise ValueError(f"ids are {ids.dtype} of shape {ids.shape}: give a whole number for each code")
    paths, labels = (
        _Texts(arrays[name], arrays.get(f"{name}_end")) if name in arrays else None for name in ("paths", "labels")
    )
    if labels is not None and labels_of is None and len(labels) != len(codes):
        raise ValueError(f"labels are {len(labels):,}, and there are {len(codes):,} codes")
    at = 0
    for start in range(0, len(codes), ROWS):
        rows = min(ROWS, len(codes) - start)
        names: Sequence[Labels] | None = None
        if labels is not None and labels_of is None:
            names = [label_names(label) for label in labels.read(rows)]
        elif labels is not None and labels_of is not None:
            lengths = _lengths(labels_of, at, rows, MOST_LABELS)
            names = [tuple(labels.read(length)) for length in lengths]
            at += sum(lengths)
        yield Part(
            codes.read(rows),
            None if ids is None else _whole(ids.read(rows)),
            None if paths is None else paths.read(rows),
            names,
        )


def _whole(ids: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    if ids.dtype.kind == "u" and len(ids) and ids.max() >= 1 << 63:
        raise ValueError(f"id {ids.max()} is too large")
    return ids.astype(np.int64)
