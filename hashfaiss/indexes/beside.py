"""A built index, and beside it the codes that came since: a small flat tail, so that one more builds nothing anew.

FAISS's index stays as it was built. Codes that are gone since are passed over in its answers; codes that are new are
compared one by one; both are merged by (distance, position). What the built index proves stays proven: flat search
misses nothing, and of the built index as many more codes are asked for as have lost their place in the order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hashfaiss.codes import Codes, widened, words
from hashfaiss.errors import CorruptIndexError
from hashfaiss.indexes.distinct import Distinct
from hashfaiss.indexes.flat import Flat
from hashfaiss.indexes.kind import Arrays, Found, Int32, Int64, Kind, One, by_radius, in_order, ranges
from hashfaiss.indexes.saved import packed_ids, split_arrays, unpacked_ids

Mask = npt.NDArray[np.bool_]


# An index of so many codes is not built anew for what came since, which lies beside it, until that is more than so many
# and a hundredth of them (10,000 are scanned in 5 us a query); nor for what is gone, as far as each query may well ask
# for so many more.
BESIDE = 10_000
BESIDE_SHARE = 100
GONE = 256
MOST_GONE = 1 << 20  # that a file may say were there: it could say any number
DENSE = 4  # ids up to so many times their number


def serves(built: int, came: int, gone: int) -> bool:
    """Whether what came and went since an index of `built` was built is so little that it stays."""
    return came == gone == 0 or (built >= BESIDE and came <= max(BESIDE, built // BESIDE_SHARE) and gone <= GONE)


class Built(NamedTuple):
    """What a saved index is of.

    Attributes:
        starts, ids: the ids of code c are ids[starts[c]:starts[c + 1]]; starts None: ids[c] alone.
        lost: which of `ids` were removed since, though codes that came later may have the same ids; None for none.
    """

    starts: Int64 | None
    ids: Int64
    lost: Mask | None = None

    @classmethod
    def of(cls, arrays: Arrays, ids: Int64) -> Built | None:
        """As `Distinct.arrays` and `arrays` kept it; None where it was saved by a version that did not tell ids.

        Args:
            ids: of now, ascending: taken for its own, uncopied, where they are the same.

        Raises:
            ValueError, KeyError: they are no ids.
        """
        lost = arrays.get("lost")
        if "starts" in arrays:
            starts, ids = (arrays[name].astype(np.int64, copy=False) for name in ("starts", "ids"))
            if starts.ndim != 1 or ids.ndim != 1 or not len(starts) or starts[0] != 0 or starts[-1] != len(ids):
                raise ValueError("postings")
            if (starts[1:] <= starts[:-1]).any() or ids.min(initial=0) < 0:
                raise ValueError("postings")
            return cls(starts, ids, None if lost is None else lost.astype(np.bool_))
        if "runs" not in arrays:
            return None
        same = np.array_equal(arrays["runs"], packed_ids(ids))
        kept = ids if same else unpacked_ids(arrays["runs"], len(ids) + MOST_GONE)
        return cls(None, kept, None if lost is None else lost.astype(np.bool_))

    def arrays(self) -> Arrays:
        """For `of`."""
        lost: Arrays = {} if self.lost is None else {"lost": self.lost}
        if self.starts is None:
            return {"runs": packed_ids(self.ids), **lost}
        return {"starts": self.starts, "ids": self.ids, **lost}

    def __len__(self) -> int:
        return len(self.ids) if self.starts is None else len(self.starts) - 1

    def without(self, gone: Sequence[Int64]) -> Built:
        """The same, told that these ids were removed."""
        if not gone:
            return self
        lost = np.isin(self.ids, np.concatenate(gone))
        return Built(self.starts, self.ids, lost if self.lost is None else lost | self.lost)

    def differs(self, ids: Int64) -> bool:
        """Whether `ids`, which are told when they are removed, are other than its own."""
        if self.ids is ids:
            return self.lost is not None
        return self.lost is not None or len(ids) != len(self.ids) or ids.max(initial=-1) != self.ids.max(initial=-1)

    def changes(self, ids: Int64) -> tuple[int, int]:
        """How many of `ids`, which ascend, came since, and how many of its own are gone.

        Raises:
            ValueError: what came since has ids among those that were there.
        """
        if self.ids is ids:
            return 0, 0
        last = self.ids.max(initial=-1)
        if len(self.ids) == len(ids) and last == ids.max(initial=-1) and self.ids.sum() == ids.sum():
            return 0, 0  # nothing came after the last, and of those before as many are left
        stay = int(self._among(ids)[1].sum())
        if np.searchsorted(ids, last, side="right") != stay:
            raise ValueError("ids")
        return len(ids) - stay, len(self.ids) - stay

    def _among(self, ids: Int64) -> tuple[Int64, Mask]:
        """Where each of its ids stands in `ids`, and whether it does."""
        end = int(max(ids.max(initial=-1), self.ids.max(initial=-1))) + 1
        if end <= DENSE * (len(ids) + len(self.ids)):  # looked up, not searched for: a tenth of the time
            table = np.full(end, -1, np.int64)
            table[ids] = np.arange(len(ids))
            rows = table[self.ids]
            there = rows >= 0
        else:
            rows = np.searchsorted(ids, self.ids)
            there = np.append(ids, -1)[rows] == self.ids
        return rows, there if self.lost is None else there & ~self.lost

    def check(self, codes: Codes, ids: Int64) -> None:
        """ValueError unless these are the ids (n,), ascending, of `codes` (n, bytes), each with its code."""
        if self.starts is None:
            if self.ids is not ids and not np.array_equal(self.ids, ids):
                raise ValueError("ids")
            return
        rows, there = self._among(ids)
        heads = np.zeros(len(rows), np.bool_)
        heads[self.starts[:-1]] = True
        seen = np.zeros(len(ids), np.bool_)
        seen[rows[there]] = True
        ascend = (np.diff(self.ids) > 0) | heads[1:]
        if not there.all() or not seen.all() or not ascend.all() or (np.diff(self.ids[heads]) <= 0).any():
            raise ValueError("postings")
        held = words(codes[rows])
        if (held != np.repeat(held[heads], np.diff(self.starts), axis=0)).any():
            raise ValueError("codes")

    def places(self, ids: Int64, distinct: Distinct) -> tuple[Int64, int]:
        """Where each of its codes stands in `distinct`, which has `ids`.

        Returns:
            places (codes,), -1 for those that are gone, and for those that have a smaller id than they had: they stand
            further in front than where they were built. And how many codes have not the smallest id they had, by which
            codes are in order.

        Raises:
            ValueError: these are other codes.
        """
        rows, there = self._among(ids)
        of_row = distinct.of_row()
        heads = np.arange(len(self) + 1) if self.starts is None else self.starts
        code = np.repeat(np.arange(len(self)), np.diff(heads))
        places = np.full(len(self), -1, np.int64)
        places[code[there]] = of_row[rows[there]]
        known = places[places >= 0]
        if (np.bincount(known) > 1).any() or (places[code[there]] != of_row[rows[there]]).any():
            raise ValueError("codes")
        first, least = self.ids[heads[:-1]], distinct.least[places] if len(distinct) else -np.ones_like(places)
        forward = (places >= 0) & (least < first)
        places[forward] = -1
        return places, int((forward | ~there[heads[:-1]]).sum())


def changes(data: npt.NDArray[np.uint8], ids: Int64) -> tuple[int, int]:
    """How many of `ids`, which ascend, came since the index saved as `data` was built, and how many of its are gone.

    Raises:
        CorruptIndexError: that cannot be told of `data`, or it is an index of something else.
    """
    try:
        built = Built.of(split_arrays(data), ids)
        if built is not None:
            return built.changes(ids)
    except (ValueError, KeyError):
        pass
    raise CorruptIndexError("the FAISS index is not one that others can lie beside: delete it, it is rebuilt")


class Beside(Kind):
    """A built kind with a flat tail; positions are those of all codes there are now.

    Attributes:
        built: the kind as it was built.
        places: int64 (codes of `built`,), the position of each of its codes now, -1 for one that is gone or displaced.
        displaced: how many of its codes are gone or have another place among the others than when it was built.
        own: int64 (tail,), the positions of the codes in the tail.
    """

    def __init__(self, built: Kind, places: Int64, displaced: int, codes: Codes) -> None:
        self.built, self.places, self.displaced = built, places, displaced
        self.name, self.knob, self.abilities = built.name, built.knob, built.abilities  # type: ignore[misc]
        self.bits, self.width, self.parameters = built.bits, built.width, built.parameters
        self.certified, self.faiss = built.certified, built.faiss
        tail = np.ones(len(codes), np.bool_)
        tail[places[places >= 0]] = False
        self.own = np.flatnonzero(tail)
        self._tail = Flat(self.bits, len(self.own), {})
        self._tail.build(widened(codes[self.own], self._tail.width))

    def build(self, codes: Codes) -> None:
        """Nothing is built beside an index: one over all codes is built instead."""
        raise AssertionError("an index that has a tail is loaded, never built")

    def accepts(self, index: Any) -> bool:
        """Whether a loaded FAISS index is of the built kind."""
        return self.built.accepts(index)

    @property
    def can_be_saved(self) -> bool:
        """FAISS's index is of other codes than there are now: it is built anew when loaded."""
        return False

    @property
    def held_bytes(self) -> float:
        return self.built.held_bytes + self._tail.held_bytes

    @property
    def work(self) -> float:
        return self.built.work + len(self.own)

    @property
    def complete_scan(self) -> bool:
        """Whether every code is compared."""
        return isinstance(self.built, Flat)

    def nearest(self, queries: Codes, k: int) -> Found:
        asked = min(k + self.displaced, len(self.places))
        found = self.built.nearest(queries, asked) if asked else Found.nothing(len(queries), self.bits)
        few = np.diff(found.offsets) < asked  # all that the probes saw, which may end before what the tail adds
        if few.any():
            found = replace(found, complete=np.where(few, np.minimum(found.complete, found.last), found.complete))
        own = self._tail.nearest(queries, min(k, len(self.own))) if len(self.own) else None
        return self._merged(found, own, k)

    def within(self, queries: Codes, radius: int) -> Found:
        own = self._tail.within(queries, radius) if len(self.own) else None
        return self._merged(self.built.within(queries, radius), own, None)

    def nearest_one(self, query: Codes, k: int) -> One:
        asked = min(k + self.displaced, len(self.places))
        if not asked:
            return One.of(self.nearest(query, k))
        found = self.built.nearest_one(query, asked)
        few = len(found.positions) < asked
        complete = (
            min(found.complete, int(found.distances[-1]) if len(found.distances) else -1) if few else found.complete
        )
        places = self.places[np.asarray(found.positions, np.int64)]
        pairs = [
            pair for pair in zip(np.asarray(found.distances).tolist(), places.tolist(), strict=True) if pair[1] >= 0
        ]
        if len(self.own):
            own = self._tail.nearest_one(query, min(k, len(self.own)))
            positions = self.own[np.asarray(own.positions)].tolist()
            pairs += zip(np.asarray(own.distances).tolist(), positions, strict=True)
        pairs = sorted(pairs)[:k]
        return One([distance for distance, _ in pairs], [position for _, position in pairs], complete)

    def turn(self, value: int) -> bool:
        return self.built.turn(value)

    def balls(self, queries: Codes, radii: Int32, limit: float) -> tuple[Int64, Found]:
        done, found = self.built.balls(queries, radii, limit - len(self.own))
        if not len(self.own):
            return done, self._merged(found, None, None)
        own = by_radius(queries[done], radii[done], lambda some, _, radius: self._tail.within(some, radius))
        return done, self._merged(found, own, None)

    def reach(self, limit: float) -> int:
        return self.built.reach(limit - len(self.own))

    def _merged(self, found: Found, own: Found | None, k: int | None) -> Found:
        """The first k, or all, of what was found in the built index and in the tail."""
        count = len(found.complete)
        queries, positions = np.repeat(np.arange(count), np.diff(found.offsets)), self.places[found.positions]
        there = positions >= 0
        queries, positions, distances = queries[there], positions[there], found.distances[there]
        if own is not None:
            queries = np.concatenate([queries, np.repeat(np.arange(count), np.diff(own.offsets))])
            positions = np.concatenate([positions, self.own[own.positions]])
            distances = np.concatenate([distances, own.distances])
        counts = np.bincount(queries, minlength=count)
        positions, distances = in_order(queries, distances, positions)
        kept = counts if k is None else np.minimum(counts, k)
        if kept.sum() < len(positions):
            chosen = ranges(counts.cumsum() - counts, kept)
            positions, distances = positions[chosen], distances[chosen]
        offsets = np.concatenate([[0], kept.cumsum()]).astype(np.int64)
        return Found(offsets, positions, distances, found.complete)
