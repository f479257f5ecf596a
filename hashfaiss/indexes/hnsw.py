"""HNSW: walks a graph of near codes."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np

from hashfaiss.codes import Codes
from hashfaiss.indexes.kind import Abilities, Found, Int32, Int64, Kind

WALK: Any = getattr(faiss, "SearchParametersHNSW")  # noqa: B009, FAISS's stubs lack it
MOST_EF = 2048  # beyond, a flat scan is as fast
CODES_PER_ADD = 1 << 12  # a call into FAISS cannot be interrupted (about 0.1 s)


class HNSW(Kind):
    """`faiss.IndexBinaryHNSW`: a navigable graph (Malkov & Yashunin 2018). It proves nothing about its answers.

    Over repeated codes it loses its way (FAISS.md section 4); over distinct codes, as here, it does not.
    """

    name = "hnsw"
    knob = "ef"
    abilities = Abilities(
        summary="walks a graph of near codes",
        guarantee="none: no answer is certified",
        bytes_per_code="W + 8 m + 16",
        parameters={
            "m": "neighbours of a code in the graph (default 16)",
            "ef": "codes kept in sight on the way, at least k (default 64)",
        },
        certifies=False,
        radius="of the ef codes in sight those within it",
        exact="by a flat scan",
    )

    def complete(self, distinct: int, given: dict[str, int]) -> dict[str, int]:
        return {
            "m": self.within_range("m", given.get("m", 16), 2, 256),
            "ef": self.within_range("ef", given.get("ef", 64), 1, 1 << 16),
        }

    def build(self, codes: Codes) -> None:
        self.faiss = faiss.IndexBinaryHNSW(8 * self.width, self.parameters["m"])
        for start in range(0, len(codes), CODES_PER_ADD):
            self.faiss.add(codes[start : start + CODES_PER_ADD])

    @property
    def held_bytes(self) -> float:
        return float(self.faiss.ntotal * (self.width + 8 * self.parameters["m"] + 16))

    def accepts(self, index: Any) -> bool:
        # level 0 has 2 m neighbours
        return isinstance(index, faiss.IndexBinaryHNSW) and index.hnsw.nb_neighbors(0) == 2 * self.parameters["m"]

    def nearest(self, queries: Codes, k: int) -> Found:
        walk = WALK(efSearch=max(k, self.parameters["ef"]))
        distances, positions = self.faiss.search(queries, k, params=walk)
        return Found.of_nearest(distances, positions, k, _unknown(queries))

    def turn(self, value: int) -> bool:
        if value > MOST_EF:
            return False
        self.parameters["ef"] = value
        return True

    def within(self, queries: Codes, radius: int) -> Found:
        distances, positions = self._in_sight(queries)
        inside = (positions >= 0) & (distances <= radius)
        limits = np.concatenate([[0], inside.sum(axis=1).cumsum()]).astype(np.uint64)
        return Found.of_ball(limits, distances[inside], positions[inside], _unknown(queries))

    def _in_sight(self, queries: Codes) -> tuple[Int32, Int64]:
        k = min(self.parameters["ef"], self.faiss.ntotal)
        walk = WALK(efSearch=self.parameters["ef"])
        found: tuple[Int32, Int64] = self.faiss.search(queries, k, params=walk)
        return found

    @property
    def work(self) -> float:
        return 60.0 * self.parameters["ef"] * self.parameters["m"]


def _unknown(queries: Codes) -> Int32:
    return np.full(len(queries), -1, np.int32)
