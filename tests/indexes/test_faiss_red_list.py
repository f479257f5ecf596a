"""What crashes, hangs or lies in FAISS 1.15.1 cannot be reached through CodeIndex: one test for each known case.

R1 to R16 are numbered as in the table of tests/README.md.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import tomllib
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import faiss
import numpy as np
import pytest

from hashfaiss.errors import ArgumentError, CorruptIndexError
from hashfaiss.indexes import KINDS, CodeIndex
from hashfaiss.library.image_index import ImageIndex

ON_CPU = ["flat", "hash:b=8,flips=1", "multihash:tables=2,b=8", "ivf:lists=30,probes=4", "hnsw:m=4,ef=16"]


def some(n=400, bits=24, seed=0):
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (n, bits // 8), dtype=np.uint8), np.arange(n) * 3


def same(one, two):
    return all(np.array_equal(getattr(one, name), getattr(two, name)) for name in ("offsets", "ids", "distances"))


def distance(encoder, *images):
    return int(np.bitwise_count(np.bitwise_xor(*encoder.encode(images))).sum())


@pytest.mark.parametrize("kind", ON_CPU)
def test_r1_no_id_map_is_made_and_removal_keeps_the_right_ids(kind, encoder, photos):
    index = ImageIndex.create(encoder, photos.parent / "x.index", kind)
    index.build(photos)
    assert "IDMap" not in type(index.faiss).__name__
    for number in range(4):
        index.remove(photos / f"cat/{number}.{'png' if number % 2 else 'jpg'}")
        for hit in index.query(photos / "dog/0.jpg", 12):
            assert "cat" not in hit.labels or int(Path(hit.path).stem) > number
            assert hit.distance == distance(encoder, hit.path, photos / "dog/0.jpg")
            assert index.query(hit.path, 1, exact=True)[0].distance == 0
    assert len(index.query(photos / "dog/0.jpg", 12)) <= 8


@pytest.mark.parametrize("loaded", [False, True])
def test_r2_and_r3_ivf_never_counts_or_searches_list_by_list(loaded):
    codes, ids = some()
    index = CodeIndex(codes, ids, 24, "ivf:lists=30,probes=4")
    if loaded:
        index = CodeIndex.restore(index.dump(), codes, ids, 24, str(index.kind))
    assert (index.faiss.use_heap, index.faiss.per_invlist_search) == (True, False)
    for queries in (1, 3, 10, 29, 31, 100):
        assert (index.search(codes[:queries], 1).ids == ids[:queries]).all()


@pytest.mark.parametrize("n", [1, 2, 4, 8, 64, 256])
def test_r4_a_table_with_one_bucket_survives_saving(n):
    codes = np.zeros((n, 4), np.uint8)
    codes[:, 3] = np.arange(n)  # few live bits, so that tables have one bucket
    made = CodeIndex(codes, np.arange(n), 32, "multihash:tables=4,b=8")
    loaded = CodeIndex.restore(made.dump(), codes, np.arange(n), 32, str(made.kind))
    assert (loaded.search(codes, 1).ids == np.arange(n)).all()


def test_r5_and_r6_flips_and_bits_out_of_range_are_refused():
    codes, ids = some()
    for kind in ("hash:b=8,flips=9", "hash:b=25", "hash:b=100", "hash:b=0", "multihash:tables=4,b=7"):
        with pytest.raises(ArgumentError, match="give"):
            CodeIndex(codes, ids, 24, kind)
    index = CodeIndex(codes, ids, 24, "hash:b=8,flips=1")
    index.faiss.nflip = 60  # as an altered file would have it
    with pytest.raises(CorruptIndexError):
        CodeIndex.restore(index.dump(), codes, ids, 24, "hash:b=8,flips=1")


@pytest.mark.parametrize("kind", ON_CPU)
def test_r7_and_r8_a_file_changed_under_an_open_index_does_nothing(kind, encoder, photos):
    ImageIndex.create(encoder, photos.parent / "x.index", kind).build(photos)
    index = ImageIndex.open(photos.parent / "x.index")
    queries = index.codes.distinct.codes
    before, exactly = index.codes.search(queries, 5), index.codes.search(queries, 5, exact=True)
    (file,) = (photos.parent / "x.index/faiss").iterdir()
    file.chmod(0o644)
    file.write_bytes(b"")
    assert same(index.codes.search(queries, 5), before)
    # what is built anew may hold another graph
    assert same(ImageIndex.open(photos.parent / "x.index").codes.search(queries, 5, exact=True), exactly)
    index.add(photos)
    assert same(index.codes.search(queries, 5, exact=True), exactly)


@pytest.mark.parametrize("kind", ON_CPU)
def test_r9_threads_may_search_one_index(kind):
    codes, ids = some(2000)
    index = CodeIndex(codes, ids, 24, kind)
    expected, wrong = index.search(codes[:50], 5), []

    def ask():
        wrong.extend(None for _ in range(20) if not same(index.search(codes[:50], 5), expected))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("kind", ["flat", "hash:b=8,flips=1", "ivf:lists=30,probes=4"])
def test_r10_what_is_added_while_others_search_is_another_index(kind):
    codes, ids = some(700)
    index = CodeIndex(codes[:500], ids[:500], 24, kind)
    before, wrong, stop = index.now, [], threading.Event()

    def ask():
        while not stop.is_set():
            near = index.search(codes[:3], 1, exact=True)
            wrong.extend(near.distances[near.distances != 0])

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for place in range(500, 600, 5):
            index.add(codes[place : place + 5], ids[place : place + 5])
            assert index.search(codes[place : place + 1], 1, exact=True).distances.tolist() == [0]
            index.remove_ids(ids[place - 100])
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert wrong == []
    assert len(before) == 500
    assert len(index) == 580


@pytest.mark.parametrize("kind", ON_CPU)
def test_r11_ids_that_are_not_there_are_told(kind):
    codes, ids = some()
    index = CodeIndex(codes, ids, 24, kind)
    for unknown in (1, -1, 10**6, 10**12, -(2**63)):
        with pytest.raises(ArgumentError, match=f"no id {unknown}"):
            index.only([0, unknown])


@pytest.mark.skipif(faiss.get_num_gpus() > 0, reason="there is a GPU")
def test_r12_a_gpu_that_is_not_there_is_told():
    codes, ids = some()
    with pytest.raises(ArgumentError, match="needs a GPU, and faiss sees none: give flat"):
        CodeIndex(codes, ids, 24, "gpu")
    assert "gpu" in KINDS


def nearest_ids(codes, ids):
    return CodeIndex(codes, ids, 24).search(codes[:20], 3).ids.tolist()


@pytest.mark.slow
def test_r13_a_spawned_process_searches_after_its_parent_did():
    codes, ids = some()
    here = nearest_ids(codes, ids)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert pool.submit(nearest_ids, codes, ids).result() == here


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot be forked here")
@pytest.mark.parametrize("kind", ON_CPU)
def test_r13_a_forked_process_searches_after_its_parent_did(kind):
    script = (
        "import os, sys, faiss, numpy as np\n"
        "from hashfaiss.indexes import CodeIndex\n"
        "codes = np.random.default_rng(0).integers(0, 256, (2000, 3), dtype=np.uint8)\n"
        f"index = CodeIndex(codes, np.arange(2000), 24, {kind!r})\n"
        "faiss.omp_set_num_threads(4)\n"
        "here = index.search(codes[:500], 3).ids.tolist()\n"  # in four threads, which a child does not have
        "child = os.fork()\n"
        "if not child: os._exit(index.search(codes[:500], 3).ids.tolist() != here)\n"
        "print(os.waitpid(child, 0)[1])\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "0", done.stderr


def test_r14_arguments_are_checked_without_assertions_too():
    script = (
        "import numpy as np\n"
        "from hashfaiss.errors import ArgumentError\n"
        "from hashfaiss.indexes import CodeIndex\n"
        "codes = np.zeros((1000, 3), np.uint8)\n"
        "try:\n    CodeIndex(codes[:, :1], np.arange(1000), 24)\nexcept ArgumentError: print('codes')\n"
        "index = CodeIndex(codes, np.arange(1000), 24)\n"
        "try:\n    index.search(np.zeros((5, 8), np.uint8))\nexcept ArgumentError: print('queries')\n"
    )
    done = subprocess.run([sys.executable, "-O", "-c", script], capture_output=True, text=True)
    assert (done.stdout.split(), done.returncode) == (["codes", "queries"], 0), done.stderr


def test_r15_faiss_is_not_older_than_what_was_measured():
    asked = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["dependencies"]
    ours = [line for line in asked if line.startswith("faiss")]
    assert ours
    assert all(">=1.15.1" in line for line in ours)
    assert tuple(map(int, faiss.__version__.split(".")[:3])) >= (1, 15, 1)


@pytest.mark.parametrize("n", [0, 1, 5, 300])
def test_r16_places_without_an_answer_never_reach_a_caller(n):
    codes, ids = some(n)
    index = CodeIndex(codes, ids, 24, "hnsw:m=2,ef=1")
    for answers in (index.search(some(9, seed=1)[0], 400), index.within(some(9, seed=1)[0], 24)):
        assert (answers.distances >= 0).all()
        assert set(answers.ids.tolist()) <= set(ids.tolist())
