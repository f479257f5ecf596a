"""The native core (kernels.c), where it was compiled; without it FAISS does the work, and every answer is the same.

HASHFAISS_KERNELS in the environment, read when this module is imported, turns it off (0) or names the instruction set
to use: avx512, avx2, neon, portable.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, NamedTuple, NewType, TypeVar

import numpy as np
import numpy.typing as npt

from hashfaiss.codes import Codes
from hashfaiss.ending import submit
from hashfaiss.errors import ArgumentError

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Lists = NewType("Lists", object)
Result = TypeVar("Result")

POSITION = (1 << 48) - 1
# Codes of so many bytes that are compared while FAISS's flat index compares one, in batches of 32 and more: measured on
# an AMD EPYC with AVX-512, FAISS 1.15.1. NEON was not measured, and is taken for little.
SPEED = {
    "avx512": {4: 9.0, 8: 11.0, 16: 7.0, 20: 5.0, 24: 12.0, 32: 4.0, 40: 6.0, 48: 6.0, 56: 5.0},
    "avx2": {4: 2.2, 8: 3.0, 16: 1.8, 20: 1.7, 24: 4.0, 32: 1.1, 40: 2.5, 48: 2.3, 56: 2.0},
    "neon": {4: 1.5, 8: 1.5, 16: 1.5},
}
WIDER = {"avx512": 2.5}  # of 64 bytes and more
FEW, NARROW = 32, 32  # fewer queries than so many search codes of more bytes slower than FAISS


class Nearest(NamedTuple):
    """The k nearest of each query, by (distance, position), and how many codes were compared."""

    distances: Int32
    positions: Int64
    compared: int


class Within(NamedTuple):
    """All within a radius, in any order: query q's are at limits[q] to limits[q + 1]; and how many were compared."""

    limits: Int64
    distances: Int32
    positions: Int64
    compared: int


def _loaded(asked: str) -> tuple[Any, str | None]:
    """The compiled module and the instruction set it is to use."""
    core: Any = None
    if asked != "0":
        with suppress(ImportError):
            core = importlib.import_module("hashfaiss.indexes._kernels")
    names = core.paths() if core else []
    if asked not in ("", "0", *names):
        raise ArgumentError(
            f"HASHFAISS_KERNELS is {asked!r}: give 0, or what was compiled and this processor has: "
            f"{', '.join(names) or 'nothing'}"
        )
    if not names:
        return None, None
    core.use(asked or names[0])
    return core, asked or names[0]


_asked = os.environ.get("HASHFAISS_KERNELS", "")
_core, _path = _loaded(_asked)


def available() -> str | None:
    """The instruction set that the native core uses, or None where FAISS does the work."""
    return _path


def paths() -> list[str]:
    """The instruction sets that were compiled and that this processor has, fastest first."""
    found: list[str] = _core.paths() if _core else []
    return found


def speed(width: int) -> float:
    """Codes of `width` bytes that a flat scan compares while FAISS's compares one, at least 1."""
    return SPEED.get(_path or "", {}).get(width, WIDER.get(_path or "", 1.0))


def pays(width: int, queries: int) -> bool:
    """Whether a flat scan is faster than FAISS's. What is asked for by name is used."""
    if _path is None or _asked:
        return _path is not None
    return speed(width) > 1 and (width <= NARROW or queries >= FEW)


def nearest(place: Codes | Lists, queries: Codes, k: int, threads: int = 1) -> Nearest:
    """The k nearest of `queries` (n, bytes) among codes (rows, bytes) or in lists.

    Where there are fewer, the rest are at position -1. Positions are rows, or ids of the lists from 0 to 2^48 - 1.

    Raises:
        ValueError, TypeError: arrays of another type or shape, codes that are not contiguous, or a k below 1.
    """
    queries = np.ascontiguousarray(queries)
    distances, positions = np.empty((len(queries), k), np.int32), np.empty((len(queries), k), np.int64)
    if threads == 1:
        return Nearest(distances, positions, _core.nearest(place, queries, distances, positions))

    def search(rows: slice) -> int:
        compared: int = _core.nearest(place, queries[rows], distances[rows], positions[rows])
        return compared

    return Nearest(distances, positions, sum(_shared(len(queries), threads, search)))


def within(place: Codes | Lists, queries: Codes, radius: int, threads: int = 1) -> Within:
    """All at distance `radius` or less, among codes or in lists; errors as `nearest`."""
    queries, counts = np.ascontiguousarray(queries), np.empty(len(queries), np.int64)

    def search(rows: slice) -> tuple[bytes, int]:
        found: tuple[bytes, int] = _core.within(place, radius, queries[rows], counts[rows])
        return found

    parts = _shared(len(queries), threads, search)
    keys = np.concatenate([np.frombuffer(found, np.uint64) for found, _ in parts]).view(np.int64)
    limits = np.concatenate([[0], counts.cumsum()])
    return Within(limits, (keys >> 48).astype(np.int32), keys & POSITION, sum(compared for _, compared in parts))


def lists(codes: Sequence[Codes], ids: Sequence[Int64], centroids: Codes) -> Lists:
    """Inverted lists to search in; their arrays stay where they are and must not change.

    Args:
        codes, ids: uint8 (n, bytes) and int64 (n,) of each list. One whose codes are in order of their distance from
            its centroid is searched in part.
        centroids: uint8 (lists, bytes).
    """
    return Lists(_core.lists(codes, ids, centroids))


def assign(codes: Codes, centroids: Codes, threads: int = 1) -> tuple[Int32, Int32]:
    """For each of `codes` (n, bytes) its distance from the nearest centroid, and which that is: the first of equals."""
    codes, centroids = np.ascontiguousarray(codes), np.ascontiguousarray(centroids)
    distances, numbers = np.empty(len(codes), np.int32), np.empty(len(codes), np.int32)
    _shared(len(codes), threads, lambda rows: _core.assign(codes[rows], centroids, distances[rows], numbers[rows]))
    return distances, numbers


_pool: ThreadPoolExecutor | None = None


def _shared(rows: int, threads: int, work: Callable[[slice], Result]) -> list[Result]:
    """What `work` makes of `rows`, cut into a slice for each thread."""
    global _pool
    size = -(-rows // max(1, threads))
    if size == rows:
        return [work(slice(0, rows))]
    if _pool is None:
        _pool = ThreadPoolExecutor(os.cpu_count(), "kernels")
    futures = [submit(_pool, work, slice(start, start + size)) for start in range(0, rows, size)]
    try:
        return [future.result() for future in futures]
    finally:  # of what was interrupted
        for future in futures:
            future.cancel()


def _forget_pool() -> None:
    global _pool
    _pool = None


if hasattr(os, "register_at_fork"):  # threads do not survive a fork
    os.register_at_fork(after_in_child=_forget_pool)
