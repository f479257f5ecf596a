"""CodeIndex as FAISS's users know an index: add, remove_ids, reconstruct, save, load, and indexes that FAISS made."""

from __future__ import annotations

import os
from pathlib import Path

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from test_indexes import check, make, oracle

from hashfaiss.codes import pack
from hashfaiss.errors import ArgumentError, CorruptIndexError, HashfaissError
from hashfaiss.indexes import CodeIndex, beside, code_index
from hashfaiss.indexes.beside import Beside

KINDS = ["flat", "hash:b=6,flips=1", "multihash:tables=2,b=4", "ivf:lists=4,probes=2", "hnsw:m=4,ef=8", "ivf", "auto"]
BITS = 12


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """As if an index of 12 codes were large, and more than 12 beside it, or 4 gone, too many."""
    monkeypatch.setattr(beside, "BESIDE", 12)
    monkeypatch.setattr(beside, "GONE", 4)


class Changes(RuleBasedStateMachine):
    """Codes come, go and come again under ids of any order: answers are those of a dictionary of what there is."""

    @initialize(kind=st.sampled_from(KINDS), n=st.sampled_from((0, 5, 40)), seed=st.integers(0, 2**32))
    def begin(self, kind, n, seed):
        self.random = np.random.default_rng(seed)
        self.pool = make(seed, BITS, 25, 1, "duplicated")[0]  # few, so that codes repeat and come back
        codes, ids = self.some(n), self.random.permutation(200)[:n]
        self.index = CodeIndex(codes, ids, BITS, kind)
        self.there = dict(zip(ids.tolist(), codes, strict=True))
        self.next = max(self.there, default=-1) + 1

    def some(self, n):
        return self.pool[self.random.integers(0, len(self.pool), n)]

    @rule(n=st.integers(0, 6), own=st.booleans())
    def add(self, n, own):
        codes = self.some(n)
        free = np.setdiff1d(np.arange(200), list(self.there))
        ids = self.random.permutation(free)[:n] if own else np.arange(self.next, self.next + n)
        self.index.add(codes, ids if own else None)
        self.there |= dict(zip(ids.tolist(), codes, strict=True))
        self.next = max(self.next, int(ids.max(initial=-1)) + 1)

    @precondition(lambda self: self.there)
    @rule(n=st.integers(1, 3))
    def remove(self, n):
        ids = self.random.permutation(list(self.there))[:n]
        assert self.index.remove_ids([*ids.tolist(), 10**6, -1]) == len(ids)
        for number in ids.tolist():
            del self.there[number]

    @precondition(lambda self: self.there)
    @rule()
    def add_what_is_there(self):
        number = next(iter(self.there))
        with pytest.raises(ArgumentError, match=f"id {number} is in the index already"):
            self.index.add(self.some(2), [number, 10**7])

    @rule(k=st.sampled_from((1, 3, 50)), radius=st.integers(0, 6), exact=st.booleans())
    def search(self, k, radius, exact):
        ids = np.array(sorted(self.there), np.int64)
        codes = np.array([self.there[number] for number in ids.tolist()], np.uint8).reshape(-1, 2)
        queries = np.concatenate([self.some(1), pack(self.random.standard_normal((2, BITS)))])
        check(self.index, codes, ids, queries, self.index.search(queries, k, exact), k=k)
        check(self.index, codes, ids, queries, self.index.within(queries, radius, exact), radius=radius)
        if exact:
            found = [self.index.search(query[None], k, exact)[0][0].tolist() for query in queries]
            assert found == [oracle(codes, ids, query, k)[0] for query in queries]

    @rule()
    def save_and_load(self):
        path = f"{os.environ['PYTEST_CODES']}/some.codes"
        self.index.save(path)
        self.index = CodeIndex.load(path)
        self.next = max(self.there, default=-1) + 1

    @invariant()
    def counts(self):
        if hasattr(self, "there"):
            assert self.index.ntotal == len(self.index) == len(self.there)

    @precondition(lambda self: self.there)
    @rule()
    def reconstruct(self):
        ids = self.random.permutation(list(self.there))
        assert self.index.reconstruct(ids).tolist() == [self.there[number].tolist() for number in ids.tolist()]
        assert self.index.reconstruct(ids[0]).tolist() == self.there[int(ids[0])].tolist()
        with pytest.raises(ArgumentError, match="no id 1000000"):
            self.index.reconstruct([int(ids[0]), 10**6])


def test_changes_are_as_a_dictionary_has_them(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTEST_CODES", str(tmp_path))
    monkeypatch.setattr(code_index, "FLAT_UP_TO", 60)
    case = Changes.TestCase
    case.settings = settings(deadline=None, max_examples=60, stateful_step_count=25)
    case("runTest").runTest()


@pytest.mark.parametrize("kind", ["ivf:lists=8,probes=2", "hash:b=8,flips=1", "hnsw:m=4,ef=8"])
def test_a_little_more_lies_beside_what_was_built(kind, tmp_path):
    codes, ids, queries = make(3, 24, 300, 5, "clustered")
    index = CodeIndex(codes[:280], ids[:280], 24, kind)
    built = index.faiss
    index.add(codes[280:290], ids[280:290])
    index.remove_ids(ids[:3])
    assert index.search(queries, 7, exact=True).exact.all()
    assert isinstance(index.kind, Beside)
    assert index.faiss is built
    index.save(tmp_path / "x.codes")
    loaded = CodeIndex.load(tmp_path / "x.codes")
    assert isinstance(loaded.kind, Beside)
    loaded.add(codes[290:], ids[290:])
    check(loaded, codes[3:], ids[3:], queries, loaded.search(queries, 7, exact=True), k=7)
    assert loaded.remove_ids(ids[10:100]) == 90
    check(loaded, np.delete(codes, range(10, 100), 0)[3:], np.delete(ids, range(10, 100))[3:], queries,
          loaded.search(queries, 7, exact=True), k=7)  # fmt: skip
    assert not isinstance(loaded.kind, Beside)


def test_auto_measures_again_only_when_there_are_twice_as_many(monkeypatch, tmp_path):
    monkeypatch.setattr(code_index, "FLAT_UP_TO", 50)
    measured, tune = [], code_index.tune
    monkeypatch.setattr(code_index, "tune", lambda codes, *a: measured.append(len(codes)) or tune(codes, *a))
    codes = np.unique(make(1, 32, 500, 1, "random")[0], axis=0)
    index = CodeIndex(bits=32)
    for start in range(0, 40, 10):
        index.add(codes[start : start + 10])
    assert index.search(codes[:2], 1).distances.tolist() == [0, 0]
    assert measured == []
    index.add(codes[40:100])
    assert measured == []  # not before it is asked
    index.search(codes[:1], 1)
    index.add(codes[100:190])
    index.search(codes[:1], 1)
    assert measured == [100]
    index.save(tmp_path / "x.codes")
    index = CodeIndex.load(tmp_path / "x.codes")
    assert measured == [100]
    index.add(codes[190:300])
    index.search(codes[:1], 1)
    assert measured == [100, 300]


def test_answers_as_faiss_has_them():
    codes, _, queries = make(2, 64, 200, 6, "clustered")
    index, ours = faiss.IndexBinaryFlat(64), CodeIndex(codes, kind="flat")
    index.add(codes)
    distances, ids = index.search(queries, 9)
    found = ours.search(queries, 9).padded(9)
    assert [found[0].tolist(), found[1].tolist()] == [distances.tolist(), ids.tolist()]
    limits, distances, ids = index.range_search(queries, 21)
    answers = ours.range_search(queries, 20)
    assert answers.offsets.tolist() == limits.tolist()
    assert sorted(answers.ids.tolist()) == sorted(ids.tolist())
    distances, ids = ours.search(queries, 300).padded(300)
    assert (distances[:, 200:] == 2**31 - 1).all()
    assert (ids[:, 200:] == -1).all()
    assert (ids[:, :200] >= 0).all()
    assert CodeIndex(bits=64).search(queries, 3).padded(3)[1].tolist() == [[-1] * 3] * 6
    for k in (-1, 2.5, True):
        with pytest.raises(ArgumentError, match="give a whole number of 0 or more"):
            ours.search(queries, 3).padded(k)


# ---- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [0, 1, 4, 100])
def test_what_is_saved_is_loaded(kind, n, tmp_path):
    codes, ids, queries = make(0, 20, n, 3, "duplicated")
    index = CodeIndex(codes, ids * 7, 20, kind)
    index.save(tmp_path / "x.codes")
    loaded = CodeIndex.load(str(tmp_path / "x.codes"))
    assert (str(loaded.kind), loaded.bits, len(loaded)) == (str(index.kind), 20, n)
    for answers in zip(*((i.search(queries, 5), i.within(queries, 3)) for i in (index, loaded)), strict=True):
        assert answers[0].ids.tolist() == answers[1].ids.tolist()
        assert answers[0].exact.tolist() == answers[1].exact.tolist()
    assert [path.name for path in tmp_path.iterdir()] == ["x.codes"]


@given(st.data())
@settings(deadline=None, max_examples=150)
def test_no_altered_file_is_read(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp() / "altered"
    if not folder.exists():
        folder.mkdir()
        CodeIndex(*make(0, 20, 60, 1, "clustered")[:2], 20, "ivf:lists=4,probes=2").save(folder / "good")
    good = (folder / "good").read_bytes()
    at = data.draw(st.integers(0, len(good) - 1))
    cut = data.draw(st.booleans())
    altered = good[:at] if cut else good[:at] + bytes([good[at] ^ data.draw(st.integers(1, 255))]) + good[at + 1 :]
    (folder / "bad").write_bytes(altered)
    with pytest.raises(HashfaissError):
        CodeIndex.load(folder / "bad")


def test_other_files_are_told(tmp_path):
    faiss.write_index_binary(faiss.IndexBinaryFlat(64), str(tmp_path / "own.faiss"))
    (tmp_path / "text").write_text("hello")
    for name, message in {
        "own.faiss": "read FAISS's own with CodeIndex.of",
        "text": "give one that CodeIndex.save wrote",
        ".": "is a folder: open an index of images with ImageIndex.open",
        "nothing": "No such file",
    }.items():
        with pytest.raises(HashfaissError, match=message):
            CodeIndex.load(tmp_path / name)
    index = CodeIndex(*make(0, 64, 9, 1, "random")[:2], 64)
    with pytest.raises(HashfaissError, match="cannot write"):
        index.save(tmp_path / "no" / "folder.codes")


def test_a_file_that_lies_is_damaged(tmp_path):
    """Its digest is right, what it says is not."""
    from hashfaiss.indexes.saved import read_file, write_file

    CodeIndex(*make(0, 20, 60, 1, "clustered")[:2], 20, "hash:b=6,flips=2").save(tmp_path / "x")
    about, arrays = read_file(tmp_path / "x")
    lies = [{"kind": "hash:b=6,flips=3"}, {"kind": "ivf"}, {"bits": 64}, {"bits": "20"}, {"asked": "no"}, {"asked": 1}]
    changed = [
        {"all": np.array([[0], [2**62]])},
        {"all": np.array([[5, 5], [30, 30]])},
        {"order": arrays["order"] * 0},
        {"faiss": arrays["faiss"][:50]},
        {"ids": np.arange(3), "starts": np.arange(4)},
    ]
    for said, other in [*((lie, {}) for lie in lies), *(({}, lie) for lie in changed)]:
        write_file(tmp_path / "bad", {**about, **said}, {**arrays, **other})
        with pytest.raises(CorruptIndexError, match="is damaged: restore it from a copy"):
            CodeIndex.load(tmp_path / "bad")


# ---- indexes that FAISS made


def _hash(d):
    return faiss.IndexBinaryHash(d, 7)


def _multi(d):
    return faiss.IndexBinaryMultiHash(d, 2, 6)


def _ivf(d, text="BIVF5"):
    index = faiss.index_binary_factory(d, text)
    index.cp.min_points_per_centroid = 1
    return index


FACTORIES = {
    "flat": faiss.IndexBinaryFlat,
    "hash:b=7,flips=0": _hash,
    "multihash:tables=2,b=6,flips=0": _multi,
    "ivf:lists=5,probes=1": _ivf,
    "hnsw:m=6,ef=16": lambda d: faiss.IndexBinaryHNSW(d, 6),
}


@pytest.mark.parametrize("from_file", [False, True])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("kind", FACTORIES)
def test_what_faiss_made_answers_certified_and_in_order(kind, own, from_file, tmp_path):
    codes, _, queries = make(5, 24, 100, 8, "clustered")
    codes = np.concatenate([codes, codes[:50]])
    ids = np.random.default_rng(0).permutation(1000)[:150] if own else np.arange(150)
    index = FACTORIES[kind](24)
    index.train(codes)
    if own and not kind.startswith(("hash", "ivf")):
        index = faiss.IndexBinaryIDMap2(index)
    index.add_with_ids(codes, ids) if own else index.add(codes)
    given = tmp_path / "own.faiss"
    if from_file:
        faiss.write_index_binary(index, str(given))
    ours = CodeIndex.of(given if from_file else index)
    assert (str(ours.kind), ours.bits) == (kind, 24)
    assert len(ours.distinct) == len(np.unique(codes, axis=0))
    order = np.argsort(ids)
    for exact in (False, True):
        check(ours, codes[order], ids[order], queries, ours.search(queries, 9, exact), k=9)
    assert str(CodeIndex.of(index, kind="flat").kind) == "flat"
    assert index.ntotal == 150


def test_an_ivf_whose_quantizer_is_a_graph_is_taken():
    codes, _, queries = make(5, 64, 200, 4, "clustered")
    index = _ivf(64, "BIVF5_HNSW4")
    index.train(codes)
    index.add(codes)
    check(None, codes, np.arange(200), queries, CodeIndex.of(index).search(queries, 5, exact=True), k=5)


@pytest.mark.parametrize("kind", FACTORIES)
def test_an_empty_index_of_faiss_is_empty(kind):
    ours = CodeIndex.of(FACTORIES[kind](24))
    assert len(ours) == 0
    ours.add(np.zeros((1, 3), np.uint8))
    assert ours.search(np.zeros((1, 3), np.uint8), 1).ids.tolist() == [0]


def test_what_faiss_cannot_give_is_told(tmp_path):
    codes, _, _ = make(5, 24, 150, 1, "clustered")
    faiss.write_index(faiss.IndexFlatL2(8), str(tmp_path / "floats"))
    (tmp_path / "garbage").write_bytes(os.urandom(200))
    (tmp_path / "empty").write_bytes(b"")
    flat = faiss.IndexBinaryFlat(24)
    flat.add(codes)
    faiss.write_index_binary(flat, str(tmp_path / "cut"))
    (tmp_path / "cut").write_bytes((tmp_path / "cut").read_bytes()[:-9])
    for name in ("floats", "garbage", "empty", "cut"):
        with pytest.raises(HashfaissError, match=rf"{name}' is no binary index that FAISS .* reads") as told:
            CodeIndex.of(tmp_path / name)
        assert "\n" not in str(told.value)
    for other, message in [
        (tmp_path / "nothing", "No such file"),
        (faiss.IndexFlatL2(8), "an index of floats was given"),
        (codes, "a ndarray was given"),
        (None, "a NoneType was given"),
        (faiss.IndexBinaryFromFloat(faiss.IndexFlatL2(24)), "codes cannot be had of an IndexBinaryFromFloat"),
        (faiss.IndexBinaryFlat(2048), "bits is 2048"),
    ]:
        with pytest.raises(HashfaissError, match=message):
            CodeIndex.of(other)
    twice = faiss.IndexBinaryIDMap(faiss.IndexBinaryFlat(24))
    twice.add_with_ids(codes[:2], np.array([4, 4]))
    with pytest.raises(ArgumentError, match="id 4 stands twice"):
        CodeIndex.of(twice)


def test_an_id_map_over_ivf_that_lost_ids_is_refused():
    codes, _, _ = make(5, 24, 150, 1, "clustered")
    index = faiss.IndexBinaryIDMap(_ivf(24))
    index.train(codes)
    index.add_with_ids(codes, np.arange(150) + 1000)
    index.remove_ids(np.arange(1010, 1020))
    with pytest.raises(ArgumentError, match="has lost ids"):
        CodeIndex.of(index)


# ---- bad input

GOOD = np.zeros((3, 8), np.uint8)


@pytest.mark.parametrize(
    ("codes", "ids", "message"),
    [
        (GOOD.astype(np.float32), None, "float32 array: .*pack makes it of signs"),
        (np.zeros((3, 64), np.bool_), None, "bool array: .*pack makes it of signs .* or bools"),
        (GOOD.astype(np.int64), None, "int64 array"),
        (GOOD[:, :7], None, r"shape \(3, 7\): give \(n, 8\)"),
        (GOOD[0], None, r"shape \(8,\)"),
        (GOOD.tolist(), None, "are a list"),
        (GOOD, [1, 2], "give 3 whole numbers"),
        (GOOD, [1.0, 2.0, 3.0], "type float64"),
        (GOOD, ["a", "b", "c"], "type <U1"),
        (GOOD, [1, 2, 2**63], "outside 0 to 2|whole numbers from 0 to 2"),
        (GOOD, [1, 2, 2**70], r"whole numbers from 0 to 2\*\*63 - 1"),
        (GOOD, [1, 2, -1], "outside 0 to 2"),
        (GOOD, [1, 2, 2], "id 2 stands twice"),
        (GOOD, [True, False, True], "type bool"),
    ],
)
def test_what_cannot_be_added_is_told_and_nothing_is(codes, ids, message):
    index = CodeIndex(GOOD[:1] + 1, [7], 64)
    with pytest.raises(ArgumentError, match=message) as told:
        index.add(codes, ids)
    assert "\n" not in str(told.value)
    assert (len(index), index.search(GOOD[:1], 5).ids.tolist()) == (1, [7])


def test_bad_ids_and_lengths_are_told():
    index = CodeIndex(GOOD, [2**63 - 1, 5, 1])
    with pytest.raises(ArgumentError, match="no id is left"):
        index.add(GOOD)
    with pytest.raises(ArgumentError, match="ids have type float64"):
        index.remove_ids([1.5])
    with pytest.raises(ArgumentError, match="no id 6"):
        index.reconstruct(6)
    with pytest.raises(ArgumentError, match="whole numbers from 0 to"):
        index.reconstruct([2**70])
    with pytest.raises(ArgumentError, match="neither bits nor codes"):
        CodeIndex()
    assert index.remove_ids([]) == 0
    assert index.reconstruct([]).shape == (0, 8)
    index.add(np.empty((0, 8), np.uint8))
    assert len(index) == 3
    assert "3 codes of 64 bits" in repr(index)


def test_examples_of_the_readme_name(tmp_path: Path):
    """An index of one's own, changed while it stays one file."""
    index = CodeIndex(bits=64)
    index.add(GOOD, [10, 20, 30])
    index.save(tmp_path / "a.codes")
    index.remove_ids([20])
    index.save(tmp_path / "a.codes")
    assert CodeIndex.load(tmp_path / "a.codes").search(GOOD[:1], 5).ids.tolist() == [10, 30]


@pytest.mark.parametrize("kind", ["flat", "ivf:lists=4,probes=1", "hnsw:m=4,ef=8"])
def test_a_buffer_may_be_used_again(kind):
    codes = np.random.default_rng(0).integers(0, 256, (40, 8), dtype=np.uint8)
    buffer, ids = codes.copy(), np.arange(40)
    index = CodeIndex(buffer, ids, kind=kind)
    buffer[:], ids[:] = 0, 7
    assert (index.reconstruct(np.arange(40)) == codes).all()
    assert index.remove_ids([39]) == 1
    answers = index.search(codes[:39], 1, exact=True)
    assert answers.exact.all()
    assert answers.ids.tolist() == list(range(39))
