"""Flat: compares the query with every distinct code."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np

from hashfaiss.codes import Codes
from hashfaiss.indexes import kernels
from hashfaiss.indexes.kind import Abilities, Found, Kind, One


class Flat(Kind):
    """`faiss.IndexBinaryFlat`: exact, and the yardstick of every other kind."""

    name = "flat"
    certified = 1.0
    _held: Codes | None = None
    abilities = Abilities(
        summary="compares with every distinct code",
        guarantee="every answer is exact",
        bytes_per_code="W",
        parameters={},
        radius="by the same scan, complete",
        exact="every answer is",
    )

    def build(self, codes: Codes) -> None:
        self.faiss = faiss.IndexBinaryFlat(8 * self.width)
        self.faiss.add(codes)  # at once: 10 million codes take 0.05 s, and slices would leave up to twice the memory

    @property
    def held_bytes(self) -> float:
        return float(self.faiss.ntotal * self.width)

    def accepts(self, index: Any) -> bool:
        return isinstance(index, faiss.IndexBinaryFlat)

    def nearest(self, queries: Codes, k: int) -> Found:
        offsets, complete = np.arange(0, k * len(queries) + 1, k), np.full(len(queries), self.bits, np.int32)
        rows = self._rows(len(queries))
        if rows is None:
            distances, positions = self.faiss.search(queries, k)  # FAISS.md section 1: in (distance, position) order
        else:
            distances, positions, _ = kernels.nearest(rows, queries, k, faiss.omp_get_max_threads())
        return Found(offsets, positions.ravel(), distances.ravel(), complete)

    def nearest_one(self, query: Codes, k: int) -> One:
        rows = self._rows(1)
        if rows is None:
            distances, positions = self.faiss.search(query, k)
        else:
            distances, positions, _ = kernels.nearest(rows, query, k)
        return One(distances[0], positions[0], self.bits)

    def within(self, queries: Codes, radius: int) -> Found:
        complete, rows = np.full(len(queries), self.bits, np.int32), self._rows(len(queries))
        if rows is None:
            limits, distances, positions = self.faiss.range_search(queries, radius + 1)  # FAISS's radius is strict
        else:
            limits, distances, positions, _ = kernels.within(rows, queries, radius, faiss.omp_get_max_threads())
        return Found.of_ball(limits, distances, positions, complete)

    def _rows(self, queries: int) -> Codes | None:
        """FAISS's codes (n, width), where they lie, for the native core; None where FAISS is to search so many."""
        n = self.faiss.ntotal
        if not n or not kernels.pays(self.width, queries):
            return None
        if self._held is None or len(self._held) != n:  # whoever has the index itself may have added to it
            self._held = faiss.rev_swig_ptr(self.faiss.xb.data(), n * self.width).reshape(-1, self.width)
        return self._held

    @property
    def alone(self) -> bool:
        return self._rows(1) is not None

    @property
    def work(self) -> float:
        return scan_work(self.faiss.ntotal, self.width)


def scan_work(codes: int, width: int) -> float:
    """What a flat scan takes for one query of a batch, in codes that FAISS compares meanwhile."""
    return codes / kernels.speed(width)
