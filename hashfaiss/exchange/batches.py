"""The codes of an index and what is known of them, some rows at a time, as formats write them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import repeat
from typing import Literal, NamedTuple

import numpy as np

from hashfaiss.codes import Codes, code_bytes, reversed_bits
from hashfaiss.indexes.distinct import Distinct
from hashfaiss.storage.paths import Int64
from hashfaiss.storage.store import CodeStore

BitOrder = Literal["little", "big"]
Progress = Callable[[int, int], None]
KEY = "hashfaiss"  # what a format's metadata has it under


@dataclass(frozen=True)
class About:
    """What is said of all rows, in the metadata of each format.

    Attributes:
        bits: K; a code's bytes are padded with zeros.
        bit_order: "little": bit j is bit j % 8 of byte j // 8, least significant first; "big": most significant first.
        rows: how many there are.
        distinct: each code is there once.
        method, encoder: what made the codes.
    """

    bits: int
    bit_order: BitOrder
    rows: int
    distinct: bool
    method: str
    encoder: str

    @property
    def width(self) -> int:
        """Bytes of a code."""
        return code_bytes(self.bits)

    def text(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self))


class Batch(NamedTuple):
    """Some rows, by ascending id.

    Attributes:
        ids: int64 (n,).
        codes: uint8 (n, ceil(K/8)), in the bit order that was asked for.
        paths: of the image's file, absolute; None for one from memory.
        labels: of the image.
        shared: the ids of all images that have the code, the row's own first, where each code is there once; else None.
    """

    ids: Int64
    codes: Codes
    paths: list[str | None]
    labels: list[list[str]]
    shared: list[Int64] | None

    def extra(self) -> Iterator[tuple[list[int], ...]]:
        """For each row what else there is in it: its shared ids, or nothing."""
        if self.shared is None:
            return repeat((), len(self.ids))
        return ((ids.tolist(),) for ids in self.shared)


def batches(store: CodeStore, order: BitOrder, distinct: Distinct | None, progress: Progress) -> Iterator[Batch]:
    """The rows of a store; with `distinct`, those of the smallest id of each code alone."""
    done = 0
    for codes, rows in store.batches():
        done += len(rows)
        ids = np.array([image for image, _ in rows], np.int64)
        shared = None
        if distinct is not None:
            kept = np.isin(ids, distinct.least, assume_unique=True)
            ids, codes = ids[kept], codes[kept]
            rows = [rows[row] for row in np.flatnonzero(kept).tolist()]
            shared = _shared(distinct, np.searchsorted(distinct.least, ids))
        paths = [store.full_path(row) for _, row in rows]
        yield Batch(
            ids,
            np.ascontiguousarray(codes if order == "little" else reversed_bits(codes)),
            [None if path is None else _text(path) for path in paths],
            [list(map(_text, row.labels)) for _, row in rows],
            shared,
        )
        progress(done, len(store))


def _shared(distinct: Distinct, positions: Int64) -> list[Int64]:
    if distinct.starts is None:
        return list(distinct.ids[positions, None])
    ends = zip(distinct.starts[positions].tolist(), distinct.starts[positions + 1].tolist(), strict=True)
    return [distinct.ids[start:end] for start, end in ends]


def _text(name: str) -> str:
    """A name as text that every format takes: bytes that are no UTF-8 are written as escapes."""
    return name if name.isascii() else name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
