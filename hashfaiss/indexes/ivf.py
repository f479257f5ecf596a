"""IVF: codes in lists round centroids; a query looks into the lists with the nearest centroids."""

from __future__ import annotations

import threading
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from hashfaiss.codes import Codes, hamming_of_words, words
from hashfaiss.indexes import kernels
from hashfaiss.indexes.clusters import centroids_of, nearest_centroids
from hashfaiss.indexes.kind import SLACK, SPARE, Abilities, Arrays, Found, Int32, Int64, Kind, One, by_radius, sampled
from hashfaiss.indexes.lists import ListSearch

CODES_PER_ADD = 1 << 18  # a call into FAISS cannot be interrupted
SCAN = 1.2  # a code in a list costs this many in a flat scan (measured: 0.9 to 1.4),
LIST = 25.0  # and a list as many as this on top, its centroid's comparison included.
RARE = 0.05  # where probes prove so few answers, looking for proof costs more than it gives
LARGE = 20_000  # a list that holds nothing is this far away
ROWS = 64  # queries whose distances from all centroids stay in the processor's cache


class IVF(Kind):
    """`faiss.IndexBinaryIVF`: lists of codes round centroids that k-means finds.

    With r_c the greatest distance of a code in list c from its centroid, a code of that list is at least d(q, c) - r_c
    away from q (triangle inequality). A query has therefore seen every code nearer than the least such bound among
    the lists it did not visit. A list holds its codes in order of their distance from the centroid: of a list it does
    visit, the native core compares only those as far from the centroid as the query is, give or take the distance that
    matters.
    """

    name = "ivf"
    knob = "probes"
    _certain: ListSearch | None = None
    abilities = Abilities(
        summary="looks into the lists of codes whose centroids are nearest",
        guarantee="exact where the lists not visited are provably too far; each answer says whether they are",
        bytes_per_code="W + 8",
        parameters={
            "lists": "lists of codes (default: about sqrt(distinct codes), 1 to 65536)",
            "probes": "lists a query looks into (default 8)",
        },
        exact="visits every list that may hold an answer",
    )

    def complete(self, distinct: int, given: dict[str, int]) -> dict[str, int]:
        fitting = min(1 << 16, max(1, distinct))
        chosen = 1 << max(0, round(np.log2(max(1, distinct)) / 2))  # 1,024 lists for a million codes
        lists = self.within_range("lists", given.get("lists", min(fitting, chosen)), 1, 1 << 16)
        lists = min(lists, fitting)
        return {"lists": lists, "probes": self.within_range("probes", given.get("probes", min(8, lists)), 1, 1 << 16)}

    def build(self, codes: Codes) -> None:
        lists, d = self.parameters["lists"], 8 * self.width
        index = faiss.IndexBinaryIVF(faiss.IndexBinaryFlat(d), d, lists)
        self._radii = np.full(lists, -LARGE, np.int16)
        if len(codes):
            centroids = centroids_of(codes, lists)
            index.quantizer.add(centroids)
            index.is_trained = True
            distances, numbers = nearest_centroids(codes, centroids)
            np.maximum.at(self._radii, numbers, distances.astype(np.int16))
            _fill(index, codes, numbers, np.lexsort((distances, numbers)))
        self._take(index)
        self.measure(sampled(codes))

    def accepts(self, index: Any) -> bool:
        return (
            isinstance(index, faiss.IndexBinaryIVF)
            and index.nlist == self.parameters["lists"]
            and index.quantizer.ntotal == (index.nlist if index.ntotal else 0)
        )

    @property
    def held_bytes(self) -> float:
        return float(SLACK * self.faiss.ntotal * (self.width + 8) + len(self._sizes) * 200)

    def arrays(self) -> Arrays:
        return {"radii": self._radii, "sample": self.sample}

    def restore(self, index: Any, arrays: Arrays) -> None:
        radii, sample = arrays["radii"], arrays["sample"]
        if radii.shape != (index.nlist,) or radii.dtype != np.int16 or sample.dtype != np.uint8:
            raise ValueError("radii")
        self._take(index)
        self._radii = radii.astype(np.int16)
        self.measure(sample.astype(np.uint8).reshape(-1, self.width))

    def _take(self, index: Any) -> None:
        self.faiss, self._certain = index, None
        index.nprobe = min(self.parameters["probes"], index.nlist)
        quantizer: Any = faiss.downcast_IndexBinary(index.quantizer)
        self._centroids = words(faiss.vector_to_array(quantizer.xb).reshape(-1, self.width))
        self._quantizer = quantizer
        self._sizes = np.array([index.invlists.list_size(number) for number in range(index.nlist)], np.int64)
        # FAISS takes the number of lists to visit from the index, so visits of other numbers have one of their own
        self._wide = faiss.IndexBinaryIVF(quantizer, index.d, index.nlist)
        self._wide.replace_invlists(index.invlists, False)
        self._wide.ntotal = index.ntotal
        self._wide_lock = threading.Lock()

    @property
    def certain(self) -> ListSearch | None:
        if not kernels.available() or not self.faiss.ntotal or self.faiss.ntotal != self._sizes.sum():
            return None
        if self._certain is None:
            centroids = faiss.vector_to_array(self._quantizer.xb).reshape(-1, self.width)
            self._certain = ListSearch(self.faiss, self.width, self.bits, centroids, self.sample)
        return self._certain

    def nearest(self, queries: Codes, k: int) -> Found:
        if self.certified <= RARE:
            distances, positions = self.faiss.search(queries, min(k, self.faiss.ntotal))
            return Found.of_nearest(distances, positions, k, np.full(len(queries), -1, np.int32))
        probes = self.faiss.nprobe
        near, lists = self._quantizer.search(queries, min(probes + 1, self.faiss.nlist))
        visited, limit = lists[:, :probes], np.full(len(queries), self.bits, np.int32)
        if probes < self.faiss.nlist:
            # most certificates are ruled out by the nearest list not visited, without a look at the others
            limit = near[:, probes] - self._radii[lists[:, probes]] - 1
            hopeful = np.flatnonzero(limit >= 0)
            limit[hopeful] = self._complete(queries[hopeful], visited[hopeful])
            limit = np.maximum(limit, -1)
        sure = limit >= 0
        if sure.all() or not sure.any():
            return self._visit(queries, visited, k, limit)
        found = Found.nothing(len(queries), -1)
        for rows in (np.flatnonzero(sure), np.flatnonzero(~sure)):
            found = found.put(rows, self._visit(queries[rows], visited[rows], k, limit[rows]))
        return found

    def nearest_one(self, query: Codes, k: int) -> One:
        if self.certified <= RARE:
            return self.settled_one(query, self.faiss.search(query, min(k, self.faiss.ntotal)), k, -1)
        probes, limit = self.faiss.nprobe, self.bits
        near, lists = self._quantizer.search(query, min(probes + 1, self.faiss.nlist))
        visited = lists[:, :probes]
        if probes < self.faiss.nlist:
            limit = int(near[0, probes]) - int(self._radii[lists[0, probes]]) - 1
            if limit >= 0:
                limit = int(self._complete(query, visited)[0])
        asked = min(k + SPARE if limit >= 0 else k, self.faiss.ntotal)
        found = self.faiss.search_preassigned(query, asked, visited, None)
        return self.settled_one(query, found, k, max(limit, -1))

    def _visit(self, queries: Codes, lists: Int64, k: int, limit: Int32) -> Found:
        """The k nearest in these lists; `limit` is what they prove, of all queries or of none."""
        spare = SPARE if (limit >= 0).any() else 0  # what proves nothing need not be settled
        asked = min(k + spare, self.faiss.ntotal)
        distances, positions = self.faiss.search_preassigned(queries, asked, lists, None)
        if not spare:
            return Found.of_nearest(distances, positions, k, limit)
        return self.settled(queries, distances, positions, k, limit)

    def within(self, queries: Codes, radius: int) -> Found:
        near, lists = self._quantizer.search(queries, self.faiss.nprobe)
        limits, distances, positions = self.faiss.range_search_preassigned(queries, radius + 1, lists, near)
        return Found.of_ball(limits, distances, positions, self._complete(queries, lists))

    def _complete(self, queries: Codes, visited: Int64) -> Int32:
        """The greatest distance at which the lists not visited hold no code."""
        if visited.shape[1] == len(self._radii):
            return np.full(len(queries), self.bits, np.int32)
        least = np.empty(len(queries), np.int32)
        for start in range(0, len(queries), ROWS):
            bounds = self._bounds(queries[start : start + ROWS])
            np.put_along_axis(bounds, visited[start : start + ROWS], LARGE, axis=1)
            least[start : start + ROWS] = bounds.min(axis=1)
        return np.minimum(least - 1, self.bits, dtype=np.int32)

    def _bounds(self, queries: Codes) -> npt.NDArray[np.int16]:
        """No code of list c is nearer to query q than bounds[q, c]: int16 (queries, lists)."""
        bounds = self._distances(queries)
        bounds -= self._radii
        return bounds

    def _distances(self, queries: Codes) -> npt.NDArray[np.int16]:
        """From every centroid: int16 (queries, lists)."""
        return hamming_of_words(words(queries), self._centroids).view(np.int16)

    def turn(self, value: int) -> bool:
        if value > self.faiss.nlist:
            return False
        self.parameters["probes"] = self.faiss.nprobe = value
        self.measure(self.sample)
        return True

    def balls(self, queries: Codes, radii: Int32, limit: float) -> tuple[Int64, Found]:
        if not len(queries):
            return super().balls(queries, radii, limit)
        weights = self._sizes * SCAN + LIST
        rows, counts, visits = [], [], []
        for start in range(0, len(queries), ROWS):
            near = self._bounds(queries[start : start + ROWS]) <= radii[start : start + ROWS, None]
            cheap = np.flatnonzero(near @ weights < limit)
            query, number = np.nonzero(near[cheap])
            rows.append(cheap + start)
            counts.append(np.bincount(query, minlength=len(cheap)))
            visits.append(number)
        chosen, count = np.concatenate(rows), np.concatenate(counts)
        lists = np.full((len(chosen), max(1, int(count.max(initial=0)))), -1, np.int64)
        lists[np.arange(lists.shape[1]) < count[:, None]] = np.concatenate(visits)

        def search(asked: Codes, places: Int64, radius: int) -> Found:
            most = max(1, int(count[places].max()))
            with self._wide_lock:
                self._wide.nprobe = most
                found = self._wide.range_search_preassigned(asked, radius + 1, lists[places, :most], None)
            return Found.of_ball(*found, np.full(len(asked), radius, np.int32))

        return chosen, by_radius(queries[chosen], radii[chosen], search)

    @property
    def work(self) -> float:
        seen: float = self.faiss.nprobe * SCAN * self.faiss.ntotal / len(self._radii)
        return seen + LIST * len(self._radii) / 8


def _fill(index: Any, codes: Codes, numbers: Int32, order: Int64) -> None:
    """Put codes into the lists of these numbers, in this order, under their positions."""
    for start in range(0, len(codes), CODES_PER_ADD):
        positions = order[start : start + CODES_PER_ADD]
        rows, places = codes[positions], numbers[positions].astype(np.int64)
        index.add_core(len(rows), faiss.swig_ptr(rows), faiss.swig_ptr(positions), faiss.swig_ptr(places))
