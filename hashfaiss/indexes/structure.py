"""FAISS's bytes, looked through before FAISS reads them: they hold the codes they are said to, and lead nowhere else.

FAISS takes sizes, ids and neighbours as they stand in a file. One that somebody else made, digest and all, would have
it answer wrongly, read beyond its memory, or never return. What is checked here is laid out as FAISS 1.15 writes it
(faiss/impl/index_write.cpp); anything else is refused, and the index is built anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from hashfaiss.codes import Codes, words
from hashfaiss.indexes.kind import SAMPLE, Arrays, Int64, Kind, ranges

Bytes = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

AT_ONCE = 1 << 16  # nodes of a graph, or codes of lists
SHUFFLE: Any = getattr(faiss, "bitvec_shuffle")  # noqa: B009, FAISS's stubs lack it


def check_structure(part: Bytes, kind: Kind, arrays: Arrays, codes: Codes, known: Mask) -> None:
    """ValueError (or KeyError) unless FAISS may read `part`, and finds in it what it should.

    Args:
        part: what FAISS wrote of an index of this kind.
        arrays: what the kind kept beside it.
        codes: uint8 (n, width), what the index is of.
        known: bool (n,): which of them there still are; of the others the index may hold anything.
    """
    if kind.name not in CHECKS:
        raise ValueError("FAISS's part is not read, but built anew")
    reader = _Reader(part)
    reader.require(arrays.get("sample", part[:0]).size <= SAMPLE * kind.width)  # each of it is asked for
    CHECKS[kind.name](reader, kind, arrays, codes, known)
    reader.require(reader.at == len(part))


class _Reader:
    """Takes FAISS's bytes apart, one after the other; ValueError where they end too early."""

    def __init__(self, data: Bytes) -> None:
        self.data, self.at = data, 0

    def require(self, sound: Any) -> None:
        if not sound:
            raise ValueError("FAISS's part is not as FAISS writes it")

    def array(self, kind: str, count: int) -> npt.NDArray[Any]:
        """The next `count` values."""
        size = np.dtype(kind).itemsize * count
        self.require(0 <= count <= len(self.data) and self.at + size <= len(self.data))
        values: npt.NDArray[Any] = self.data[self.at : self.at + size].view(kind)
        self.at += size
        return values

    def number(self, kind: str = "<i8") -> int:
        return int(self.array(kind, 1)[0])

    def vector(self, kind: str) -> npt.NDArray[Any]:
        """The next values, whose number comes first."""
        return self.array(kind, self.number())

    def header(self, name: bytes, width: int, count: int) -> None:
        """What every index begins with: fourcc, d, bytes of a code, number of codes, trained or not, metric."""
        self.require(self.array("u1", 4).tobytes() == name)
        self.require((self.number("<i4"), self.number("<i4"), self.number()) == (8 * width, width, count))
        trained, metric = self.number("u1"), self.number("<i4")
        self.require(trained in (int(count > 0), 1) and metric == 1)


def _same(reader: _Reader, held: Codes, codes: Codes, known: Mask) -> None:
    reader.require(np.array_equal(held, codes) if known.all() else (held[known] == codes[known]).all())


def _flat(reader: _Reader, kind: Kind, arrays: Arrays, codes: Codes, known: Mask) -> None:
    reader.header(b"IBxF", kind.width, len(codes))
    held = reader.vector("u1")
    reader.require(held.size == codes.size)
    _same(reader, held.reshape(codes.shape), codes, known)


def _ivf(reader: _Reader, kind: Kind, arrays: Arrays, codes: Codes, known: Mask) -> None:
    lists, width = kind.parameters["lists"], kind.width
    reader.header(b"IBwF", width, len(codes))
    reader.require(reader.number() == lists and reader.number() >= 1)
    held = lists if len(codes) else 0
    reader.header(b"IBxF", width, held)
    centroids = reader.vector("u1")
    reader.require(centroids.size == held * width)
    reader.require(reader.number("u1") == 0 and reader.number() == 0)  # no map from ids to lists
    sizes = _list_sizes(reader, lists, width)
    reader.require(sizes.sum() == len(codes))
    ids, in_lists = np.empty(len(codes), np.int64), np.empty_like(codes)
    at = 0
    for size in sizes[sizes > 0].tolist():
        in_lists[at : at + size] = reader.array("u1", size * width).reshape(size, width)
        ids[at : at + size] = reader.array("<i8", size)
        at += size
    _permutation(reader, ids, len(codes))
    _same(reader, in_lists, codes[ids], known[ids])
    if len(codes):  # of codes that are gone, too: the lists are searched by them
        _check_radii(reader, arrays["radii"], sizes, in_lists, centroids.reshape(-1, width))


def _list_sizes(reader: _Reader, lists: int, width: int) -> Int64:
    reader.require(reader.array("u1", 4).tobytes() == b"ilar")
    reader.require((reader.number(), reader.number()) == (lists, width))
    form, told = reader.array("u1", 4).tobytes(), reader.vector("<i8")
    if form == b"full":
        sizes = told.astype(np.int64)
    else:  # those that hold something, each with its number
        reader.require(form == b"sprs" and len(told) % 2 == 0)
        numbers = told[::2]
        reader.require(((numbers >= 0) & (numbers < lists)).all() and (np.diff(numbers) > 0).all())
        sizes = np.zeros(lists, np.int64)
        sizes[numbers] = told[1::2]
    reader.require(len(sizes) == lists and (sizes >= 0).all() and (sizes <= len(reader.data)).all())
    return sizes


def _permutation(reader: _Reader, ids: Int64, n: int) -> None:
    reader.require(len(ids) == n and (not n or 0 <= ids.min() <= ids.max() < n))
    seen = np.zeros(n, np.bool_)
    seen[ids] = True
    reader.require(seen.all())


def _check_radii(reader: _Reader, radii: npt.NDArray[Any], sizes: Int64, codes: Codes, centroids: Codes) -> None:
    """Certificates rest on them: no code of a list is farther from its centroid."""
    reader.require(radii.shape == (len(sizes),) and radii.dtype == np.int16)
    number = np.repeat(np.arange(len(sizes)), sizes)
    for start in range(0, len(codes), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        apart = np.bitwise_count(words(codes[part]) ^ words(centroids)[number[part]]).sum(axis=1)
        reader.require((apart <= radii[number[part]]).all())


def _hnsw(reader: _Reader, kind: Kind, arrays: Arrays, codes: Codes, known: Mask) -> None:
    n, m = len(codes), kind.parameters["m"]
    reader.header(b"IBHf", kind.width, n)
    chances, begins, levels = reader.vector("<f8"), reader.vector("<i4"), reader.vector("<i4")
    reader.require(((chances >= 0) & (chances <= 1)).all() and 0 < len(begins) < 1 << 10)
    layers = np.arange(len(begins))
    reader.require((begins == np.where(layers > 0, m * (layers + 1), 0)).all())
    reader.require(len(levels) == n and ((levels >= 1) & (levels < len(begins))).all())
    offsets, neighbours = reader.vector("<u8").astype(np.int64), reader.vector("<i4")
    reader.require(len(offsets) == n + 1 and offsets[0] == 0 and offsets[-1] == len(neighbours))
    reader.require((np.diff(offsets) == begins[levels]).all())
    reader.require(not len(neighbours) or -1 <= neighbours.min() <= neighbours.max() < n)
    high = np.flatnonzero(levels > 1)
    for start in range(0, len(high), AT_ONCE):
        nodes = high[start : start + AT_ONCE]
        upper = begins[levels[nodes]] - 2 * m
        slots = ranges(offsets[nodes] + 2 * m, upper.astype(np.int64))
        layer = 1 + (slots - np.repeat(offsets[nodes] + 2 * m, upper)) // m
        found = neighbours[slots]
        there = found >= 0
        reader.require((levels[found[there]] > layer[there]).all())  # who is not up there has no neighbours there
    entry, top, construction, search, _ = (reader.number("<i4") for _ in range(5))
    reader.require(0 <= entry < n and 0 <= top < levels[entry] if n else entry == -1)
    reader.require(construction >= 1 and search >= 1)
    _flat(reader, kind, arrays, codes, known)


def _hash(reader: _Reader, kind: Kind, arrays: Arrays, codes: Codes, known: Mask) -> None:
    n, width, b = len(codes), kind.width, kind.parameters["b"]
    reader.header(b"IBHh", width, n)
    reader.require((reader.number("<i4"), reader.number("<i4")) == (b, kind.parameters["flips"]))
    buckets, bits = reader.number(), reader.number("<i4")
    packed = reader.vector("u1")
    reader.require(0 <= buckets <= n and 0 <= bits < 48 and len(packed) == (buckets * (b + bits) + 7) // 8)
    named = np.unpackbits(packed, bitorder="little", count=buckets * (b + bits)).reshape(buckets, b + bits)
    hashes, sizes = _numbers(named[:, :b]), _numbers(named[:, b:])
    reader.require((sizes >= 1).all() and sizes.sum() == n)
    reader.require(len(np.unique(hashes)) == buckets)
    starts = reader.at + np.cumsum((8 + width) * sizes + 16) - ((8 + width) * sizes + 16)
    body = reader.array("u1", (8 + width) * n + 16 * buckets)
    starts -= reader.at - len(body)
    reader.require((_at(body, starts) == sizes).all())
    reader.require((_at(body, starts + 8 + 8 * sizes) == sizes * width).all())
    ids = _at(body, np.repeat(starts + 8, sizes) + 8 * ranges(np.zeros_like(sizes), sizes))
    _permutation(reader, ids, n)
    held = body[ranges(starts + 16 + 8 * sizes, sizes * width)].reshape(n, width)
    ordered = _ordered(reader, arrays["order"], codes)
    _same(reader, held, ordered[ids], known[ids])
    reader.require((_hashes(held, 0, b) == np.repeat(hashes, sizes)).all())


def _multihash(reader: _Reader, kind: Kind, arrays: Arrays, codes: Codes, known: Mask) -> None:
    n, (tables, b, flips) = len(codes), (kind.parameters[name] for name in ("tables", "b", "flips"))
    reader.header(b"IBHm", kind.width, n)
    ordered = _ordered(reader, arrays["order"], codes)
    reader.header(b"IBxF", kind.width, n)
    held = reader.vector("u1")
    reader.require(held.size == codes.size)
    held = held.reshape(codes.shape)
    _same(reader, held, ordered, known)
    reader.require([reader.number("<i4") for _ in range(3)] == [b, tables, flips])
    for table in range(tables):
        _table(reader, b, _hashes(held, table * b, b))


def _table(reader: _Reader, b: int, hashes: Int64) -> None:
    """Of each bucket its name, in b bits, how many codes it has, and their numbers, in as many bits as n has."""
    n, bits, buckets = len(hashes), reader.number("<i4"), reader.number()
    reader.require(bits == max(0, n - 1).bit_length() and 0 <= buckets <= n)
    packed = reader.vector("u1")
    reader.require(len(packed) == (buckets * (b + bits) + n * bits + 7) // 8)
    data, at, names, sizes = packed.tobytes(), 0, [], []
    for _ in range(buckets):
        told = int.from_bytes(data[at >> 3 : (at + b + bits + 7) >> 3], "little") >> (at & 7)
        names.append(told & ((1 << b) - 1))
        sizes.append((told >> b) & ((1 << bits) - 1))
        at += b + bits * (1 + sizes[-1])
        reader.require(at <= 8 * len(data))
    count = np.array(sizes, np.int64)
    reader.require(count.sum() == n and len(set(names)) == buckets)
    starts = np.cumsum(b + bits * (1 + count)) - bits * count
    places = np.repeat(starts, count) + bits * ranges(np.zeros_like(count), count)
    unpacked = np.unpackbits(packed, bitorder="little")
    ids = np.concatenate(
        [np.empty(0, np.int64)]
        + [_numbers(unpacked[places[at : at + AT_ONCE, None] + np.arange(bits)]) for at in range(0, n, AT_ONCE)]
    )
    _permutation(reader, ids, n)
    reader.require((hashes[ids] == np.repeat(np.array(names, np.int64), count)).all())


def _ordered(reader: _Reader, order: npt.NDArray[Any], codes: Codes) -> Codes:
    """Codes with their bits in this order."""
    width = 8 * codes.shape[1]
    reader.require(np.array_equal(np.sort(order), np.arange(width)))
    ordered = np.empty_like(codes)
    pointers = [faiss.swig_ptr(array) for array in (order.astype(np.int32), np.ascontiguousarray(codes), ordered)]
    SHUFFLE(len(codes), width, width, *pointers)
    return ordered


def _hashes(codes: Codes, first: int, b: int) -> Int64:
    """The number that b bits from the first one on make."""
    bits = np.unpackbits(codes, axis=1, bitorder="little")[:, first : first + b]
    return _numbers(bits)


def _numbers(bits: npt.NDArray[np.uint8]) -> Int64:
    """Rows of bits, the least first, as numbers."""
    return bits.astype(np.int64) @ (np.int64(1) << np.arange(bits.shape[1]))


def _at(data: Bytes, places: Int64) -> Int64:
    """The int64 that begin at these places."""
    return np.ascontiguousarray(data[places[:, None] + np.arange(8)]).view("<i8")[:, 0]


CHECKS: dict[str, Callable[[_Reader, Kind, Arrays, Codes, Mask], None]] = {
    "flat": _flat,
    "gpu": _flat,
    "ivf": _ivf,
    "hnsw": _hnsw,
    "hash": _hash,
    "multihash": _multihash,
}
