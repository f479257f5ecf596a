"""Codes beside a built index: whatever came and went, the answers are those of an index built anew."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_indexes import check, make, oracle

from hashfaiss.codes import widened
from hashfaiss.errors import CorruptIndexError
from hashfaiss.indexes import CodeIndex, near_groups, rerank
from hashfaiss.indexes.beside import Beside, Built
from hashfaiss.indexes.saved import split_arrays

KINDS = (
    "flat",
    "hash:b=7,flips=1",
    "hash:b=5,flips=5",
    "multihash:tables=2,b=6",
    "ivf:lists=4,probes=2",
    "hnsw:m=4,ef=8",
)
FIRST = 60  # images, of which the index is built


@st.composite
def histories(draw):
    """Codes of all images there ever were, which of them the index was built of, and which are left."""
    spread = draw(st.sampled_from(("random", "clustered", "duplicated")))
    bits, n = draw(st.sampled_from((12, 16, 64))), draw(st.integers(FIRST, FIRST + 40))
    codes, _, queries = make(draw(st.integers(0, 2**32)), bits, n, 3, spread)
    ids = np.cumsum(np.random.default_rng(n).integers(1, 3, n)) if draw(st.booleans()) else np.arange(n)
    first, left = ids < ids[FIRST - 1] + draw(st.integers(0, 1)), np.ones(n, np.bool_)
    for at in draw(st.lists(st.integers(0, n - 1), max_size=30)):
        left[at] = False
    for _ in range(draw(st.integers(0, 2))):  # all that have one code, so that it is gone or comes again
        code = codes[draw(st.integers(0, n - 1))]
        left &= (codes != code).any(axis=1) | (ids > ids[FIRST + 10] if n > FIRST + 10 else False)
    return bits, codes, ids, first, left, queries


@given(histories(), st.sampled_from(KINDS), st.sampled_from((1, 2, 5, 40, 200)), st.integers(0, 20))
@settings(deadline=None, max_examples=400)
def test_what_came_and_went_is_as_if_built_anew(history, kind, k, radius):
    bits, codes, ids, first, left, queries = history
    built = CodeIndex(codes[first], ids[first], bits, kind)
    codes, ids = codes[left], ids[left]
    index = CodeIndex.restore(built.dump(), codes, ids, bits, str(built.kind))
    changed = (first != left).any()
    assert isinstance(index.kind, Beside) == (changed and built.kind.can_be_saved)
    assert len(index) == len(ids)
    anew = CodeIndex(codes, ids, bits, "flat")
    assert index.distinct.codes.tolist() == anew.distinct.codes.tolist()
    for exact in (False, True):
        nearest, within = index.search(queries, k, exact), index.within(queries, radius, exact)
        check(index, codes, ids, queries, nearest, k=k)
        check(index, codes, ids, queries, within, radius=radius)
        for query, wanted, near in zip(queries, nearest, within, strict=True):  # one by one answers the same
            assert [a.tolist() for a in index.search(query[None], k, exact)[0]] == [a.tolist() for a in wanted]
            assert [a.tolist() for a in index.within(query[None], radius, exact)[0]] == [a.tolist() for a in near]
    assert nearest.exact.all()
    assert within.exact.all()
    outputs = np.random.default_rng(0).standard_normal((len(queries), bits))
    reranked, expected = (rerank(each, queries, outputs, k=k, exact=True) for each in (index, anew))
    assert reranked.ids.tolist() == expected.ids.tolist()
    if len(ids):
        chosen = ids[::3]
        assert index.only(chosen).search(queries, k).ids.tolist() == [
            image for query in queries for image in oracle(codes[::3], chosen, query, k)[0]
        ]
    groups, expected_groups = (
        [(group.tolist(), near.tolist()) for group, near in near_groups(each, min(radius, 4))] for each in (index, anew)
    )
    assert groups == expected_groups


@pytest.mark.parametrize("kind", ["flat", "ivf:lists=4,probes=2", "hnsw:m=4,ef=8"])
def test_faiss_holds_what_it_was_built_of(kind):
    codes, _, queries = make(1, 16, 100, 4, "clustered")
    built = CodeIndex(codes[:60], np.arange(60), 16, kind)
    index = CodeIndex.restore(built.dump(), codes[3:], np.arange(3, 100), 16, str(built.kind))
    assert index.faiss.ntotal == len(built.distinct)
    there = index.faiss_positions >= 0
    kept = built.distinct.codes[there]
    assert kept.tolist() == index.distinct.codes[index.faiss_positions[there]].tolist()
    gone = {tuple(code) for code in built.distinct.codes[~there].tolist()}
    assert not gone & {tuple(code) for code in codes[3:60].tolist()}
    assert built.faiss_positions.tolist() == list(range(len(built.distinct)))
    again = CodeIndex.restore(index.dump(), codes[3:], np.arange(3, 100), 16, str(built.kind))  # built of all of them
    assert again.faiss.ntotal == len(again.distinct)
    assert again.search(queries, 5, exact=True).ids.tolist() == index.search(queries, 5, exact=True).ids.tolist()


def test_some_answers_are_certified_and_some_are_not():
    """Else the property above would prove little."""
    codes, _, queries = make(0, 64, 500, 60, "clustered")
    built = CodeIndex(codes[:400], np.arange(400), 64, "hash:b=12,flips=2")
    index = CodeIndex.restore(built.dump(), codes[5:], np.arange(5, 500), 64, str(built.kind))
    assert 0 < index.search(queries, 5).exact.mean() < 1
    tail = index.kind.own
    assert len(tail) > 50
    answers = index.search(queries, 5)
    assert np.isin(answers.ids, index.distinct.ids[tail]).any()
    assert (answers.ids < 400).any()


def test_ids_of_another_index_are_refused():
    codes, _, _ = make(0, 16, 40, 1, "random")
    data = CodeIndex(codes[10:20], np.arange(10, 20), 16, "flat").dump()
    for ids in (np.arange(5, 15), np.array([10, 12, 13, 9])):  # some came between or before those that were there
        with pytest.raises(CorruptIndexError):
            CodeIndex.restore(data, codes[: len(ids)], ids, 16, "flat")
    twice = np.repeat(codes[:5], 2, axis=0)
    data = CodeIndex(twice, np.arange(10), 16, "flat").dump()
    with pytest.raises(CorruptIndexError):  # equal codes that differ now
        CodeIndex.restore(data, codes[:11], np.arange(11), 16, "flat")
    data = CodeIndex(codes[:10], np.arange(10), 16, "flat").dump()
    with pytest.raises(CorruptIndexError):  # codes that differed and are equal now
        CodeIndex.restore(data, np.repeat(codes[:6], 2, axis=0)[:11], np.arange(11), 16, "flat")


@given(st.sets(st.integers(0, 30)), st.sets(st.integers(0, 30)), st.sets(st.integers(31, 40)), st.booleans())
@settings(deadline=None)
def test_changes_are_counted(there, gone, came, repeated):
    ids = np.array(sorted(there), np.int64)
    codes = np.zeros((len(ids), 2), np.uint8) if repeated else widened(np.arange(len(ids), dtype=np.uint8)[:, None], 2)
    built = Built.of(split_arrays(np.frombuffer(CodeIndex(codes, ids, 16, "flat").dump(), np.uint8)), ids)
    assert sorted(built.ids.tolist()) == ids.tolist()
    now = np.array(sorted((there - gone) | came), np.int64)
    assert built.changes(now) == (len(came), len(there & gone))
