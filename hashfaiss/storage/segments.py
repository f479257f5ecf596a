"""One HDF5 segment: the codes of some images and all that is known of their files.

    codes        uint8 (n, ceil(K/8))      ids      int64 (n,), ascending
    path         bytes of all paths        path_end int64 (n,), where each ends
    size         int64 (n,)                mtime_ns int64 (n,)
    digest       uint8 (n, 16), BLAKE2b of the file's bytes
    label        int32, indices into label_name; label_end int64 (n,)
    removed      int64, ids of earlier segments that this one takes out

Every dataset carries fletcher32, but HDF5's own structures carry nothing, and HDF5 crashes on some damaged ones: a
file's sha256 is checked before HDF5 sees it. Paths are bytes because a file name need not be text. A segment is made
in memory and written in one piece, so that a full disk is an ordinary OSError; it is never changed afterwards.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from hashfaiss.codes import BIT_ORDER, Codes, code_bytes
from hashfaiss.errors import CorruptIndexError, IndexFolderError
from hashfaiss.files import DIGEST_BYTES

Int64 = npt.NDArray[np.int64]
Labels = tuple[str, ...]

FORMAT = "hashfaiss-segment"
VERSION = 1
CHUNK_ROWS = 65536  # by hand: h5py's own guess is 4 times slower to read


@dataclass(frozen=True, slots=True)
class Row:
    """What is known of one image: its file's path ("" for an image from memory), size, time, digest, and labels."""

    path: bytes
    size: int
    mtime_ns: int
    digest: bytes
    labels: Labels


def encode_segment(
    codes: Codes, ids: Int64, rows: Sequence[Row], removed: Int64, bits: int, provenance: dict[str, str]
) -> bytes:
    """The bytes of a segment file."""
    names: dict[str, int] = {}
    label = [names.setdefault(name, len(names)) for row in rows for name in row.labels]
    columns: dict[str, npt.NDArray[Any]] = {
        "codes": codes,
        "ids": ids,
        **_strings("path", [row.path for row in rows]),
        "size": np.array([row.size for row in rows], np.int64),
        "mtime_ns": np.array([row.mtime_ns for row in rows], np.int64),
        "digest": np.frombuffer(b"".join(row.digest for row in rows), np.uint8).reshape(len(rows), DIGEST_BYTES),
        "label": np.array(label, np.int32),
        "label_end": np.cumsum([len(row.labels) for row in rows], dtype=np.int64),
        **_strings("label_name", [name.encode("utf-8", "surrogateescape") for name in names]),
        "removed": removed,
    }
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.attrs.update({"format": FORMAT, "version": VERSION, "bits": bits, "bit_order": BIT_ORDER, **provenance})
        for name, values in columns.items():
            # paths repeat their folders and compress well; codes do not
            options = (
                {"compression": "gzip", "compression_opts": 1} if name in ("path", "path_end", "label_end") else {}
            )
            chunks = (min(len(values), CHUNK_ROWS), *values.shape[1:])
            if values.size:
                file.create_dataset(name, data=values, chunks=chunks, fletcher32=True, **options)
            else:
                file.create_dataset(name, data=values)
    return buffer.getvalue()


def _strings(name: str, values: Sequence[bytes]) -> dict[str, npt.NDArray[Any]]:
    ends = np.cumsum([len(value) for value in values], dtype=np.int64)
    return {name: np.frombuffer(b"".join(values), np.uint8), f"{name}_end": ends}


class Segment:
    """A segment opened for reading, from a file or from its bytes.

    Its columns are read when first asked for. With `sha256`, no byte of the file is used unless all are as written.

    Raises:
        FileNotFoundError: there is no such file.
        CorruptIndexError: not a segment of `bits` bits, or damaged; the message names the file.
    """

    def __init__(self, source: Path | bytes, bits: int, sha256: str | None = None) -> None:
        self.name = str(source) if isinstance(source, Path) else "a segment in memory"
        self.bits = bits
        try:
            if isinstance(source, Path) and sha256 is not None:
                with source.open("rb") as file:
                    if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                        raise ValueError("its bytes are not those that were written")
            # what was written never changes, so the file needs no lock of HDF5's
            opened = source if isinstance(source, Path) else io.BytesIO(source)
            self._file = h5py.File(opened, "r", locking=False) if isinstance(source, Path) else h5py.File(opened, "r")
            about = (self._file.attrs["format"], int(self._file.attrs["version"]), int(self._file.attrs["bits"]))
        except FileNotFoundError:
            raise
        except Exception as error:
            if getattr(error, "errno", None):  # the system's word, which says nothing about the bytes
                raise IndexFolderError(f"cannot open {self.name}: {os.strerror(error.errno)}") from None  # type: ignore[attr-defined]
            raise self._damaged(error) from None
        if about != (FORMAT, VERSION, bits):
            raise CorruptIndexError(f"{self.name} is no segment of {bits}-bit codes (it is {about}): restore it")

    def _damaged(self, error: Exception) -> CorruptIndexError:
        return CorruptIndexError(
            f"{self.name} is damaged ({' '.join(str(error).split())[:120]}): restore it from a copy, or delete the "
            "index folder and build again"
        )

    def _read(self, name: str) -> npt.NDArray[Any]:
        try:
            values: npt.NDArray[Any] = self._file[name][()]
        except Exception as error:  # HDF5 answers damage with many kinds of error
            raise self._damaged(error) from None
        return values

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def ids(self) -> Int64:
        """int64 (n,), ascending."""
        return self._read("ids")

    @property
    def codes(self) -> Codes:
        """uint8 (n, ceil(K/8)); read anew each time."""
        codes: Codes = self._read("codes")
        if codes.shape != (len(self.ids), code_bytes(self.bits)):
            raise self._damaged(ValueError(f"codes of shape {codes.shape} for {len(self.ids)} ids"))
        return codes

    @property
    def removed(self) -> Int64:
        """Ids of earlier segments that are gone since."""
        return self._read("removed")

    @cached_property
    def _path(self) -> bytes:
        return self._read("path").tobytes()

    @cached_property
    def _path_end(self) -> Int64:
        return np.concatenate([[0], self._read("path_end")]).astype(np.int64)

    @cached_property
    def _label_end(self) -> Int64:
        return np.concatenate([[0], self._read("label_end")]).astype(np.int64)

    @cached_property
    def _label(self) -> npt.NDArray[np.int32]:
        return self._read("label")

    @cached_property
    def _label_names(self) -> list[str]:
        text, ends = self._read("label_name").tobytes(), [0, *self._read("label_name_end").tolist()]
        return [text[a:b].decode("utf-8", "surrogateescape") for a, b in pairwise(ends)]

    @cached_property
    def _files(self) -> tuple[Int64, Int64, npt.NDArray[np.uint8]]:
        return self._read("size"), self._read("mtime_ns"), self._read("digest")

    def path(self, row: int) -> bytes:
        """The path of one row."""
        return self._path[self._path_end[row] : self._path_end[row + 1]]

    def labels(self, row: int) -> Labels:
        """The labels of one row."""
        chosen = self._label[self._label_end[row] : self._label_end[row + 1]]
        return tuple(self._label_names[label] for label in chosen)

    def having(self, names: Set[str]) -> npt.NDArray[np.bool_]:
        """Which rows have one of these labels."""
        wanted = np.array([name in names for name in self._label_names] or [False])
        hits = np.concatenate([[0], wanted[self._label].cumsum()])
        return hits[self._label_end[1:]] > hits[self._label_end[:-1]]

    def names(self, rows: npt.NDArray[np.bool_]) -> set[str]:
        """The labels that these rows have."""
        held = self._label[np.repeat(rows, np.diff(self._label_end))]
        return {self._label_names[label] for label in np.unique(held)}

    def row(self, row: int) -> Row:
        """All that is known of one image."""
        size, mtime_ns, digest = self._files
        return Row(self.path(row), int(size[row]), int(mtime_ns[row]), digest[row].tobytes(), self.labels(row))

    def forget(self) -> None:
        """Give back the memory of all columns but the ids; they are read again when asked for."""
        for name in ("_path", "_path_end", "_label", "_label_end", "_label_names", "_files"):
            self.__dict__.pop(name, None)

    def check(self) -> None:
        """Read every column; CorruptIndexError if any is damaged."""
        for name in list(self._file):
            self._read(name)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def stored_path(path: str, base: str | None) -> bytes:
    """The bytes kept for an absolute `path`: relative to `base` when below it, so that both can be moved together."""
    if base is not None and path.startswith(base.rstrip(os.sep) + os.sep):
        path = path[len(base.rstrip(os.sep)) + 1 :]
    return os.fsencode(path)


def full_path(stored: bytes, base: str | None) -> str | None:
    """The absolute path that `stored_path` was given; None for an image that has none."""
    if not stored:
        return None
    path = os.fsdecode(stored)
    return os.path.join(base, path) if base is not None else path
