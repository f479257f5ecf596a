"""Level counts and exact rankings against plain loops over every pair of query and item."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hashfaiss.codes import pack
from hashfaiss.errors import ArgumentError
from hashfaiss.evaluation import Database, LabelSets, exact_ranking, ranking

BITS = (3, 8, 12, 64, 65, 130)


def plain_distance(a, b):
    return sum(int(x ^ y).bit_count() for x, y in zip(a, b, strict=True))


def make(seed, bits, n, queries, names=4, few=True):
    """Codes that repeat (when few) and label tuples of 0 to 3 names, for a database and for queries."""
    random = np.random.default_rng(seed)
    pool = pack(random.standard_normal((5 if few else n + queries, bits)))
    codes = pool[random.integers(0, len(pool), n + queries)]
    labels = [tuple(f"l{i}" for i in random.integers(0, names, random.integers(0, 4))) for _ in range(n + queries)]
    return codes[:n], labels[:n], codes[n:], labels[n:]


def plain_counts(codes, labels, queries, query_labels, bits, leave_out=None):
    items = np.zeros((len(queries), bits + 1), dtype=np.int64)
    relevant = np.zeros_like(items)
    for i, (query, wanted) in enumerate(zip(queries, query_labels, strict=True)):
        for j, (code, label) in enumerate(zip(codes, labels, strict=True)):
            if leave_out is None or leave_out[i] != j:
                items[i, plain_distance(query, code)] += 1
                relevant[i, plain_distance(query, code)] += bool(set(wanted) & set(label))
    return items, relevant


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6), bits=st.sampled_from(BITS), n=st.integers(0, 20), q=st.integers(0, 4), few=st.booleans()
)
def test_level_counts_against_loops(seed, bits, n, q, few):
    codes, labels, queries, query_labels = make(seed, bits, n, q, few=few)
    items, relevant = Database(codes, bits, labels).level_counts(queries, query_labels)
    expected = plain_counts(codes, labels, queries, query_labels, bits)
    assert items.dtype == relevant.dtype == np.int64
    np.testing.assert_array_equal(items, expected[0])
    np.testing.assert_array_equal(relevant, expected[1])


@pytest.mark.parametrize("cells", [1, 7, 100])
def test_blocks_change_nothing(monkeypatch, cells):
    codes, labels, queries, query_labels = make(1, 12, 60, 9, few=False)
    expected = plain_counts(codes, labels, queries, query_labels, 12)
    monkeypatch.setattr(ranking, "COUNT_CELLS", cells)
    found = Database(codes, 12, labels).level_counts(queries, query_labels)
    np.testing.assert_array_equal(found, expected)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 20), bits=st.sampled_from(BITS))
def test_a_query_left_out_does_not_count(seed, n, bits):
    codes, labels, _, _ = make(seed, bits, n, 0)
    rows = np.random.default_rng(seed).integers(0, n, 5)
    query_labels = [labels[row] for row in rows]
    database = Database(codes, bits, labels)
    found = database.level_counts(codes[rows], query_labels, leave_out=rows)
    expected = plain_counts(codes, labels, codes[rows], query_labels, bits, leave_out=rows)
    np.testing.assert_array_equal(found, expected)
    assert (found[0].sum(axis=1) == n - 1).all()
    kept = np.concatenate([part for _, part in database.ranked_relevance(codes[rows], query_labels, rows)])
    assert kept.shape == (5, n - 1)
    assert kept.sum(axis=1).tolist() == expected[1].sum(axis=1).tolist()


def test_database_without_labels_has_nothing_relevant():
    codes, _, queries, _ = make(2, 12, 10, 3)
    items, relevant = Database(codes, 12).level_counts(queries, [("l0",)] * 3)
    assert (items.sum(axis=1) == 10).all()
    assert not relevant.any()


def test_label_sets_share_at_least_one_and_nothing_shares_the_empty_set():
    sets = LabelSets([("a", "b"), ("b", "a"), (), ("c",), ("b", "c"), ()])
    assert sets.set_of_row.tolist() == [0, 0, 1, 2, 3, 1]
    assert sets.set_of_row.dtype == np.int32
    assert sets.sets == [{"a", "b"}, set(), {"c"}, {"b", "c"}]
    assert sets.relevance(("b",)).tolist() == [True, False, False, True]
    assert sets.relevance(("c", "z")).tolist() == [False, False, True, True]
    assert not sets.relevance(()).any()
    assert not sets.relevance(("z",)).any()


@pytest.mark.parametrize("bits", [3, 12, 64, 300])
def test_exact_ranking_is_sorted_by_distance_then_position(bits):
    codes, _, queries, _ = make(bits, bits, 80, 6)
    codes[:5] = 255 - codes[5:10]  # all bits apart: distances beyond a byte where bits > 255
    if bits % 8:
        codes[:5, -1] &= (1 << bits % 8) - 1
    queries[0] = codes[5]
    distances, positions = exact_ranking(queries, codes)
    for i, query in enumerate(queries):
        expected = sorted((plain_distance(query, code), j) for j, code in enumerate(codes))
        assert list(zip(distances[i].tolist(), positions[i].tolist(), strict=True)) == expected
    assert distances.max() == bits


def test_ranked_relevance_follows_the_exact_ranking(monkeypatch):
    codes, labels, queries, query_labels = make(4, 12, 50, 7)
    monkeypatch.setattr(ranking, "SORT_CELLS", 100)
    parts = list(Database(codes, 12, labels).ranked_relevance(queries, query_labels))
    assert [part.start for part, _ in parts] == [0, 2, 4, 6]
    found = np.concatenate([part for _, part in parts])
    for i, order in enumerate(exact_ranking(queries, codes)[1]):
        assert found[i].tolist() == [bool(set(labels[j]) & set(query_labels[i])) for j in order]


def test_bad_arguments_are_refused():
    codes, labels, queries, query_labels = make(4, 12, 10, 2)
    database = Database(codes, 12, labels)
    with pytest.raises(ArgumentError, match="10 codes and 9 label tuples"):
        Database(codes, 12, labels[:9])
    with pytest.raises(ArgumentError, match="2 codes and 1 label tuples"):
        database.level_counts(queries, query_labels[:1])
    with pytest.raises(ArgumentError, match="hold the text 'cat'"):
        database.level_counts(queries, ["cat", "dog"])
    with pytest.raises(ArgumentError, match=r"query codes have shape \(2, 1\)"):
        database.level_counts(queries[:, :1], query_labels)
    with pytest.raises(ArgumentError, match=r"leave_out is int64 of shape \(1,\).*2 queries"):
        database.level_counts(queries, query_labels, leave_out=[0])
    for row in (-1, 10):
        with pytest.raises(ArgumentError, match="rows 0 to 9"):
            database.level_counts(queries, query_labels, leave_out=[0, row])


def test_the_room_imports_neither_torch_nor_faiss_nor_matplotlib():
    program = (
        "import sys, hashfaiss.evaluation; print([m for m in ('torch', 'faiss', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6), bits=st.sampled_from(BITS), n=st.integers(0, 20), q=st.integers(0, 4), few=st.booleans()
)
def test_torch_counts_the_same(seed, bits, n, q, few):
    codes, labels, queries, query_labels = make(seed, bits, n, q, few=few)
    database = Database(codes, bits, labels)
    numpy_counts = database.level_counts(queries, query_labels)
    for one, other in zip(numpy_counts, database.level_counts(queries, query_labels, device="cpu:0"), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
@pytest.mark.parametrize("bits", [12, 64, 1024])
def test_a_gpu_counts_the_same(bits):
    codes, labels, queries, query_labels = make(7, bits, 3000, 50, few=False)
    database = Database(codes, bits, labels)
    for one, other in zip(
        database.level_counts(queries, query_labels),
        database.level_counts(queries, query_labels, device="cuda"),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


def test_relevance_that_is_not_kept_is_made_again(monkeypatch):
    codes, labels, queries, query_labels = make(2, 12, 60, 9, few=False)
    expected = plain_counts(codes, labels, queries, query_labels, 12)
    monkeypatch.setattr(ranking, "KEPT_CELLS", 1)
    for _ in range(2):
        found = Database(codes, 12, labels).level_counts(queries, query_labels)
        np.testing.assert_array_equal(found[1], expected[1])
