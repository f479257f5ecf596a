"""CodeIndex, its kinds and its grouping of codes, against a few lines of numpy and plain dictionaries."""

from __future__ import annotations

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hashfaiss.codes import hamming, pack
from hashfaiss.errors import ArgumentError, CorruptIndexError
from hashfaiss.indexes import Answers, CodeIndex, Distinct, parse_kind, snapshot
from hashfaiss.indexes import buckets as bucket_kinds

BITS = (1, 7, 12, 16, 64, 100)


def oracle(codes, ids, query, k=None, radius=None):
    distances = hamming(query[None], codes)[0].astype(int)
    order = np.lexsort((ids, distances))
    order = order if radius is None else order[distances[order] <= radius]
    return ids[order][:k].tolist(), distances[order][:k].tolist()


def make(seed, bits, n, queries, spread):
    """Codes that are random, clustered or duplicated, ids with gaps in any order, and queries like the codes."""
    random = np.random.default_rng(seed)
    values = random.standard_normal((n + queries, bits))
    if spread == "clustered":
        values = random.choice([-1.0, 1.0], (3, bits))[random.integers(0, 3, n + queries)]
        values = np.where(random.random(values.shape) < 0.06, -values, values)
    elif spread == "duplicated":
        values = values[random.integers(0, min(4, n + queries), n + queries)]
    codes = pack(values)
    ids = random.choice(7 * n + 1, n, replace=False)
    return codes[:n], ids, codes[n:]


def check(index, codes, ids, queries, answers, k=None, radius=None):
    """Where exact, the oracle's answer; else a sorted part of the index with the right distances."""
    assert len(answers) == len(queries)
    assert answers.offsets[0] == 0
    assert answers.offsets[-1] == len(answers.ids) == len(answers.distances)
    code_of = dict(zip(ids.tolist(), codes, strict=True))
    for query, (found, distances), exact in zip(queries, answers, answers.exact, strict=True):
        got = found.tolist(), distances.tolist()
        if exact:
            assert got == oracle(codes, ids, query, k, radius)
            continue
        assert len(set(got[0])) == len(got[0])
        assert [int(hamming(query[None], code_of[i][None])[0, 0]) for i in got[0]] == got[1]
        assert sorted(zip(got[1], got[0], strict=True)) == list(zip(got[1], got[0], strict=True))
        assert len(got[0]) <= (len(ids) if k is None else k)
        assert radius is None or max(got[1], default=0) <= radius


@st.composite
def collections(draw):
    bits = draw(st.sampled_from(BITS))
    n = draw(st.sampled_from((0, 1, 2, 5, 40, 150)))
    spread = draw(st.sampled_from(("random", "clustered", "duplicated")))
    b = draw(st.integers(1, min(bits, 32)))
    kind = draw(st.sampled_from(("flat", f"hash:b={b},flips={draw(st.integers(0, min(b, 4)))}", f"hash:b={min(b, 8)}")))
    if draw(st.booleans()):
        b = min(b, 8)
        kind = f"hash:b={b},flips={b}"
    return make(draw(st.integers(0, 2**32)), bits, n, draw(st.sampled_from((1, 2, 7))), spread), bits, kind


@given(collections(), st.sampled_from((1, 2, 3, 10, 149, 500)), st.integers(0, 110))
@settings(deadline=None, max_examples=250)
def test_answers_equal_brute_force_where_exact(collection, k, radius):
    (codes, ids, queries), bits, kind = collection
    index = CodeIndex(codes, ids, bits, kind)
    assert len(index) == len(ids)
    nearest, near = index.search(queries, k), index.within(queries, radius)
    check(index, codes, ids, queries, nearest, k=k)
    check(index, codes, ids, queries, near, radius=radius)
    flips = index.kind.parameters.get("flips")
    complete = bits if flips is None else index.kind.complete_at(flips)
    if complete == bits:
        assert nearest.exact.all()
        assert np.diff(nearest.offsets).tolist() == [min(k, len(ids))] * len(queries)
    if min(radius, bits) <= complete:
        assert near.exact.all()
    for query, wanted, within in zip(queries, nearest, near, strict=True):  # one by one answers the same
        alone, alone_within = index.search(query[None], k), index.within(query[None], radius)
        assert [a.tolist() for a in alone[0]] == [a.tolist() for a in wanted]
        assert [a.tolist() for a in alone_within[0]] == [a.tolist() for a in within]


def test_hash_answers_are_sometimes_exact_and_sometimes_not():
    """Else the property above would prove little."""
    codes, ids, queries = make(0, 64, 400, 50, "clustered")
    answers = CodeIndex(codes, ids, 64, "hash:b=12,flips=2").search(queries, 5)
    assert 0 < answers.exact.mean() < 1


@pytest.fixture
def bits_in_order(monkeypatch):
    """Buckets by the first bits, for codes planted there."""
    monkeypatch.setattr(bucket_kinds, "balanced_order", lambda codes, bits, *_: np.arange(bits, dtype=np.int32))


@pytest.mark.usefixtures("bits_in_order")
@pytest.mark.parametrize("flips", [0, 1, 2, 3])
def test_hash_finds_all_within_flips_and_no_certificate_goes_further(flips):
    query = np.zeros((1, 8), np.uint8)
    planted = np.zeros((2, 8), np.uint8)
    planted[0, 0] = (1 << flips) - 1  # at distance flips, in the prefix
    planted[1, 0] = (1 << (flips + 1)) - 1  # one more: no bucket visited holds it
    index = CodeIndex(planted, [5, 9], 64, f"hash:b=16,flips={flips}")
    near = index.within(query, flips)
    assert (near.ids.tolist(), near.exact.tolist()) == ([5], [True])
    further = index.within(query, flips + 1)
    assert (further.ids.tolist(), further.exact.tolist()) == ([5], [False])
    assert index.search(query, 1).exact.tolist() == [True]
    both = index.search(query, 2)
    assert (both.ids.tolist(), both.exact.tolist()) == ([5], [False])


@pytest.mark.usefixtures("bits_in_order")
def test_an_uncertain_tie_is_not_certified():
    """The nearest found is at flips + 1, where a smaller id may hide in a bucket not visited."""
    codes = np.zeros((2, 8), np.uint8)
    codes[0, 0], codes[1, 7] = 0b11, 0b11
    answers = CodeIndex(codes, [1, 2], 64, "hash:b=16,flips=1").search(np.zeros((1, 8), np.uint8), 1)
    assert (answers.ids.tolist(), answers.exact.tolist()) == ([2], [False])


@pytest.mark.parametrize("bits", [8, 16, 64, 128])
def test_faiss_flat_returns_the_lowest_positions_of_a_tie(bits):
    random = np.random.default_rng(bits)
    for n in (1, 5, 300, 5000):
        codes = random.integers(0, 4, (n, bits // 8), dtype=np.uint8)
        index = faiss.IndexBinaryFlat(bits)
        index.add(codes)
        queries = random.integers(0, 4, (40, bits // 8), dtype=np.uint8)
        exact = hamming(queries, codes)
        for k in {1, 2, 7, 100, n - 1, n} & set(range(1, n + 1)):
            for batch in (1, 3, 40):
                _, positions = index.search(queries[:batch], k)
                np.testing.assert_array_equal(positions, np.argsort(exact[:batch], axis=1, kind="stable")[:, :k])


@given(st.integers(0, 2**32), st.sampled_from(BITS), st.integers(0, 60), st.integers(1, 70))
@settings(deadline=None)
def test_distinct_groups_and_expands_as_a_dictionary_does(seed, bits, n, k):
    codes, ids, queries = make(seed, bits, n, 2, "duplicated" if seed % 2 else "clustered")
    order = np.argsort(ids)
    codes, ids = codes[order], ids[order]
    distinct = Distinct.of(codes, ids)
    groups: dict[bytes, list[int]] = {}
    for code, image in zip(codes, ids.tolist(), strict=True):
        groups.setdefault(code.tobytes(), []).append(image)
    ends = distinct.lengths(np.arange(len(distinct))).cumsum()
    found = [ids.tolist() for ids in np.split(distinct.ids, ends[:-1])] if n else []
    assert (distinct.starts is None) == (len(groups) == n)
    positions = distinct.of_code()
    assert [distinct.codes[p].tobytes() for p in positions] == [code for code, had in groups.items() for _ in had]
    assert {code.tobytes(): ids for code, ids in zip(distinct.codes, found, strict=True)} == groups
    assert found == list(groups.values())  # in order of the smallest id
    assert len(distinct) == len(groups)
    near = hamming(queries, distinct.codes).astype(np.int32)
    positions = np.argsort(near, axis=1, kind="stable")
    limits = np.arange(len(queries) + 1) * len(distinct)
    offsets, got, _ = distinct.expand(limits, positions.ravel(), np.sort(near, axis=1).ravel(), k)
    for row, query in enumerate(queries):
        assert got[offsets[row] : offsets[row + 1]].tolist() == oracle(codes, ids, query, k)[0]


@pytest.mark.parametrize(
    "kind",
    ["flat", "hash:b=4,flips=4", "hash:b=12", "multihash:tables=3,b=5", "ivf", "ivf:lists=3,probes=2", "hnsw", "auto"],
)
@pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 8, 100, 1024])
def test_dump_and_load_answer_the_same(kind, n):
    codes, ids, queries = make(n, 20, n, 9, "clustered")
    codes[: n // 2] = codes[:1]  # a bucket of a power of two
    made = CodeIndex(codes, ids, 20, kind)
    data = made.dump()
    loaded = CodeIndex.restore(data, codes, ids, 20, str(made.kind))
    assert loaded.faiss.ntotal == len(made.distinct)
    for a, b in (
        (made.search(queries, 6), loaded.search(queries, 6)),
        (made.within(queries, 5), loaded.within(queries, 5)),
    ):
        assert all((getattr(a, name) == getattr(b, name)).all() for name in ("offsets", "ids", "distances", "exact"))
    check(loaded, codes, ids, queries, loaded.search(queries, 6), k=6)


def test_load_refuses_another_index():
    codes, ids, _ = make(0, 20, 50, 1, "random")
    hashed = CodeIndex(codes, ids, 20, "hash:b=8,flips=2")
    flat = CodeIndex(codes, ids, 20, "flat").dump()
    other = CodeIndex(*make(1, 20, 30, 1, "random")[:2], 20, "flat").dump()
    wide = CodeIndex(*make(1, 64, 50, 1, "random")[:2], 64, "flat").dump()
    for data, kind in (
        (flat, "hash:b=8,flips=2"),
        (hashed.dump(), "flat"),
        (hashed.dump(), "hash:b=8,flips=1"),
        (hashed.dump(), "hash:b=9,flips=2"),
        (other, "flat"),
        (wide, "flat"),
        (b"", "flat"),
        (b"IBxF" + b"\xff" * 40, "flat"),
        (b"no index at all", "flat"),
        (flat[:-7], "flat"),
    ):
        with pytest.raises(CorruptIndexError, match="delete it, it is rebuilt"):
            CodeIndex.restore(data, codes, ids, 20, kind)


@pytest.mark.parametrize(
    "kind",
    [
        "", "Flat", "flat:", "flat:b=1", "ivf:b=3", "ivf:lists=0", "ivf:probes=0", "hnsw:m=1", "hnsw:ef=0",
        "gpu:x=1", "multihash:tables=0", "multihash:tables=21", "multihash:tables=3,b=7", "multihash:b=4,flips=5",
        "auto:b=3", "hash:c=3", "hash:b", "hash:b=", "hash:b=-1", "hash:b=1.5", "hash:b=0", "hash:b=21", "hash:b=33",
        "hash:b=999999999", "hash:b=" + "9" * 40, "hash:b=8,flips=9", "hash:b=16,flips=17", "hash:flips=" + "9" * 30,
        "hash:b=2 ,flips=1", "hash,b=3", ":b=3", "hash:b==3",
    ],
)  # fmt: skip
def test_bad_kinds_are_told(kind):
    codes, ids, _ = make(0, 20, 10, 1, "random")
    with pytest.raises(ArgumentError):
        CodeIndex(codes, ids, 20, kind)


def good():
    return np.zeros((3, 3), np.uint8)


@pytest.mark.parametrize(
    ("codes", "ids", "bits"),
    [
        (good().astype(np.int8), [0, 1, 2], 20),
        (good().tolist(), [0, 1, 2], 20),
        (good()[:, :2], [0, 1, 2], 20),
        (good()[0], [0, 1, 2], 20),
        (good() | 0x10, [0, 1, 2], 20),  # bits beyond the 20th
        (good(), [0, 1], 20),
        (good(), [[0, 1, 2]], 20),
        (good(), [0.0, 1.0, 2.0], 20),
        (good(), ["a", "b", "c"], 20),
        (good(), [True, False, True], 20),
        (good(), [0, 1, 1], 20),
        (good(), [2, 0, 2], 20),
        (good(), [-1, 0, 1], 20),
        (good(), np.array([0, 1, 2**63], np.uint64), 20),
        (good(), [2**62, -(2**63), 5], 20),
        (good(), [2**62, 2**62 + 1, -(2**63)], 20),
        (good(), [0, 1, 2], 0),
        (good(), [0, 1, 2], 20.0),
        (good(), [0, 1, 2], True),
        (np.zeros((3, 0), np.uint8), [0, 1, 2], 0),
    ],
)
def test_bad_codes_and_ids_are_told(codes, ids, bits):
    with pytest.raises(ArgumentError):
        CodeIndex(codes, ids, bits)


@pytest.mark.parametrize("kind", ["flat", "hash:b=6"])
def test_bad_queries_are_told_and_layout_does_not_matter(kind):
    codes, ids, queries = make(3, 20, 30, 8, "random")
    index = CodeIndex(codes, ids, 20, kind)
    for k in (0, -1, 1.0, "3", None, True, np.float32(2)):
        with pytest.raises(ArgumentError, match="k is"):
            index.search(queries, k)
    for radius in (-1, 0.5, None, False):
        with pytest.raises(ArgumentError, match="radius is"):
            index.within(queries, radius)
    for wrong in (queries[0], queries[:, :2], queries.astype(np.uint16), queries.tolist(), queries | 0xF0):
        for ask in (lambda q: index.search(q, 3), lambda q: index.within(q, 3)):
            with pytest.raises(ArgumentError, match="queries"):
                ask(wrong)
    wanted = index.search(queries, np.int64(4)).ids.tolist()
    assert wanted == index.search(np.asfortranarray(queries), 4).ids.tolist()
    assert wanted == index.search(np.repeat(queries, 2, axis=0)[::2], np.uint8(4)).ids.tolist()
    spaced = CodeIndex(np.repeat(codes, 2, axis=0)[::2], ids, 20, kind)
    assert wanted == spaced.search(queries, 4).ids.tolist()
    none = index.search(queries[:0], 4)
    assert (len(none), none.ids.tolist(), none.offsets.tolist()) == (0, [], [0])


def test_radius_beyond_all_bits_finds_all():
    codes, ids, queries = make(4, 12, 30, 3, "random")
    for radius in (12, 13, 10**6, 2**40):
        answers = CodeIndex(codes, ids, 12).within(queries, radius)
        check(None, codes, ids, queries, answers, radius=radius)
        assert np.diff(answers.offsets).tolist() == [30] * 3


def test_large_k_and_ids_at_the_end_of_their_range():
    codes, _, queries = make(5, 12, 3, 2, "random")
    ids = np.array([2**63 - 1, 0, 2**62], np.uint64)
    for kind in ("flat", "hash:b=12,flips=8"):
        check(None, codes, ids, queries, CodeIndex(codes, ids, 12, kind).search(queries, 2**70), k=2**70)


def test_threads_are_put_back(monkeypatch):
    codes, ids, queries = make(6, 16, 50, 4, "random")
    index = CodeIndex(codes, ids, 16)
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(3)
    monkeypatch.setattr(type(index.kind), "alone", False)  # else no threads of FAISS's are counted for one query
    try:
        used = []
        for name in ("nearest", "nearest_one"):
            asked = getattr(index.kind, name)
            spied = lambda *a, asked=asked: used.append(faiss.omp_get_max_threads()) or asked(*a)  # noqa: E731
            monkeypatch.setattr(index.kind, name, spied)
        index.search(queries[:1], 3)
        assert faiss.omp_get_max_threads() == 3
        index.search(queries, 3)
        assert used == [1, 3]
        monkeypatch.setattr(index.kind, "nearest_one", lambda *a: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            index.search(queries[:1], 3)
        assert faiss.omp_get_max_threads() == 3
    finally:
        faiss.omp_set_num_threads(before)


@pytest.mark.parametrize(("name", "value"), [("WORK_PER_CALL", 8000), ("ANSWERS_PER_CALL", 70), ("WORK_PER_CALL", 1)])
@pytest.mark.parametrize("kind", ["flat", "hash:b=6,flips=1"])
def test_large_batches_are_cut(monkeypatch, kind, name, value):
    codes, ids, queries = make(7, 20, 60, 33, "clustered")
    index = CodeIndex(codes, ids, 20, kind)
    whole = index.search(queries, 30), index.within(queries, 6)
    monkeypatch.setattr(snapshot, name, value)
    calls = []
    nearest, within = index.now._nearest, index.now._within
    monkeypatch.setattr(index.now, "_nearest", lambda q, *a: calls.append(len(q)) or nearest(q, *a))
    monkeypatch.setattr(index.now, "_within", lambda q, *a: calls.append(len(q)) or within(q, *a))
    cut = index.search(queries, 30), index.within(queries, 6)
    assert max(calls) < 50
    assert len(calls) > 2
    assert sum(calls) == 66
    for a, b in zip(whole, cut, strict=True):
        assert all((getattr(a, field) == getattr(b, field)).all() for field in ("offsets", "ids", "distances", "exact"))


def test_batches_count_the_buckets_a_hash_looks_into(monkeypatch):
    """With many flips it is the buckets that take the time, not the codes."""
    codes, ids, queries = make(8, 64, 20, 40, "random")
    index = CodeIndex(codes, ids, 64, "hash:b=16,flips=3")
    assert index.kind.buckets == 1 + 16 + 120 + 560
    monkeypatch.setattr(snapshot, "WORK_PER_CALL", 10 * index.now._work(index.kind, 3) + 5)
    assert index.kind.work >= 256 * 697
    calls = []
    nearest = index.now._nearest
    monkeypatch.setattr(index.now, "_nearest", lambda q, *a: calls.append(len(q)) or nearest(q, *a))
    index.search(queries, 3)
    assert calls == [10, 10, 10, 10]


def test_batches_count_the_words_of_a_code_and_the_heap_of_k():
    """Measured with 1 << 28 pairs a call, on 500,000 codes of 64 bits unless said: seconds a call took."""
    index = CodeIndex(*make(1, 64, 1, 1, "random")[:2], 64)

    class kind:
        work = 0.0

    def seconds(bits, n, k, measured):
        index.now.bits = bits
        kind.work = float(n)
        pairs = (snapshot.WORK_PER_CALL // index.now._work(kind, min(k, n))) * n
        return measured * pairs / (1 << 28)

    assert 0.05 < seconds(1024, 500_000, 10, 6.3) < 0.5
    assert 0.05 < seconds(64, 500_000, 1000, 1.9) < 0.5
    assert 0.05 < seconds(64, 500_000, 7800, 5.1) < 0.5
    work = [[index.now._work(kind, k) for k in (0, 1, 2, 10, 1000, 7800, 400_000, 500_000)]]
    index.now.bits = 1024
    work.append([index.now._work(kind, k) for k in (0, 1, 2, 10, 1000, 7800, 400_000, 500_000)])
    assert (np.diff(work, axis=0) > 0).all()
    assert (np.diff(work, axis=1) > 0).all()


@pytest.mark.parametrize(("b", "most"), [(32, 5), (24, 7), (21, 10), (30, 6)])
def test_flips_are_bounded_by_the_buckets_visited(b, most):
    assert parse_kind(f"hash:b={b},flips={most}", 64, 0).buckets <= 1 << 20
    message = rf"flips .* is {most + 1}: with b={b} give a whole number from 0 to {most}, or .* than 1,048,576 buckets"
    for flips in {most + 1, max(most + 1, 8), b}:
        with pytest.raises(ArgumentError, match=message.replace(f"is {most + 1}", f"is {flips}")):
            parse_kind(f"hash:b={b},flips={flips}", 64, 0)


def test_all_flips_are_possible_where_the_buckets_are_few():
    codes, ids, queries = make(10, 64, 40, 3, "random")
    for b in (9, 12, 20):
        kind = parse_kind(f"hash:b={b},flips={b}", 64, 0)
        assert (kind.buckets, kind.complete_at(b)) == (1 << b, 64)
    answers = CodeIndex(codes, ids, 64, "hash:b=12,flips=12").search(queries, 7)
    check(None, codes, ids, queries, answers, k=7)
    assert answers.exact.all()


def test_without_b_the_bits_fit_the_flips():
    for n in (0, 10**6, 10**8):
        for flips in (0, 3, 8, 20):
            kind = parse_kind(f"hash:flips={flips}", 64, n)
            assert kind.parameters["flips"] == flips
            assert kind.buckets <= 1 << 20
    assert parse_kind("hash:flips=8", 64, 10**8).parameters["b"] == 23


def test_a_hash_is_built_in_slices(monkeypatch):
    codes, ids, queries = make(11, 64, 150, 5, "random")
    whole = CodeIndex(codes, ids, 64, "hash:b=6,flips=2")
    monkeypatch.setattr(bucket_kinds, "CODES_PER_ADD", 40)
    added = []
    add = faiss.IndexBinaryHash.add
    monkeypatch.setattr(faiss.IndexBinaryHash, "add", lambda self, x: added.append(len(x)) or add(self, x))
    cut = CodeIndex(codes, ids, 64, "hash:b=6,flips=2")
    assert added == [40, 40, 40, 30]
    a, b = whole.search(queries, 9), cut.search(queries, 9)
    assert all((getattr(a, name) == getattr(b, name)).all() for name in ("offsets", "ids", "distances", "exact"))


def test_answers_are_a_sequence():
    codes, ids, queries = make(9, 16, 20, 3, "random")
    index = CodeIndex(codes, ids, 16)
    answers = index.search(queries, 4)
    assert [a.tolist() for a in answers[-1]] == [a.tolist() for a in answers[2]]
    assert len(list(answers)) == 3
    for beyond in (3, -4):
        with pytest.raises(IndexError):
            answers[beyond]
    joined = Answers.join([answers, index.search(queries[:1], 2), index.search(queries[:0], 1)])
    assert joined.offsets.tolist() == [0, 4, 8, 12, 14]
    assert joined.ids[12:].tolist() == answers.ids[:2].tolist()
