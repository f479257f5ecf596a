"""Flat on a GPU."""

from __future__ import annotations

import threading
from typing import Any

import faiss
import numpy as np

from hashfaiss.codes import Codes
from hashfaiss.errors import ArgumentError
from hashfaiss.indexes.flat import Flat
from hashfaiss.indexes.kind import Abilities, Arrays, Found

MOST = 2048  # answers that FAISS's GPU search gives at most
TIES = 118  # nearest codes asked for beyond k: of a million codes, hardly a query's k-th ties beyond them
BATCH = 16  # queries below which the way to the GPU costs more than the scan


class GpuFlat(Flat):
    """`faiss.GpuIndexBinaryFlat` for batches; few queries, large k and radii are answered by the CPU's flat index."""

    name = "gpu"
    abilities = Abilities(
        summary="compares with every distinct code, on a GPU",
        guarantee="every answer is exact",
        bytes_per_code="W, and W on the GPU",
        parameters={},
        radius="by the same scan, complete",
        exact="every answer is",
    )

    def complete(self, distinct: int, given: dict[str, int]) -> dict[str, int]:
        if not faiss.get_num_gpus():  # without one, making the index would abort the process
            raise ArgumentError("the gpu kind needs a GPU, and faiss sees none: give flat")
        return {}

    def build(self, codes: Codes) -> None:
        super().build(codes)
        self._to_gpu()

    def restore(self, index: Any, arrays: Arrays) -> None:
        super().restore(index, arrays)
        self._to_gpu()

    def _to_gpu(self) -> None:
        self._lock = threading.Lock()
        self._resources = faiss.StandardGpuResources()
        self._gpu = faiss.GpuIndexBinaryFlat(self._resources, self.faiss)

    def nearest(self, queries: Codes, k: int) -> Found:
        asked = min(k + TIES, self.faiss.ntotal)
        if len(queries) < BATCH or asked > MOST:
            return super().nearest(queries, k)
        with self._lock:  # FAISS's resources of a GPU are not for several threads
            distances, positions = self._gpu.search(queries, asked)
        complete = np.full(len(queries), self.bits, np.int32)
        return self.settled(queries, distances, positions, k, complete)  # its order of ties is not specified
