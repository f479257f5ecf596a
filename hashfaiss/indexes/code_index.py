"""CodeIndex: codes and ids in, answers out."""

from __future__ import annotations

import os
import threading
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from hashfaiss.codes import Codes, check_bits, check_codes, code_bytes, widened
from hashfaiss.errors import ArgumentError, CorruptIndexError, HashfaissError
from hashfaiss.indexes import beside
from hashfaiss.indexes.answers import Answers
from hashfaiss.indexes.beside import Beside, Built
from hashfaiss.indexes.distinct import Distinct
from hashfaiss.indexes.flat import Flat
from hashfaiss.indexes.foreign import codes_of
from hashfaiss.indexes.kind import Arrays, Found, Int64, Kind
from hashfaiss.indexes.kinds import parse_kind, usable
from hashfaiss.indexes.saved import join_arrays, packed_ids, read_file, split_arrays, unpacked_ids, write_file
from hashfaiss.indexes.snapshot import Snapshot, restored
from hashfaiss.indexes.trust import Trust
from hashfaiss.indexes.tuning import FLAT_UP_TO, MEASURE_AGAIN, RECALL, Notice, Tuning, tune


class CodeIndex:
    """A FAISS binary index over distinct codes, with ids of one's own.

    What is added or removed counts from the next search on, which arranges it. Threads may search and change it at the
    same time: each search sees the codes as they were when it began.

    Attributes:
        bits: K.
        tuning: what `auto` measured and chose from, where it did.
    """

    tuning: Tuning | None = None

    def __init__(
        self,
        codes: Codes | None = None,
        ids: npt.ArrayLike | None = None,
        bits: int | None = None,
        kind: str = "auto",
    ) -> None:
        """Index `codes` (n, ceil(bits/8)) under `ids` (n,): whole numbers >= 0, each once.

        Args:
            codes: None for an index that is empty so far.
            ids: None for 0, 1, ...
            bits: K; None for all bits of `codes`.
            kind: of the FAISS index, such as "flat" or "ivf:lists=1024,probes=8"; "auto" measures beyond 50,000
                distinct codes, and again when there are twice as many.

        Raises:
            ArgumentError: codes of another shape or dtype, ids that repeat or are negative, an unknown kind.
        """
        if bits is None:
            if not isinstance(codes, np.ndarray) or codes.ndim != 2:
                raise ArgumentError("neither bits nor codes (n, bytes) say how long a code is: give bits, such as 64")
            bits = 8 * codes.shape[1]
        bits = check_bits(bits)
        codes = check_codes(np.empty((0, code_bytes(bits)), np.uint8) if codes is None else codes, bits)
        distinct = Distinct.of(*_by_id(codes, np.arange(len(codes)) if ids is None else ids))
        self.bits, self._asked, self._measured = bits, kind, 0
        self._start(self._built(distinct))

    def _start(self, now: Snapshot) -> None:
        self._lock = threading.RLock()
        self._snapshot, self._next, self._count = now, int(now.distinct.ids.max(initial=-1)) + 1, len(now)
        self._came: list[tuple[Codes, Int64]] = []  # added since
        self._rows: tuple[Codes, Int64] | None = None  # codes and ids where some were removed since, or were gathered
        self._gone: list[Int64] = []

    @classmethod
    def _of(cls, now: Snapshot, asked: str, measured: int = 0) -> CodeIndex:
        index = cls.__new__(cls)
        index.bits, index._asked, index._measured = now.bits, asked, measured
        index._start(now)
        return index

    @classmethod
    def tuned(
        cls,
        codes: Codes,
        ids: npt.ArrayLike,
        bits: int,
        recall: float = RECALL,
        memory: int | None = None,
        notice: Notice = lambda _: None,
    ) -> CodeIndex:
        """The kind that is fastest on these very codes; arguments and errors as `hashfaiss.indexes.tune` has them."""
        distinct = Distinct.of(*_by_id(check_codes(codes, check_bits(bits)), ids))
        kind, tuning = tune(distinct.codes, bits, recall, memory, notice)
        index = cls._of(Snapshot(bits, distinct, kind, tuning.trust), str(kind))
        index.tuning = tuning
        return index

    @classmethod
    def of(cls, index: Any, kind: str | None = None) -> CodeIndex:
        """The codes and ids of a FAISS binary index, or of the file of one, in an index of the same kind.

        It then holds distinct codes, and answers in order, with certificates. The one given is read, not kept.

        Args:
            index: a `faiss.IndexBinaryFlat`, `IVF`, `Hash`, `MultiHash` or `HNSW`, also below an `IndexBinaryIDMap`,
                or a path that `faiss.write_index_binary` wrote.
            kind: another kind, such as "auto"; None keeps the kind and its parameters.

        Raises:
            ArgumentError: another kind of FAISS index; ids that repeat or are negative.
            HashfaissError: a file that FAISS does not read.
        """
        codes, ids, same = codes_of(index)
        return cls(codes, ids, 8 * codes.shape[1], kind or same)

    # ---- files --------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write codes, ids and the built index as one file, whole or not at all.

        Raises:
            HashfaissError: it cannot be written; what stood there still stands.
        """
        write_file(path, *self._packed())

    def __reduce__(self) -> tuple[Any, ...]:
        return CodeIndex._unpacked, self._packed()

    def _packed(self) -> tuple[dict[str, Any], Arrays]:
        now = self.now
        kind = now.kind.built if isinstance(now.kind, Beside) else now.kind
        codes, ids = now.distinct.rows()
        about = {"bits": self.bits, "asked": self._asked, "kind": str(kind), "measured": self._measured}
        trust = now.trust.arrays() if now.trust else {}
        arrays: Arrays = {"codes": codes, "all": packed_ids(ids), **now.built.arrays(), **trust}
        if not isinstance(kind, Flat) and kind.can_be_saved:  # others are made anew of the codes
            arrays |= {**kind.arrays(), "faiss": faiss.serialize_index_binary(kind.faiss)}
        return about, arrays

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> CodeIndex:
        """Read what `save` wrote. No byte of it is used unless all are as they were written.

        Raises:
            HashfaissError: there is no such file, or it is another; CorruptIndexError: it is damaged.
        """
        about, arrays = read_file(path)
        try:
            return cls._unpacked(about, arrays)
        except (HashfaissError, ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError):
            raise CorruptIndexError(f"{os.fspath(path)!r} is damaged: restore it from a copy") from None

    @classmethod
    def _unpacked(cls, about: dict[str, Any], arrays: Arrays) -> CodeIndex:
        bits, asked, kind, measured = check_bits(about["bits"]), about["asked"], about["kind"], about["measured"]
        codes = check_codes(arrays["codes"], bits)
        codes, ids = _by_id(codes, unpacked_ids(arrays["all"], len(codes)), copied=False)
        parse_kind(usable(asked), bits, 0)
        now = restored(arrays, Built.of(arrays, ids), codes, ids, bits, usable(kind))
        return cls._of(now, usable(asked), int(measured))

    @classmethod
    def restore(
        cls, data: bytes | npt.NDArray[np.uint8], codes: Codes, ids: npt.ArrayLike, bits: int, kind: str
    ) -> CodeIndex:
        """Take the index from `data` (of `dump`), for the codes, ids and kind it was made of.

        Some ids may be gone since, and others with greater ids new: these lie beside FAISS's index, see `Beside`.
        `data` is compared with the codes before FAISS, which checks little, reads it (`hashfaiss.indexes.structure`).
        Of a mapped file, FAISS uses the codes where they lie: it must not change. Other bytes are copied.

        Raises:
            CorruptIndexError: `data` is an index of something else.
        """
        codes, checked = _by_id(check_codes(codes, bits), ids, copied=False)
        arrays = split_arrays(np.frombuffer(data, np.uint8) if isinstance(data, bytes) else data)
        try:
            if (built := Built.of(arrays, checked)) is not None:
                built.changes(checked)
            now = restored(arrays, built, codes, checked, bits, kind, isinstance(data, np.memmap))
            return cls._of(now, kind)
        except (ValueError, TypeError, KeyError, IndexError):
            raise CorruptIndexError(
                "the FAISS index is of other codes or another kind: delete it, it is rebuilt"
            ) from None
        except RuntimeError as error:
            raise CorruptIndexError(f"the FAISS index cannot be read ({error}): delete it, it is rebuilt") from None

    def dump(self) -> bytes:
        """The built index, for `restore`: FAISS's own format, postings, and what the kind keeps."""
        now = self.now
        saved = faiss.serialize_index_binary(now.kind.faiss) if now.kind.can_be_saved else np.empty(0, np.uint8)
        trust = now.trust.arrays() if now.trust else {}
        return join_arrays({**now.distinct.arrays(), **now.kind.arrays(), **trust, "faiss": saved})

    # ---- what it holds ------------------------------------------------------------------------------------------

    @property
    def now(self) -> Snapshot:
        """What it holds, arranged for searching; that never changes, and the next change makes another."""
        with self._lock:
            if self._came or self._rows is not None:
                self._snapshot = self._changed(*self._gathered())
                self._rows, self._gone = None, []
            return self._snapshot

    @property
    def distinct(self) -> Distinct:
        """The codes FAISS holds, and the ids that have them."""
        return self.now.distinct

    @property
    def kind(self) -> Kind:
        """The kind of FAISS index, with its parameters, and the index itself."""
        return self.now.kind

    @property
    def trust(self) -> Trust | None:
        """Of a kind that tuning chose, how far answers that are not certified are believed.

        Where they are not, they are answered again, exactly. None for a kind that was asked for: its answers are as its
        probes give.
        """
        return self.now.trust

    @trust.setter
    def trust(self, trust: Trust | None) -> None:
        self.now.trust = trust

    @property
    def faiss(self) -> Any:
        """The `faiss.IndexBinary`; its ids are positions in `distinct.codes`, or where `faiss_positions` says."""
        return self.kind.faiss

    @property
    def faiss_positions(self) -> Int64:
        """Where FAISS's codes stand in `distinct.codes`; -1 for those that are gone or displaced since it was built."""
        now = self.now
        return now.kind.places if isinstance(now.kind, Beside) else np.arange(len(now.distinct))

    @property
    def flat(self) -> Kind:
        """A flat index over the same codes: what every kind falls back to."""
        return self.now.flat

    @property
    def ntotal(self) -> int:
        """How many codes there are, repeated ones too."""
        return self._count

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return f"CodeIndex({self._count:,} codes of {self.bits} bits, {self._asked})"

    def reconstruct(self, ids: npt.ArrayLike) -> Codes:
        """The code of one id, uint8 (bytes,), or the codes of several, (n, bytes), in their order.

        Raises:
            ArgumentError: the index has no such id.
        """
        distinct, wanted = self.now.distinct, _whole_numbers(ids)
        return distinct.codes_of(wanted.ravel()).reshape(*wanted.shape, code_bytes(self.bits))

    def only(self, ids: npt.ArrayLike) -> CodeIndex:
        """A flat index of these ids alone.

        Raises:
            ArgumentError: one of them is not in this index.
        """
        wanted = np.unique(_whole_numbers(ids))
        return CodeIndex(self.reconstruct(wanted), wanted, self.bits, "flat")

    # ---- change -------------------------------------------------------------------------------------------------

    def add(self, codes: Codes, ids: npt.ArrayLike | None = None) -> None:
        """Add `codes` (n, ceil(bits/8)) under `ids` (n,), or under the numbers after the greatest id there ever was.

        Raises:
            ArgumentError: as when an index is made, and an id that is in the index; nothing is added.
        """
        codes = check_codes(codes, self.bits)
        with self._lock:
            if ids is None:
                if self._next + len(codes) > 1 << 63:
                    raise ArgumentError(f"no id is left after {self._next - 1}: give ids")
                ids = np.arange(self._next, self._next + len(codes))
            codes, checked = _by_id(codes, ids)
            if not len(codes):
                return
            if checked[0] < self._next:
                there = np.isin(checked, self._gathered()[1], assume_unique=True)
                if there.any():
                    raise ArgumentError(f"id {checked[there][0]} is in the index already: remove it, or give another")
            self._came.append((codes, checked))
            self._next, self._count = max(self._next, int(checked[-1]) + 1), self._count + len(codes)

    def remove_ids(self, ids: npt.ArrayLike) -> int:
        """Take these ids out, where they are in the index; returns how many were."""
        wanted = np.unique(_whole_numbers(ids))
        with self._lock:
            codes, now = self._gathered()
            going = np.isin(now, wanted, assume_unique=True)
            count = int(going.sum())
            if count:
                self._rows, self._count = (codes[~going], now[~going]), self._count - count
                self._gone.append(now[going])
            return count

    def _gathered(self) -> tuple[Codes, Int64]:
        """Codes and ids of all there are, by ascending id."""
        codes, ids = self._rows or self._snapshot.distinct.rows()
        if self._came:
            codes = np.concatenate([codes, *(codes for codes, _ in self._came)])
            ids = np.concatenate([ids, *(ids for _, ids in self._came)])
            self._rows, self._came = _by_id(codes, ids), []
            return self._rows
        return codes, ids

    def _changed(self, codes: Codes, ids: Int64) -> Snapshot:
        """These codes beside the index as it was built where they differ little, else in one that is built anew."""
        distinct, before = Distinct.of(codes, ids), self._snapshot
        kind = before.kind.built if isinstance(before.kind, Beside) else before.kind
        built = before.built.without(self._gone)
        if not isinstance(kind, Flat) and kind.can_be_saved and len(built) >= beside.BESIDE:
            places, displaced = built.places(ids, distinct)
            if beside.serves(len(built), len(distinct) - int((places >= 0).sum()), displaced):
                made = Beside(kind, places, displaced, distinct.codes)
                return Snapshot(self.bits, distinct, made, before.trust, built)
        return self._built(distinct, before)

    def _built(self, distinct: Distinct, before: Snapshot | None = None) -> Snapshot:
        asked, n = self._asked, len(distinct)
        if asked == "auto" and n > FLAT_UP_TO:
            if before is None or n >= MEASURE_AGAIN * self._measured:
                kind, self.tuning = tune(distinct.codes, self.bits)
                self._measured = n
                return Snapshot(self.bits, distinct, kind, self.tuning.trust)
            asked = str(before.kind)
        kind = parse_kind(asked, self.bits, n)
        kind.build(widened(distinct.codes, kind.width))
        return Snapshot(self.bits, distinct, kind, before.trust if before else None)

    # ---- search -------------------------------------------------------------------------------------------------

    def search(self, queries: Codes, k: int = 10, exact: bool = False) -> Answers:
        """The k nearest of each query (n, ceil(bits/8)): min(k, len(self)) of them where `exact`, else maybe fewer.

        A kind that tuning chose keeps the recall that was asked of it, whatever the query: an answer that is neither
        certified nor as near as tuning believes it, and every one beyond the k that was tuned for, is as with `exact`.

        Args:
            exact: probe further, or compare with all codes where that is cheaper, until every answer is certified.
        """
        return self.now.search(queries, k, exact)

    def within(self, queries: Codes, radius: int, exact: bool = False) -> Answers:
        """All within Hamming distance `radius` (distance <= radius) of each query; all of them where `exact`.

        Args:
            exact: probe further, or compare with all codes where that is cheaper, until every answer is certified.
        """
        return self.now.within(queries, radius, exact)

    def range_search(self, queries: Codes, radius: int, exact: bool = False) -> Answers:
        """`within`, under FAISS's name: distance <= radius, where FAISS has distance < radius."""
        return self.within(queries, radius, exact)

    def codes_within(self, queries: Codes, radius: int, exact: bool = False) -> Found:
        """As `within`, the distinct codes themselves: their positions in `distinct`."""
        return self.now.codes_within(queries, radius, exact)


def _by_id(codes: Codes, ids: npt.ArrayLike, copied: bool = True) -> tuple[Codes, Int64]:
    """Codes and ids by ascending id; `copied` where they are the caller's, who may write into them later."""
    values = np.asarray(ids)
    if values.shape != (len(codes),) or not (np.issubdtype(values.dtype, np.integer) or values.size == 0):
        raise ArgumentError(
            f"ids have shape {values.shape} and type {values.dtype}: give {len(codes)} whole numbers from 0 to "
            "2**63 - 1, one for each code"
        )
    checked = values.astype(np.int64, copy=copied)
    ascending = bool((checked[1:] > checked[:-1]).all())
    if len(checked) and (checked[0] if ascending else checked.min()) < 0:  # as those of uint64 that are too great
        raise ArgumentError("ids are outside 0 to 2**63 - 1: give ids from that range")
    if ascending:
        return codes.copy() if copied else codes, checked
    order = np.argsort(checked, kind="stable")
    checked, codes = checked[order], codes[order]
    repeated = np.flatnonzero(checked[1:] == checked[:-1])
    if len(repeated):
        raise ArgumentError(f"id {checked[repeated[0]]} stands twice: give each code its own id")
    return codes, checked


def _whole_numbers(ids: npt.ArrayLike) -> Int64:
    values = np.asarray(ids)
    if not (np.issubdtype(values.dtype, np.integer) or values.size == 0):
        raise ArgumentError(f"ids have type {values.dtype}: give whole numbers from 0 to 2**63 - 1")
    if values.dtype == np.uint64 and values.size and values.max() > np.iinfo(np.int64).max:
        raise ArgumentError("ids are outside 0 to 2**63 - 1: give ids from that range")
    return values.astype(np.int64)
