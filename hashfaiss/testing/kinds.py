"""What every kind of index must do: the answers are those of comparing with every code."""

from __future__ import annotations

import os
import tempfile

import numpy as np
import numpy.typing as npt
import pytest

from hashfaiss.codes import Codes, hamming, pack
from hashfaiss.indexes import Answers, CodeIndex

CODES, QUERIES, BITS = 600, 20, 32
Data = tuple[Codes, npt.NDArray[np.int64], Codes]


class KindTests:
    """What a kind of index must do.

    Attributes:
        kind: as `--kind` takes it, such as "hash:b=8,flips=1".
    """

    kind: str

    @pytest.fixture(params=["random", "clustered", "repeated"])
    def data(self, request: pytest.FixtureRequest) -> Data:
        """Codes, ids with gaps, and queries."""
        random = np.random.default_rng(0)
        values = random.standard_normal((CODES + QUERIES, BITS))
        if request.param == "clustered":
            values = np.sign(random.standard_normal((5, BITS)))[random.integers(0, 5, len(values))]
            values = np.where(random.random(values.shape) < 0.1, -values, values)
        elif request.param == "repeated":
            values = values[random.integers(0, 9, len(values))]
        codes = pack(values)
        return codes[:CODES], random.choice(9 * CODES, CODES, replace=False), codes[CODES:]

    def check(self, found: Answers, data: Data, most: int) -> None:
        """Answers that are certified are brute force's; the others are in order, and of codes that there are."""
        codes, ids, queries = data
        for query, (got, distances), certified in zip(queries, found, found.exact, strict=True):
            real = hamming(query[None], codes)[0].astype(np.int64)
            order = np.lexsort((ids, real))
            kept = order[:most] if most > 0 else order[real[order] <= -most]
            if certified:
                assert (got.tolist(), distances.tolist()) == (ids[kept].tolist(), real[kept].tolist())
            else:
                place = dict(zip(ids.tolist(), real.tolist(), strict=True))
                assert [place[number] for number in got.tolist()] == distances.tolist()
                assert sorted(zip(distances.tolist(), got.tolist(), strict=True)) == [*zip(distances, got, strict=True)]

    @pytest.mark.parametrize("exact", [False, True])
    def test_answers(self, data: Data, exact: bool) -> None:
        codes, ids, queries = data
        index = CodeIndex(codes, ids, BITS, self.kind)
        for k in (1, 10, 700):
            found = index.search(queries, k, exact)
            assert found.exact.all() or not exact
            self.check(found, data, k)
        for radius in (1, 6, BITS):
            found = index.within(queries, radius, exact)
            assert found.exact.all() or not exact
            self.check(found, data, -radius)

    def test_what_came_and_went(self, data: Data) -> None:
        codes, ids, queries = data
        index = CodeIndex(codes[:500], ids[:500], BITS, self.kind)
        index.add(codes[500:], ids[500:])
        index.remove_ids(ids[:50])
        left = codes[50:], ids[50:], queries
        self.check(index.search(queries, 10, exact=True), left, 10)
        assert index.ntotal == CODES - 50

    def test_it_is_the_same_after_it_was_saved(self, data: Data) -> None:
        codes, ids, queries = data
        index = CodeIndex(codes, ids, BITS, self.kind)
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "saved.codes")
            index.save(path)
            again = CodeIndex.load(path)
        assert str(again.kind) == str(index.kind)
        for exact in (False, True):
            one, other = index.search(queries, 10, exact), again.search(queries, 10, exact)
            assert (one.ids.tolist(), one.distances.tolist(), one.exact.tolist()) == (
                other.ids.tolist(),
                other.distances.tolist(),
                other.exact.tolist(),
            )
