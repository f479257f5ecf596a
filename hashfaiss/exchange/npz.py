"""NumPy's .npz: plain arrays, none of objects. Texts are the bytes of all of them, and where each ends.

codes      uint8 (n, ceil(K/8))     ids         int64 (n,)
paths      uint8, UTF-8             paths_end   int64 (n,); an image from memory has none
labels     uint8, UTF-8             labels_end  int64 (m,)       labels_of  int64 (n,), where each row's labels end
shared     int64, where codes are distinct: the ids that have each     shared_end int64 (n,)
about      text, JSON
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hashfaiss.exchange.batches import About, Batch


class _Column:
    """An array that grows: an unnamed file until its length is known."""

    def __init__(self, folder: Path) -> None:
        self.file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - the writer closes it
        self._rows, self._like = 0, np.empty(0, np.uint8)

    def add(self, values: npt.NDArray[Any]) -> None:
        self._rows += len(values)
        self._like = values[:0]
        self.file.write(np.ascontiguousarray(values).data)

    def save(self, archive: zipfile.ZipFile, name: str) -> None:
        about = {"descr": self._like.dtype.str, "fortran_order": False, "shape": (self._rows, *self._like.shape[1:])}
        self.file.seek(0)
        with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array_header_1_0(member, about)
            shutil.copyfileobj(self.file, member)


def write(out: Path, about: About, batches: Iterator[Batch], table: str = "") -> None:
    """Write a file, of which no more is in memory than a batch."""
    with contextlib.ExitStack() as stack:
        columns: dict[str, _Column] = {}
        ends: dict[str, int] = {}

        def add(name: str, values: npt.NDArray[Any]) -> None:
            if name not in columns:
                columns[name] = _Column(out.parent)
                stack.enter_context(contextlib.closing(columns[name].file))
            columns[name].add(values)

        def add_ends(name: str, lengths: Sequence[int]) -> None:
            found = np.cumsum([ends.get(name, 0), *lengths], dtype=np.int64)
            ends[name] = int(found[-1])
            add(name, found[1:])

        def add_texts(name: str, texts: Sequence[str]) -> None:
            encoded = [text.encode() for text in texts]
            add(name, np.frombuffer(b"".join(encoded), np.uint8))
            add_ends(f"{name}_end", list(map(len, encoded)))

        for batch in batches:
            add("codes", batch.codes)
            add("ids", batch.ids)
            add_texts("paths", [path or "" for path in batch.paths])
            add_texts("labels", [label for labels in batch.labels for label in labels])
            add_ends("labels_of", list(map(len, batch.labels)))
            if batch.shared is not None:
                add("shared", np.concatenate([batch.ids[:0], *batch.shared]))
                add_ends("shared_end", list(map(len, batch.shared)))
        with zipfile.ZipFile(out, "w") as archive:
            for name, column in columns.items():
                column.save(archive, name)
            with archive.open("about.npy", "w") as member:
                np.lib.format.write_array(member, np.array(about.text()), allow_pickle=False)
