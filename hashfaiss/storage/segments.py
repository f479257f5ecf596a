"""One HDF5 segment: the codes of some images and all that is known of their files.

    codes        uint8 (n, ceil(K/8))      ids      int64 (n,), ascending
    path         bytes of all paths        path_end int64 (n,), where each ends
    path_key     uint64 (m, 2), BLAKE2b of each path that is not empty, ascending; path_row int32 (m,), its row
    size         int64 (n,)                mtime_ns int64 (n,)
    ctime_ns     int64 (n,)                inode    int64 (n,); 0 where not known
    digest       uint8 (n, 16), BLAKE2b of the file's bytes
    label        int32, indices into label_name; label_end int64 (n,)
    removed      int64, ids of earlier segments that this one takes out

Every dataset carries fletcher32, but HDF5's own structures carry nothing, and HDF5 crashes on some damaged ones: a
file's digest is checked before HDF5 sees it. Paths are bytes because a file name need not be text. A segment is made
in memory and written in one piece, so that a full disk is an ordinary OSError; it is never changed afterwards.

Older segments have no path_key and path_row, which are worked out when asked for, nor ctime_ns and inode.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from hashfaiss.codes import BIT_ORDER, Codes
from hashfaiss.errors import CorruptIndexError, IndexFolderError, NewerFormatError
from hashfaiss.files import DIGEST_BYTES, file_unaltered
from hashfaiss.storage.columns import NUMBERS, check_columns
from hashfaiss.storage.paths import Int64, Keys, Mask, Paths, path_index, stored_path
from hashfaiss.wording import composed

__all__ = ["Labels", "Row", "Segment", "encode_segment", "stored_path"]

Labels = tuple[str, ...]

ADVICE = "run `hashfaiss build` on its images again, which encodes anew what it held, or restore it from a copy"
FORMAT = "hashfaiss-segment"
VERSION = 1
STATE = ("size", "mtime_ns", "ctime_ns", "inode")  # what git, too, knows an unchanged file by
CHUNK_ROWS = 65536  # by hand: h5py's own guess is 4 times slower to read
FEW_ROWS = 64  # of one segment are read where they lie; for more, all columns are kept in memory


@dataclass(frozen=True, slots=True)
class Row:
    """What is known of one image: its file's path ("" for an image from memory), digest, labels, and what `stat` said.

    Size in bytes, times in ns; 0 where not known.
    """

    path: bytes
    size: int
    mtime_ns: int
    digest: bytes
    labels: Labels
    ctime_ns: int = 0
    inode: int = 0

    @property
    def state(self) -> tuple[int, int, int, int]:
        """What an unchanged file keeps, as in `STATE`."""
        return self.size, self.mtime_ns, self.ctime_ns, self.inode


def encode_segment(
    codes: Codes, ids: Int64, rows: Sequence[Row], removed: Int64, bits: int, provenance: dict[str, str]
) -> bytes:
    """The bytes of a segment file."""
    names: dict[str, int] = {}
    label = [names.setdefault(name, len(names)) for row in rows for name in row.labels]
    path_key, path_row = path_index([row.path for row in rows])
    columns: dict[str, npt.NDArray[Any]] = {
        "codes": codes,
        "ids": ids,
        **_strings("path", [row.path for row in rows]),
        "path_key": path_key,
        "path_row": path_row,
        **{name: np.array([getattr(row, name) for row in rows], np.int64) for name in STATE},
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

    Its columns are read when first asked for. With `known`, the manifest's entry, no byte of it is used
    unless all are as written.

    Raises:
        FileNotFoundError: there is no such file.
        NewerFormatError: a segment of a later format.
        CorruptIndexError: not a segment of `bits` bits, or damaged; the message names the file.
    """

    def __init__(self, source: Path | bytes, bits: int, known: Mapping[str, Any] | None = None) -> None:
        self.name = str(source) if isinstance(source, Path) else "a segment in memory"
        self.bits = bits
        self._source = source
        self._asked = 0
        try:
            if isinstance(source, Path) and known is not None and not file_unaltered(source, known):
                raise ValueError("its bytes are not those that were written")
            # what was written never changes, so the file needs no lock of HDF5's
            opened = source if isinstance(source, Path) else io.BytesIO(source)
            self._file = h5py.File(opened, "r", locking=False) if isinstance(source, Path) else h5py.File(opened, "r")
            attributes = self._file.attrs
            # what its format says is not read: where a text lies, HDF5 may look for ever in a file made for that
            about = ("format" in attributes and FORMAT, int(attributes["version"]), int(attributes["bits"]))
        except FileNotFoundError:
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno:  # the system's word, which says nothing about the bytes
                why = error.strerror if error.filename else os.strerror(error.errno)  # HDF5 has a longer one
                raise IndexFolderError(f"cannot open {self.name}: {why}") from None
            raise self._damaged(error) from None
        if about[0] and about[1] > VERSION:
            raise NewerFormatError(
                f"{self.name} has format version {about[1]}, and this hashfaiss reads up to {VERSION}: install the "
                "hashfaiss that wrote it, or build another index"
            )
        if about != (FORMAT, VERSION, bits):
            raise CorruptIndexError(f"{self.name} is no segment of {bits}-bit codes (it is {about}): {ADVICE}")
        try:
            check_columns(self._file, bits)
        except (ValueError, KeyError, RuntimeError, OverflowError, OSError) as error:
            raise self._damaged(error) from None

    def _damaged(self, error: Exception) -> CorruptIndexError:
        return CorruptIndexError(f"{self.name} is damaged ({' '.join(str(error).split())[:120]}): {ADVICE}")

    def _require(self, sound: Any, what: str) -> None:
        if not sound:
            raise self._damaged(ValueError(what))

    def _read(self, name: str, rows: slice | tuple[()] = ()) -> npt.NDArray[Any]:
        try:
            values: npt.NDArray[Any] = self._file[name][rows]
        except Exception as error:  # HDF5 answers damage with many kinds of error
            raise self._damaged(error) from None
        return values

    def __reduce__(self) -> tuple[Any, ...]:
        return Segment, (self._source, self.bits)

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def ids(self) -> Int64:
        """int64 (n,), ascending."""
        ids = self._read("ids")
        self._require((np.diff(ids, prepend=-1) > 0).all(), "ids that do not ascend")
        return ids

    @property
    def codes(self) -> Codes:
        """uint8 (n, ceil(K/8)); read anew each time."""
        codes: Codes = self._read("codes")
        return codes

    def code(self, row: int) -> Codes:
        """The code of one image, uint8 (ceil(K/8),); only this one is read."""
        code: Codes = self._read("codes", slice(row, row + 1))[0]
        return code

    @property
    def removed(self) -> Int64:
        """Ids of earlier segments that are gone since."""
        return self._read("removed")

    @cached_property
    def _label_end(self) -> Int64:
        return self._ends("label", 0, len(self))

    @cached_property
    def _label(self) -> npt.NDArray[np.int32]:
        return self._labels_at(slice(None))

    def _labels_at(self, part: slice) -> npt.NDArray[np.int32]:
        label = self._read("label", part)
        self._require(not len(label) or 0 <= label.min() <= label.max() < len(self._label_names), "labels of no name")
        return label

    @cached_property
    def _label_names(self) -> list[str]:
        ends = self._ends("label_name", 0, len(self._file["label_name_end"])).tolist()
        text = self._read("label_name").tobytes()
        return [composed(text[a:b].decode("utf-8", "surrogateescape")) for a, b in pairwise(ends)]

    @cached_property
    def states(self) -> Int64:
        """int64 (4, n): what is known of each file, as in `STATE`."""
        return self._states(slice(0, len(self)))

    def _states(self, rows: slice) -> Int64:
        nothing = np.zeros(rows.stop - rows.start, np.int64)
        return np.stack([self._read(name, rows) if name in self._file else nothing for name in STATE])

    @property
    def digests(self) -> npt.NDArray[np.uint8]:
        """uint8 (n, 16), of each file's bytes; read anew each time."""
        return self._read("digest")

    def _ends(self, name: str, start: int, stop: int) -> Int64:
        """Where rows start to stop begin and end in a column of many values a row: int64 (stop - start + 1,)."""
        ends = self._read(f"{name}_end", slice(max(0, start - 1), stop))
        ends = ends if start else np.concatenate([[0], ends]).astype(np.int64)
        self._require((np.diff(ends) >= 0).all() and 0 <= ends[0] <= ends[-1] <= len(self._file[name]), f"{name} ends")
        return ends

    def _paths(self, start: int, stop: int) -> Paths:
        ends = self._ends("path", start, stop)
        return Paths(self._read("path", slice(ends[0], ends[-1])), ends - ends[0])

    def paths(self, chosen: Mask | None = None) -> Iterator[tuple[slice, Paths]]:
        """Rows and their paths, some at a time; parts with no row of `chosen` are passed over."""
        for part in self._parts(chosen):
            yield part, self._paths(part.start, part.stop)

    def _parts(self, chosen: Mask | None) -> Iterator[slice]:
        for start in range(0, len(self), CHUNK_ROWS):
            part = slice(start, min(start + CHUNK_ROWS, len(self)))
            if chosen is None or chosen[part].any():
                yield part

    def path_index(self) -> tuple[Keys, npt.NDArray[np.int32]]:
        """Keys of the paths that are not empty, ascending, and the row of each; see `path_key`."""
        if "path_key" not in self._file:
            return path_index([path for _, paths in self.paths() for path in paths.each()])
        keys, rows = self._read("path_key"), self._read("path_row")
        self._require(not len(rows) or 0 <= rows.min() <= rows.max() < len(self), "keys of paths of no row")
        return keys, rows

    def labels(self, row: int) -> Labels:
        """The labels of one row."""
        chosen = self._label[self._label_end[row] : self._label_end[row + 1]]
        return tuple(self._label_names[label] for label in chosen)

    def having(self, names: Set[str]) -> Mask:
        """Which rows have one of these labels."""
        wanted = np.array([name in names for name in self._label_names] or [False])
        hits = np.concatenate([[0], wanted[self._label].cumsum()])
        return hits[self._label_end[1:]] > hits[self._label_end[:-1]]

    def names(self, rows: Mask) -> set[str]:
        """The labels that these rows have."""
        held = self._label[np.repeat(rows, np.diff(self._label_end))]
        return {self._label_names[label] for label in np.unique(held)}

    def _some(self, part: slice) -> list[Row]:
        label_end = self._ends("label", part.start, part.stop)
        label = [self._label_names[at] for at in self._labels_at(slice(label_end[0], label_end[-1])).tolist()]
        columns = zip(
            self._paths(part.start, part.stop).each(),
            self._states(part).T.tolist(),
            self._read("digest", part),
            pairwise((label_end - label_end[0]).tolist()),
            strict=True,
        )
        return [
            Row(path, size, time, digest.tobytes(), tuple(label[a:b]), changed, inode)
            for path, (size, time, changed, inode), digest, (a, b) in columns
        ]

    def rows(self, chosen: Mask) -> Iterator[tuple[int, Row]]:
        """Id and row of each row of `chosen`, some in memory at a time."""
        for part in self._parts(chosen):
            rows = self._some(part)
            for at in np.flatnonzero(chosen[part]).tolist():
                yield int(self.ids[part.start + at]), rows[at]

    @cached_property
    def _whole(self) -> tuple[Paths, npt.NDArray[np.uint8]]:
        return self._paths(0, len(self)), self.digests

    def row(self, row: int) -> Row:
        """All that is known of one image."""
        self._asked += 1
        if self._asked <= FEW_ROWS < len(self):
            return self._some(slice(row, row + 1))[0]
        paths, digests = self._whole
        path = paths.text[paths.ends[row] : paths.ends[row + 1]].tobytes()
        size, time, changed, inode = self.states[:, row].tolist()
        return Row(path, size, time, digests[row].tobytes(), self.labels(row), changed, inode)

    def forget(self) -> None:
        """Give back the memory of all columns but the ids; they are read again when asked for."""
        for name in ("_label", "_label_end", "_label_names", "states", "_whole"):
            self.__dict__.pop(name, None)

    def check(self) -> None:
        """Read every column; CorruptIndexError if any is damaged."""
        for name in ("codes", *NUMBERS):
            if name in self._file:
                self._read(name)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
