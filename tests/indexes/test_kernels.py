"""The native core, on every path this processor has, against plain numpy; and what it is not to be given."""

from __future__ import annotations

import gc
import threading
from contextlib import suppress

import faiss
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hashfaiss.codes import hamming
from hashfaiss.indexes import kernels

core = pytest.importorskip("hashfaiss.indexes._kernels", reason="the native core was not compiled")
PATHS = core.paths()
QUIET = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(params=PATHS)
def path(request, monkeypatch):
    """Each path, whatever the environment turned off."""
    before = kernels.available() or PATHS[0]
    monkeypatch.setattr(kernels, "_core", core)
    monkeypatch.setattr(kernels, "_path", request.param)
    monkeypatch.setattr(kernels, "_asked", request.param)
    core.use(request.param)
    yield request.param
    core.use(before)


@st.composite
def collections(draw, most=700):
    """Codes and queries of 1 to 128 bytes: random, of few distinct codes, all equal, or round few centres."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    width = draw(st.one_of(st.sampled_from((4, 8, 16, 20, 24, 32, 128)), st.integers(1, 128)))
    n, asked = draw(st.one_of(st.integers(0, 70), st.integers(0, most))), draw(st.sampled_from((0, 1, 3, 40)))
    codes = random.integers(0, 256, (n + asked, width), dtype=np.uint8)
    spread = draw(st.sampled_from(("random", "few", "equal", "near")))
    if spread == "few":
        codes = codes[random.integers(0, min(4, n + asked) or 1, n + asked)]
    elif spread == "equal":
        codes[:] = 0xA5
    elif spread == "near" and n + asked:
        flips = np.packbits(random.random((n + asked, 8 * width)) < 0.05, axis=1)
        codes = codes[random.integers(0, min(3, n + asked), n + asked)] ^ flips
    return codes[:n], codes[n:]


def in_lists(codes, count, seed, sort=True):
    """Lists round some of the codes, ids of which have gaps; and these ids."""
    random = np.random.default_rng(seed)
    ids = np.sort(random.choice(5 * len(codes) + 1, len(codes), replace=False)).astype(np.int64)
    centroids = random.integers(0, 256, (count, codes.shape[1]), dtype=np.uint8)
    if len(codes):
        centroids[: count // 2] = codes[random.integers(0, len(codes), count // 2)]
    distances = hamming(codes, centroids).astype(int)
    numbers = distances.argmin(axis=1)
    order = np.lexsort((distances[np.arange(len(codes)), numbers], numbers)) if sort else random.permutation(len(codes))
    rows = [order[numbers[order] == number] for number in range(count)]
    return kernels.lists([codes[row] for row in rows], [ids[row] for row in rows], centroids), ids


def check_nearest(place, ids, codes, queries, k, threads):
    found = kernels.nearest(place, queries, k, threads)
    exact = hamming(queries, codes).astype(int)
    order = np.argsort(exact, axis=1, kind="stable")[:, :k]  # ids ascend
    there = order.shape[1]
    assert np.array_equal(found.positions[:, :there], ids[order])
    assert np.array_equal(found.distances[:, :there], np.take_along_axis(exact, order, axis=1))
    assert (found.positions[:, there:] == -1).all()
    assert (found.distances[:, there:] == np.iinfo(np.int32).max).all()
    assert 0 <= found.compared <= len(queries) * (len(codes) + 31 * 70)


def check_within(place, ids, codes, queries, radius, threads):
    found = kernels.within(place, queries, radius, threads)
    exact = hamming(queries, codes).astype(int)
    assert found.limits[0] == 0
    assert found.limits[-1] == len(found.positions) == len(found.distances)
    for query, (start, end) in enumerate(zip(found.limits, found.limits[1:], strict=False)):
        near = np.flatnonzero(exact[query] <= radius)
        pairs = zip(found.positions[start:end].tolist(), found.distances[start:end].tolist(), strict=True)
        assert sorted(pairs) == list(zip(ids[near].tolist(), exact[query, near].tolist(), strict=True))


@given(collections(), st.integers(1, 900), st.integers(0, 1100), st.sampled_from((1, 3)))
@QUIET
def test_rows_are_searched_as_numpy_does(path, collection, k, radius, threads):
    codes, queries = collection
    rows = np.arange(len(codes))
    check_nearest(codes, rows, codes, queries, k, threads)
    check_within(codes, rows, codes, queries, radius, threads)


@given(collections(), st.integers(1, 70), st.integers(1, 900), st.integers(0, 300), st.integers(0, 99), st.booleans())
@QUIET
def test_lists_are_searched_as_numpy_does(path, collection, count, k, radius, seed, sort):
    codes, queries = collection
    place, ids = in_lists(codes, count, seed, sort)
    check_nearest(place, ids, codes, queries, k, 1)
    check_within(place, ids, codes, queries, radius, 1)


@given(collections(), st.integers(1, 70), st.integers(1, 3))
@QUIET
def test_codes_are_assigned_as_numpy_does(path, collection, count, threads):
    codes, centroids = collection
    if not len(centroids):
        centroids = np.zeros((count, codes.shape[1]), np.uint8)
    distances, numbers = kernels.assign(codes, centroids, threads)
    exact = hamming(codes, centroids)
    assert np.array_equal(numbers, exact.argmin(axis=1))
    assert np.array_equal(distances, exact.min(axis=1))


@pytest.mark.parametrize("width", [8, 16, 20, 32, 64])
def test_large_batches_over_many_blocks(path, width):
    random = np.random.default_rng(width)
    codes = random.integers(0, 4, (30_011, width), dtype=np.uint8)
    queries = random.integers(0, 4, (300, width), dtype=np.uint8)
    flat = faiss.IndexBinaryFlat(8 * width)
    flat.add(codes)
    for asked, k in ((300, 5), (1, 1000), (17, 40_000)):
        distances, positions = flat.search(queries[:asked], k)
        found = kernels.nearest(codes, queries[:asked], k)
        assert np.array_equal(found.positions, positions)
        assert np.array_equal(found.distances, distances)


def test_codes_may_lie_anywhere(path):
    """In a mapped file, FAISS's codes and ids lie at odd addresses."""
    random = np.random.default_rng(0)
    for width in (8, 16, 20, 32):
        codes, queries = (random.integers(0, 256, (n, width), dtype=np.uint8) for n in (777, 40))
        odd = np.concatenate([[0], codes.ravel()]).astype(np.uint8)[1:].reshape(codes.shape)
        assert odd.ctypes.data % 2
        ids = np.frombuffer(b"\0" + np.arange(777).tobytes(), np.int64, 777, 1)
        place = kernels.lists([odd], [ids], queries[:1])
        for where in (odd, place):
            check_nearest(where, np.arange(777), codes, queries, 9, 1)
            check_within(where, np.arange(777), codes, queries, 4 * width, 1)


def test_of_lists_in_order_only_shells_are_compared(path):
    random = np.random.default_rng(3)
    centres = random.integers(0, 2, (20, 64))
    flips = random.random((20_040, 64)) < 0.15
    codes = np.packbits(centres[random.integers(0, 20, 20_040)] ^ flips, axis=1)
    codes, queries = codes[:20_000], codes[20_000:]
    compared = {sort: kernels.nearest(in_lists(codes, 100, 0, sort)[0], queries, 5).compared for sort in (True, False)}
    assert compared[True] < compared[False] / 2
    assert compared[False] < len(queries) * len(codes)


def test_queries_may_be_every_other_row(path):
    codes = np.random.default_rng(4).integers(0, 4, (500, 8), dtype=np.uint8)
    for queries in (codes[::7], np.asfortranarray(codes[:9])):
        found, within = kernels.nearest(codes, queries, 3), kernels.within(codes, queries, 9)
        assert np.array_equal(found.positions, kernels.nearest(codes, queries.copy("C"), 3).positions)
        assert np.array_equal(within.positions, kernels.within(codes, queries.copy("C"), 9).positions)
        nearest = kernels.nearest(codes[::100].copy(), queries, 1).positions[:, 0]
        assert np.array_equal(kernels.assign(queries, codes[::100])[1], nearest)


def test_lists_keep_what_they_search_in(path):
    random = np.random.default_rng(1)
    codes = random.integers(0, 256, (5000, 8), dtype=np.uint8)
    place = kernels.lists([codes.copy()], [np.arange(5000)], codes[:1].copy())
    gc.collect()
    filler = [np.full((5000, 8), 7, np.uint8) for _ in range(20)]
    check_nearest(place, np.arange(5000), codes, codes[:5], 3, 1)
    assert filler


def test_threads_share_one_place(path):
    codes = np.random.default_rng(2).integers(0, 4, (5000, 8), dtype=np.uint8)
    place, _ = in_lists(codes, 40, 0)
    expected = kernels.nearest(place, codes[:64], 5).positions
    wrong = []

    def ask(threads):
        for _ in range(20):
            wrong.extend(
                [] if np.array_equal(kernels.nearest(place, codes[:64], 5, threads).positions, expected) else [1]
            )

    running = [threading.Thread(target=ask, args=(1 + n % 3,)) for n in range(4)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert wrong == []


# ---- what it is not to be given

CODES, QUERIES = np.zeros((50, 8), np.uint8), np.zeros((3, 8), np.uint8)
LISTS = [CODES], [np.arange(50)], QUERIES[:1]


def room(queries=3, k=2):
    return np.empty((queries, k), np.int32), np.empty((queries, k), np.int64)


def read_only(array):
    array.flags.writeable = False
    return array


def wrong_calls():
    distances, positions = room()
    yield core.nearest, (CODES, QUERIES, distances)
    yield core.nearest, (CODES, QUERIES, distances, positions, 1)
    yield core.nearest, (object(), QUERIES, distances, positions)
    yield core.nearest, (None, QUERIES, distances, positions)
    for codes in (
        CODES.astype(np.int8), CODES.astype(np.uint16), CODES.view(np.uint64), CODES.astype(bool), CODES.astype(object),
        CODES[0], CODES[:, ::2], CODES[::2], CODES[:, :4].copy(), CODES[:, :0].copy(), CODES.reshape(50, 8, 1),
        np.asfortranarray(CODES), CODES.tolist(), CODES.tobytes(), "codes", 7,
    ):  # fmt: skip
        yield core.nearest, (codes, QUERIES, distances, positions)
        yield core.nearest, (CODES, codes, *room(50))
        yield core.within, (codes, 3, QUERIES, np.empty(3, np.int64))
        yield core.assign, (codes, QUERIES, np.empty(50, np.int32), np.empty(50, np.int32))
        yield core.lists, ([codes], [np.arange(50)], QUERIES[:1])
        yield core.lists, ([CODES], [np.arange(50)], codes)
    wide = np.zeros((3, 249), np.uint8)
    yield core.nearest, (wide, wide, distances, positions)
    for wrong in (
        room(2), room(4), room(3, 0), room()[::-1], (room(3, 2)[0], room(3, 3)[1]), (room(3, 3)[0], room(3, 2)[1]),
        (distances.astype(np.int64), positions), (distances.view(np.float32), positions), (distances[0], positions),
        (distances, positions.astype(np.int32)), (distances, positions.view(np.float64)),
        (read_only(room()[0]), positions), (distances, read_only(room()[1])),
        (np.empty((2, 3), np.int32).T, positions), (distances, np.empty((3, 4), np.int64)[:, ::2]),
        (np.empty((3, 2), ">i4"), positions), (distances, np.frombuffer(bytearray(49), np.int64, 6, 1).reshape(3, 2)),
    ):  # fmt: skip
        yield core.nearest, (CODES, QUERIES, *wrong)
    counts = np.empty(3, np.int64)
    for radius in (-1, 65535, 2**40, 2**80, -(2**80), 1.5, "3", None):
        yield core.within, (CODES, radius, QUERIES, counts)
    for wrong in (counts[:2], np.empty(4, np.int64), np.empty((3, 1), np.int64), np.empty(3, np.int32), bytearray(24)):
        yield core.within, (CODES, 3, QUERIES, wrong)
    numbers = np.empty(50, np.int32)
    for wrong in ((numbers[:49], numbers), (numbers, numbers[:49]), (numbers.view(np.uint32), numbers), (numbers,)):
        yield core.assign, (CODES, QUERIES, *wrong)
    yield core.assign, (CODES, QUERIES[:0], numbers, numbers)
    yield core.assign, (CODES, QUERIES[:, :4].copy(), numbers, numbers)
    yield from wrong_lists()
    for name in ("", "avx", "AVX2", "sse", b"avx2", None, 3):
        yield core.use, (name,)


def wrong_lists():
    class Liar(list):
        def __len__(self):
            return 1

    class Short(list):
        def __getitem__(self, place):
            raise IndexError(place)

    codes, ids, centroids = LISTS
    for wrong in (
        (codes, ids), (codes, ids, QUERIES), (codes, ids, QUERIES[:0]), ([], [], QUERIES[:0]), (7, 8, centroids),
        (codes * 2, ids, centroids), (codes, ids * 2, centroids), (CODES, ids, centroids), (codes, [ids], centroids),
        (codes, [np.arange(49)], centroids), (codes, [np.arange(100)[::2]], centroids), (codes, None, centroids),
        (codes, [np.arange(50, dtype=np.int32)], centroids), (codes, [np.arange(50.0)], centroids),
        ([QUERIES], ids, centroids), ([None], ids, centroids), ({0: CODES}, ids, centroids),
        (Liar(), ids, centroids), (Short(codes), ids, centroids), (codes, ids, np.zeros((1, 16), np.uint8)),
        (codes, ids, centroids[0]), (codes, ids, centroids.astype(np.int64)),
    ):  # fmt: skip
        yield core.lists, wrong
    place = core.lists(*LISTS)
    yield core.nearest, (place, np.zeros((3, 16), np.uint8), *room())
    yield core.within, (place, -1, QUERIES, np.empty(3, np.int64))
    yield core.nearest, (QUERIES, place, *room())
    yield core.assign, (place, QUERIES, np.empty(50, np.int32), np.empty(50, np.int32))


def test_wrong_arguments_are_told(path):
    calls = list(wrong_calls())
    assert len(calls) > 150
    for function, arguments in calls:
        with pytest.raises((ValueError, TypeError, IndexError, OverflowError)):
            function(*arguments)


def test_wrong_numbers_are_told(path):
    for k in (0, -1, -(2**40)):
        with pytest.raises(ValueError, match=r"negative|give room"):
            kernels.nearest(CODES, QUERIES, k)
    for wrong in (2**62, 1.5, "3"):
        with pytest.raises((ValueError, TypeError, MemoryError)):
            kernels.nearest(CODES, QUERIES, wrong)


@given(st.data())
@QUIET
def test_any_arguments_are_answered_or_told(path, data):
    """Whatever is thrown at it, it raises or returns."""
    kinds = st.sampled_from((np.uint8, np.int32, np.int64, np.uint64, np.float32, np.bool_))
    sides = st.integers(0, 40)

    def thing():
        shape = data.draw(st.lists(sides, min_size=1, max_size=3))
        array = np.zeros(shape, data.draw(kinds))
        return data.draw(
            st.sampled_from((array, array.T, array[::2], bytes(8), 3, -1, core.lists(*LISTS), [array], None))
        )

    function = data.draw(st.sampled_from((core.nearest, core.within, core.assign, core.lists)))
    arguments = [thing() for _ in range(data.draw(st.sampled_from((3, 4, 6))))]
    with suppress(ValueError, TypeError, OverflowError, IndexError):
        function(*arguments)
