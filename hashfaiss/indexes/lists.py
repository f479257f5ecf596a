"""Exact answers from an IVF's own lists, by the native core."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import faiss
import numpy as np

from hashfaiss.codes import Codes
from hashfaiss.indexes import kernels
from hashfaiss.indexes.kind import Found, One

ASKED = 16  # codes with which it is measured how many are compared
NEAREST = 10
# What a code in a list takes, and a list, in codes that FAISS's flat scan compares meanwhile (measured, 64 bits)
CODE, LIST = {"avx512": 0.3, "avx2": 0.5, "neon": 0.5, "portable": 3.0}, 20.0


class ListSearch:
    """Searches the lists of a `faiss.IndexBinaryIVF`, where they lie: every answer is complete.

    Args:
        faiss_index: whose lists must not change.
        width, bits: bytes of a code there, and K.
        centroids: uint8 (lists, width).
        sample: codes of the index, uint8 (n, width).
    """

    def __init__(self, faiss_index: Any, width: int, bits: int, centroids: Codes, sample: Codes) -> None:
        self.bits, self._faiss, self._sample = bits, faiss_index, sample[:ASKED]
        codes, ids = [], []
        for number in range(faiss_index.nlist):
            size = faiss_index.invlists.list_size(number)
            if size:
                held = faiss.rev_swig_ptr(faiss_index.invlists.get_codes(number), size * width)
                codes.append(held.reshape(size, width))
                ids.append(faiss.rev_swig_ptr(faiss_index.invlists.get_ids(number), size))
            else:
                codes.append(np.empty((0, width), np.uint8))
                ids.append(np.empty(0, np.int64))
        self._lists = kernels.lists(codes, ids, centroids)
        self._within: dict[int, float] = {}

    def nearest(self, queries: Codes, k: int) -> Found:
        """The k nearest; k is at most the number of codes."""
        distances, positions, _ = kernels.nearest(self._lists, queries, k, faiss.omp_get_max_threads())
        offsets, complete = np.arange(0, k * len(queries) + 1, k), np.full(len(queries), self.bits, np.int32)
        return Found(offsets, positions.ravel(), distances.ravel(), complete)

    def nearest_one(self, query: Codes, k: int) -> One:
        """The same for one query."""
        distances, positions, _ = kernels.nearest(self._lists, query, k)
        return One(distances[0], positions[0], self.bits)

    def within(self, queries: Codes, radius: int) -> Found:
        """All within `radius`."""
        limits, distances, positions, _ = kernels.within(self._lists, queries, radius, faiss.omp_get_max_threads())
        return Found.of_ball(limits, distances, positions, np.full(len(queries), self.bits, np.int32))

    @property
    def alone(self) -> bool:
        """As `Kind.alone`."""
        return True

    @cached_property
    def work(self) -> float:
        """What one query for the nearest takes, as `Kind.work`; measured on codes of the index."""
        compared = kernels.nearest(self._lists, self._sample, min(NEAREST, self._faiss.ntotal)).compared
        return self._cost(compared)

    def work_within(self, radius: int) -> float:
        """What one query for a radius takes."""
        if radius not in self._within:
            self._within[radius] = self._cost(kernels.within(self._lists, self._sample, radius).compared)
        return self._within[radius]

    def _cost(self, compared: int) -> float:
        code = CODE[kernels.available() or "portable"]
        return code * compared / max(1, len(self._sample)) + LIST * int(self._faiss.nlist)
