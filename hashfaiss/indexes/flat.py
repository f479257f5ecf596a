"""Flat: compares the query with every distinct code."""

from __future__ import annotations

import faiss

from hashfaiss.codes import Codes, code_bytes
from hashfaiss.indexes.kind import Abilities, Kind


class Flat(Kind):
    """`faiss.IndexBinaryFlat`: exact, and the yardstick of every other kind."""

    name = "flat"
    abilities = Abilities(
        summary="compares with every distinct code",
        guarantee="every answer is exact",
        bytes_per_code="K/8",
        parameters={},
    )
    lowest_first = True

    def build(self, codes: Codes) -> faiss.IndexBinary:
        index = faiss.IndexBinaryFlat(8 * code_bytes(self.bits))
        index.add(codes)  # at once: 10 million codes take 0.05 s, and slices would leave up to twice the memory
        return index

    def accepts(self, index: faiss.IndexBinary) -> bool:
        return isinstance(index, faiss.IndexBinaryFlat)

    @property
    def complete_radius(self) -> int:
        return self.bits
