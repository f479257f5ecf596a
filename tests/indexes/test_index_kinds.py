"""Every kind against five lines of numpy, with `exact` and without; bit order, bounds, threads."""

from __future__ import annotations

import re
import threading
from itertools import pairwise

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hashfaiss.codes import hamming, pack, unpack
from hashfaiss.errors import ArgumentError
from hashfaiss.evaluation.bucket_report import bucket_report
from hashfaiss.indexes import KINDS, CodeIndex, kernels, parse_kind, snapshot
from hashfaiss.indexes.buckets import balanced_order, bucket_sizes
from hashfaiss.indexes.kind import Found
from hashfaiss.indexes.saved import join_arrays, split_arrays

SPREADS = ("random", "clustered", "duplicated", "adversarial")


def oracle(codes, ids, query, k=None, radius=None):
    distances = hamming(query[None], codes)[0].astype(int)
    order = np.lexsort((ids, distances))
    order = order if radius is None else order[distances[order] <= radius]
    return ids[order][:k].tolist(), distances[order][:k].tolist()


def make(seed, bits, n, queries, spread, clusters=3):
    """Codes, ids with gaps, and queries. Adversarial: dead bits first, and neighbours that differ in the live ones."""
    random = np.random.default_rng(seed)
    values = random.standard_normal((n + queries, bits))
    if spread == "clustered":
        values = random.choice([-1.0, 1.0], (clusters, bits))[random.integers(0, clusters, n + queries)]
        values = np.where(random.random(values.shape) < 0.06, -values, values)
    elif spread == "duplicated":
        values = values[random.integers(0, min(4, n + queries), n + queries)]
    elif spread == "adversarial":
        values[:, : 3 * bits // 4] = 1.0
    codes = pack(values)
    return codes[:n], random.choice(7 * n + 1, n, replace=False), codes[n:]


@st.composite
def collections(draw):
    bits = draw(st.sampled_from((1, 7, 12, 16, 64, 100)))
    n = draw(st.sampled_from((0, 1, 2, 5, 64, 150)))
    data = make(draw(st.integers(0, 2**32)), bits, n, draw(st.sampled_from((1, 5))), draw(st.sampled_from(SPREADS)))
    b = draw(st.integers(1, min(bits, 12)))
    kinds = [
        "flat",
        f"hash:b={b},flips={draw(st.integers(0, min(b, 3)))}",
        f"multihash:tables={draw(st.integers(1, bits // b))},b={b},flips={draw(st.integers(0, min(b, 2)))}",
        f"ivf:lists={draw(st.integers(1, 20))},probes={draw(st.integers(1, 20))}",
        f"hnsw:m={draw(st.integers(2, 8))},ef={draw(st.integers(1, 40))}",
    ]
    return data, bits, draw(st.sampled_from(kinds))


@given(collections(), st.sampled_from((1, 3, 10, 149, 500)), st.integers(0, 110))
@settings(deadline=None, max_examples=300)
def test_exact_is_brute_force_and_no_certificate_is_wrong(collection, k, radius):
    (codes, ids, queries), bits, kind = collection
    index = CodeIndex(codes, ids, bits, kind)
    for exact in (False, True):
        answers = (
            (index.search(queries, k, exact), {"k": k}),
            (index.within(queries, radius, exact), {"radius": radius}),
        )
        for found, asked in answers:
            assert not exact or found.exact.all()
            for query, (got, distances), certified in zip(queries, found, found.exact, strict=True):
                if certified:
                    assert (got.tolist(), distances.tolist()) == oracle(codes, ids, query, **asked)
                else:
                    assert set(got.tolist()) <= set(ids.tolist())
                    assert sorted(distances.tolist()) == distances.tolist()


@pytest.fixture
def faiss_alone(monkeypatch):
    """What is cheap and what is dear then is known; the native core makes many ways not worth their while."""
    monkeypatch.setattr(kernels, "_path", None)


@pytest.mark.usefixtures("faiss_alone")
@pytest.mark.parametrize(
    ("kind", "spread", "flipped"),
    [
        ("hash:b=14,flips=0", "random", 1),
        ("multihash:tables=4,b=14,flips=0", "random", 5),
        ("ivf:lists=128,probes=2", "clustered", 3),
    ],
)
def test_some_answers_are_certified_and_exact_widens_the_others(kind, spread, flipped):
    """Else the property above would prove little."""
    codes, ids, _ = make(3, 64, 60_000, 0, spread, clusters=100)
    queries = codes[:60].copy()
    queries[::2, :flipped] ^= 1  # one bit in each of the first bytes
    index = CodeIndex(codes, ids, 64, kind)
    assert 0 < index.search(queries, 1).exact.mean() < 1
    widened = []
    balls = index.kind.balls
    index.kind.balls = lambda asked, radii, limit: widened.append(len(asked)) or balls(asked, radii, limit)
    assert index.search(queries, 1, exact=True).exact.all()
    assert sum(widened) > 0


def asked_of(monkeypatch, kind, name):
    """The queries that one of a kind's methods is asked."""
    seen = []
    real = getattr(kind, name)
    monkeypatch.setattr(kind, name, lambda queries, *rest: seen.append((len(queries), *rest)) or real(queries, *rest))
    return seen


@pytest.mark.usefixtures("faiss_alone")
def test_exact_takes_the_way_that_costs_least():
    """Probes that prove nothing, or that cost more than a scan, are not tried; one query pays more for its proof."""
    codes, ids, queries = make(13, 64, 20_000, 8, "clustered", clusters=100)
    for kind, exact, number, expected in (
        ("ivf:lists=128,probes=2", True, 8, True),
        ("ivf:lists=128,probes=2", True, 1, False),  # 20,000 codes are compared before a proof is found
        ("ivf:lists=128,probes=2", False, 1, True),
        ("ivf:lists=16,probes=16", True, 8, False),
        ("hnsw", True, 8, False),
        ("hnsw", False, 8, True),
    ):
        index = CodeIndex(codes, ids, 64, kind)
        assert (index.now._first(exact, number) is index.kind) == expected, kind
        answers = index.search(queries[:number], 5, exact)
        assert answers.exact.all() or not exact


@pytest.mark.usefixtures("faiss_alone")
def test_exact_looks_for_no_ball_that_cannot_be(monkeypatch):
    random = np.random.default_rng(14)
    wide = random.integers(0, 256, (6000, 8), dtype=np.uint8)
    codes = np.concatenate([wide, make(14, 64, 3000, 0, "clustered")[0]])
    index = CodeIndex(codes, np.arange(9000), 64, "ivf:lists=64,probes=1")
    seen = asked_of(monkeypatch, index.kind, "balls")
    assert index.search(codes[::40], 10, exact=True).exact.all()
    assert all((radii >= 0).all() and limit < np.inf for _, radii, limit in seen)


@pytest.mark.parametrize("kind", ["flat", "ivf:lists=20,probes=2", "hash:b=8,flips=1"])
@pytest.mark.parametrize("call", ["search", "within"])
def test_one_call_into_faiss_is_bounded(monkeypatch, kind, call):
    codes, ids, queries = make(15, 64, 3000, 200, "random")
    index = CodeIndex(codes, ids, 64, kind)
    expected = index.search(queries, 5, True) if call == "search" else index.within(queries, 24, True)
    monkeypatch.setattr(snapshot, "WORK_PER_CALL", 10 * int(index.flat.work))
    seen = [asked_of(monkeypatch, index.flat, name) for name in ("nearest", "within")]
    seen.append(asked_of(monkeypatch, index.kind, "balls"))  # each may cost nearly what a flat scan does
    found = index.search(queries, 5, True) if call == "search" else index.within(queries, 24, True)
    assert (found.ids == expected.ids).all()
    counts = [count for calls in seen for count, *_ in calls]
    assert sum(counts) >= 200
    assert max(counts) <= 10


@pytest.mark.parametrize("kind", ["flat", "hash:b=6", "ivf", "hnsw"])
def test_only_searches_the_ids_given(kind):
    codes, ids, queries = make(4, 20, 200, 5, "duplicated")
    index = CodeIndex(codes, ids, 20, kind)
    chosen = np.random.default_rng(0).permutation(200)[:37]
    part = index.only(ids[chosen])
    for query, (got, _) in zip(queries, part.search(queries, 10), strict=True):
        assert got.tolist() == oracle(codes[chosen], ids[chosen], query, 10)[0]
    assert len(index.only([])) == 0
    assert len(index.only([]).search(queries, 3).ids) == 0
    with pytest.raises(ArgumentError, match=f"no id {ids.max() + 1}"):
        index.only([ids.max() + 1])


def test_what_a_list_may_hold_is_never_nearer_than_its_bound():
    codes, ids, queries = make(5, 64, 2000, 40, "clustered")
    kind = CodeIndex(codes, ids, 64, "ivf:lists=20,probes=3").kind
    bounds = kind._bounds(queries)
    for number in range(20):
        size = kind.faiss.invlists.list_size(number)
        held = faiss.rev_swig_ptr(kind.faiss.invlists.get_codes(number), size * 8).reshape(size, 8)
        if size:
            assert (hamming(queries, held).min(axis=1) >= bounds[:, number]).all()
            assert (bounds[:, number] > 0).any() or size > 200


def buckets(codes, bits, order, b):
    return np.unique(unpack(codes, bits)[:, order[:b]], axis=0, return_counts=True)[1]


def test_the_order_of_bits_balances_buckets():
    random = np.random.default_rng(0)
    values = random.standard_normal((4000, 40))
    values[:, :12] += 3.0  # nearly dead
    values[:, 12:20] = values[:, 20:28]  # doubles
    codes = pack(values)
    order = balanced_order(codes, 40, 1, 12)
    assert sorted(order.tolist()) == list(range(40))
    before, after = buckets(codes, 40, np.arange(40), 12), buckets(codes, 40, order, 12)
    assert (after**2).sum() * 20 < (before**2).sum()  # the bucket a code meets on average
    assert {bit for bit in order[:12].tolist() if bit < 12} == set()
    assert len({20 + (bit - 12) % 8 if 12 <= bit < 28 else bit for bit in order[:12].tolist()}) == 12
    tables = balanced_order(codes, 40, 3, 8)
    assert sorted(tables.tolist()) == list(range(40))
    assert balanced_order(codes[:0], 40, 3, 8).tolist() == list(range(40))
    assert balanced_order(pack(np.ones((5, 12))), 12, 1, 4).tolist() == list(range(16))


def test_a_thread_that_widens_does_not_spoil_anothers_answer():
    codes, ids, queries = make(6, 64, 5000, 20, "clustered")
    for kind in ("hash:b=10,flips=1", "ivf:lists=40,probes=2", "multihash:tables=4,b=10"):
        index = CodeIndex(codes, ids, 64, kind)
        plain, exact = index.search(queries, 5), index.search(queries, 5, exact=True)
        wrong = []

        def ask(sure, wanted, index=index, wrong=wrong):
            for _ in range(40):
                got = index.search(queries, 5, exact=sure)
                if not (np.array_equal(got.ids, wanted.ids) and np.array_equal(got.exact, wanted.exact)):
                    wrong.append(sure)

        threads = [threading.Thread(target=ask, args=(n % 2 == 0, (plain, exact)[n % 2 == 0])) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []


@pytest.mark.parametrize("bits", [5, 32, 33, 64, 65, 128, 129, 160, 161, 256, 257, 300])
def test_codes_are_as_wide_as_faiss_is_fast(bits):
    codes, ids, queries = make(10, bits, 120, 4, "random")
    width = next((w for w in (4, 8, 16, 20, 32) if 8 * w >= bits), -(-bits // 64) * 8)
    for kind in ("flat", "hash:b=5", "multihash:tables=1,b=5", "ivf:lists=3", "hnsw"):
        index = CodeIndex(codes, ids, bits, kind)
        assert index.faiss.code_size == index.kind.width == width
        for query, (got, distances) in zip(queries, index.search(queries, 7, exact=True), strict=True):
            assert (got.tolist(), distances.tolist()) == oracle(codes, ids, query, 7)


def test_buckets_are_counted_by_any_bits():
    codes = make(11, 20, 300, 1, "clustered")[0]
    bits = np.array([19, 3, 0, 8], np.int32)
    values = unpack(codes, 20)[:, bits]
    expected = sorted(np.unique(values, axis=0, return_counts=True)[1].tolist(), reverse=True)
    assert bucket_sizes(codes, bits).tolist() == expected
    report = bucket_report(codes, 20)
    assert report.stored.sum() == report.chosen.sum() == len(np.unique(codes, axis=0))
    assert report.met[1] <= report.met[0] * 1.5
    about = report.to_dict()
    assert sum(about["chosen"]["sizes"]) == len(report.chosen)
    assert bucket_report(codes[:0], 20).met == (0.0, 0.0)


@pytest.mark.parametrize(
    "kind", ["flat", "hash:b=8,flips=2", "multihash:tables=2,b=8,flips=1", "ivf:lists=30,probes=9"]
)
@pytest.mark.parametrize("spread", SPREADS)
def test_one_query_is_answered_as_in_a_batch(kind, spread):
    """One query takes a way of its own through the layer."""
    codes, ids, queries = make(12, 24, 900, 60, spread)
    index = CodeIndex(codes, ids, 24, kind)
    for k in (1, 10, 60):
        for exact in (False, True):
            batch = index.search(queries, k, exact)
            for row, (got, distances) in enumerate(batch):
                alone = index.search(queries[row : row + 1], k, exact)
                assert alone.exact.tolist() == batch.exact[row : row + 1].tolist()
                if alone.exact[0]:
                    assert alone.ids.tolist() == got.tolist()
                assert alone.distances.tolist() == distances.tolist()


# ---- bytes and ties


def test_arrays_come_back_from_their_bytes():
    arrays = {"a": np.arange(7, dtype=np.int16), "b": np.zeros((0, 3)), "c": np.eye(3, dtype=np.uint8)}
    back = split_arrays(np.frombuffer(join_arrays(arrays), np.uint8))
    assert list(back) == ["a", "b", "c"]
    for name, array in arrays.items():
        assert np.array_equal(back[name], array)
        assert back[name].dtype == array.dtype


@given(st.integers(0, 2**32))
@settings(deadline=None)
def test_found_sorts_and_replaces(seed):
    random = np.random.default_rng(seed)
    counts = random.integers(0, 5, 6)
    limits = np.concatenate([[0], counts.cumsum()])
    distances, positions = random.integers(0, 3, limits[-1]).astype(np.int32), random.permutation(limits[-1])
    found = Found.of_ball(limits, distances, positions, np.full(6, 9, np.int32))
    rows = [sorted(zip(distances[a:b], positions[a:b], strict=True)) for a, b in pairwise(limits)]
    got = list(zip(found.distances.tolist(), found.positions.tolist(), strict=True))
    assert got == [pair for row in rows for pair in row]
    assert found.last.tolist() == [row[-1][0] if row else -1 for row in rows]
    chosen = np.flatnonzero(random.random(6) < 0.5)
    other = Found.of_ball(np.arange(len(chosen) + 1), np.full(len(chosen), 7, np.int32), np.arange(len(chosen)), chosen)
    for number, row in enumerate(chosen):
        rows[row] = [(7, number)]
    put = found.put(chosen, other)
    assert list(zip(put.distances.tolist(), put.positions.tolist(), strict=True)) == [p for row in rows for p in row]
    assert [put.complete[row] for row in chosen] == chosen.tolist()


@pytest.mark.skipif(not faiss.get_num_gpus(), reason="faiss sees no GPU")
@pytest.mark.parametrize("k", [1, 10, 2500])
def test_a_gpu_answers_as_the_cpu_does(k):
    codes, ids, queries = make(9, 64, 5000, 40, "duplicated")
    flat, gpu = CodeIndex(codes, ids, 64, "flat"), CodeIndex(codes, ids, 64, "gpu")
    for asked in (queries, queries[:1]):
        assert np.array_equal(flat.search(asked, k).ids, gpu.search(asked, k).ids)
        assert gpu.search(asked, k).exact.all()


def test_kinds_name_themselves_and_are_read_back():
    for text, bits, n in (
        ("flat", 8, 0),
        ("hash", 1, 5),
        ("hash", 64, 10**6),
        ("hash:flips=8", 64, 3),
        ("hash:b=5", 7, 9),
    ):
        kind = parse_kind(text, bits, n)
        again = parse_kind(str(kind), bits, 0)
        assert (type(again), again.parameters, str(again)) == (type(kind), kind.parameters, str(kind))
        assert kind.name in KINDS
    assert parse_kind("hash", 64, 1 << 20).parameters == {"b": 20, "flips": 2}
    assert parse_kind("hash:flips=8", 64, 0).parameters == {"b": 8, "flips": 8}
    assert parse_kind("hash:b=4,flips=2", 8, 0).buckets == 1 + 4 + 6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("flat:b=1", "'b=1' is no parameter of the flat kind: it has none"),
        ("flat:", "'' is no parameter"),
        ("auto:", "no index kind 'auto:'"),
        ("hash:", "'' is no parameter of the hash kind: give b, flips"),
        ("hash:c=1", "'c=1' is no parameter"),
        ("hash:b", "'b' was given to the hash kind: give b a whole number"),
        ("hash:b=-1", "'b=-1' was given"),
        ("hash:b=1e3", "'b=1e3' was given"),
        ("hash:b=8,b=9", "b was given twice"),
        (None, "no index kind None"),
    ],
)
def test_kinds_that_cannot_be_read(text, message):
    with pytest.raises(ArgumentError, match=re.escape(message)):
        parse_kind(text, 64, 1000)
