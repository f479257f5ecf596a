"""Flat: compares the query with every distinct code."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np

from hashfaiss.codes import Codes
from hashfaiss.indexes.kind import Abilities, Found, Kind, One


class Flat(Kind):
    """`faiss.IndexBinaryFlat`: exact, and the yardstick of every other kind."""

    name = "flat"
    certified = 1.0
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
        distances, positions = self.faiss.search(queries, k)  # FAISS.md section 1: in (distance, position) order
        offsets = np.arange(0, k * len(queries) + 1, k)
        return Found(offsets, positions.ravel(), distances.ravel(), np.full(len(queries), self.bits, np.int32))

    def nearest_one(self, query: Codes, k: int) -> One:
        distances, positions = self.faiss.search(query, k)
        return One(distances[0], positions[0], self.bits)

    def within(self, queries: Codes, radius: int) -> Found:
        limits, distances, positions = self.faiss.range_search(queries, radius + 1)  # FAISS's radius is strict
        return Found.of_ball(limits, distances, positions, np.full(len(queries), self.bits, np.int32))

    @property
    def work(self) -> float:
        return float(self.faiss.ntotal)
