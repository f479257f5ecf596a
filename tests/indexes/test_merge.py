"""Answers of the parts of an index, merged, are those of the whole, and certified only where they are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashfaiss.codes import pack
from hashfaiss.errors import ArgumentError
from hashfaiss.indexes import Answers, CodeIndex, Together, nearest_by_outputs, rerank

KINDS = ["flat", "hash:b=4,flips=1", "multihash:tables=2,b=4,flips=0", "ivf:lists=3,probes=1", "hnsw"]


def parted(seed, n, parts, bits=16):
    """Codes that repeat and tie, ids that have holes, and which part each is of."""
    random = np.random.default_rng(seed)
    centres = random.integers(0, 256, (4, bits // 8), dtype=np.uint8)
    codes = centres[random.integers(0, 4, n)] ^ (1 << random.integers(0, 8, (n, bits // 8))).astype(np.uint8)
    ids = np.sort(random.permutation(3 * n)[:n])
    return codes, ids, random.integers(0, parts, n), random


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("exact", [True, False])
@given(st.integers(0, 2**31), st.integers(1, 60), st.integers(1, 5), st.integers(1, 70), st.integers(0, 17))
def test_merged_answers_are_those_of_one_index(kind, exact, seed, n, parts, k, radius):
    codes, ids, part, random = parted(seed, n, parts)
    queries = random.integers(0, 256, (3, 2), dtype=np.uint8)
    queries[0] = codes[0]
    whole = CodeIndex(codes, ids, 16, "flat")
    pieces = [CodeIndex(codes[part == number], ids[part == number], 16, kind) for number in range(parts)]
    for found, true in (
        (Answers.merge([piece.search(queries, k, exact) for piece in pieces], k), whole.search(queries, k)),
        (Answers.merge([piece.within(queries, radius, exact) for piece in pieces]), whole.within(queries, radius)),
    ):
        assert found.exact.all() or not exact
        for query in np.flatnonzero(found.exact):
            assert [part.tolist() for part in found[query]] == [part.tolist() for part in true[query]]
        for query in range(3):  # those that are not certified are in order, and of codes there are
            pairs = [(distance, image) for image, distance in zip(*map(np.ndarray.tolist, found[query]), strict=True)]
            assert pairs == sorted(set(pairs))


def same(found, true):
    for name in ("offsets", "ids", "distances", "exact", "scores"):
        np.testing.assert_array_equal(getattr(found, name), getattr(true, name), name)


@pytest.mark.parametrize("kind", KINDS)
@given(st.integers(0, 2**31), st.integers(1, 60), st.integers(1, 5), st.integers(1, 70), st.integers(0, 17))
def test_several_indexes_answer_as_one_whatever_their_ids(kind, seed, n, parts, k, radius):
    codes, ids, part, random = parted(seed, n, parts)
    order = np.argsort(part, kind="stable")
    codes, ids, part = codes[order], ids[order], part[order]
    own = [ids[part == number] for number in range(parts)]
    pieces = [CodeIndex(codes[part == number], own[number], 16, kind) for number in range(parts)]
    outputs = random.integers(-3, 4, (3, 16)) + 0.5
    queries = pack(outputs)
    whole, some = CodeIndex(codes, None, 16, "flat"), np.flatnonzero(random.random(n) < 0.5)
    filtered = [piece.only(ids[some][part[some] == number]) for number, piece in enumerate(pieces)]
    for together, one in ((Together(16, pieces, own), whole), (Together(16, filtered, own), whole.only(some))):
        same(together.search(queries, k, True), one.search(queries, k, True))
        same(together.within(queries, radius, True), one.within(queries, radius, True))
        same(rerank(together, queries, outputs, k=k, exact=True), rerank(one, queries, outputs, k=k, exact=True))
        same(
            rerank(together, queries, outputs, radius=radius, exact=True), rerank(one, queries, outputs, radius=radius)
        )
        same(nearest_by_outputs(together, outputs, k), nearest_by_outputs(one, outputs, k))
        same(together.search(queries[:0], k), one.search(queries[:0], k))
    places = [together.place(number) for number in range(n)]
    assert places == list(zip(part.tolist(), ids.tolist(), strict=True))
    for wrong in (lambda: together.search(queries[:0], 0), lambda: together.within(queries[:0], -1)):
        with pytest.raises(ArgumentError):
            wrong()


def test_a_part_that_proves_enough_need_not_be_certified():
    def answers(ids, distances, exact, complete):
        arrays = np.array([0, len(ids)]), np.array(ids), np.array(distances, np.int32), np.array([exact])
        return Answers(*arrays, complete=None if complete is None else np.array([complete], np.int32))

    near = answers([1, 2], [1, 2], True, 16)
    for part, certified in (
        (answers([5, 6], [3, 7], False, 2), True),  # its own seventh is in doubt, which does not count
        (answers([5, 6], [3, 7], False, 1), False),  # one at distance 2 with a smaller id may be there
        (answers([5], [3], False, 9), False),  # it found too few
        (answers([5, 6], [3, 7], False, None), False),
    ):
        merged = Answers.merge([near, part], 2)
        assert (merged.ids.tolist(), merged.exact.tolist()) == ([1, 2], [certified])


def test_what_did_not_answer_is_told_and_nothing_is_certified():
    index = CodeIndex(np.zeros((2, 2), np.uint8), kind="flat")
    found, no = index.search(np.zeros((1, 2), np.uint8), 2), np.empty(0, np.int64)
    absent = [
        Answers(np.zeros(2, np.int64), no, no.astype(np.int32), np.zeros(1, np.bool_), missing=(why,)) for why in "ab"
    ]
    merged = Answers.merge([absent[0], found, *absent], 2)
    assert (merged.ids.tolist(), merged.exact.tolist(), merged.missing) == ([0, 1], [False], ("a", "b"))
    scored = rerank(index, np.zeros((1, 2), np.uint8), np.full((1, 16), -1.0), k=2)
    merged = Answers.merge([absent[0], scored], 2)
    assert (merged.ids.tolist(), merged.scores.tolist(), merged.exact.tolist()) == ([0, 1], [0.0, 0.0], [False])
    assert Answers.join([found, absent[1]]).missing == ("b",)
    with pytest.raises(ArgumentError, match="to the same queries"):
        Answers.merge([found, scored], 2)


def test_answers_that_do_not_belong_together_are_refused():
    index = CodeIndex(np.zeros((2, 2), np.uint8), kind="flat")
    one, two = index.search(np.zeros((1, 2), np.uint8), 1), index.search(np.zeros((2, 2), np.uint8), 1)
    for parts in ([], [one, two]):
        with pytest.raises(ArgumentError, match="to the same queries"):
            Answers.merge(parts, 1)
