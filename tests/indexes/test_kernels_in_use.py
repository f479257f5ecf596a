"""Where the native core is used: it is chosen by the environment, and every answer stays what FAISS's is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import faiss
import numpy as np
import pytest

from hashfaiss.codes import hamming
from hashfaiss.indexes import CodeIndex, clusters, kernels

core = pytest.importorskip("hashfaiss.indexes._kernels", reason="the native core was not compiled")
PATHS = core.paths()


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


def answered(kernels_variable, script):
    environment = {**os.environ, "HASHFAISS_KERNELS": kernels_variable}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, env=environment, check=False
    )
    return done.returncode, done.stdout.strip(), done.stderr


def test_the_environment_chooses():
    script = "from hashfaiss.indexes import kernels; print(kernels.available(), kernels.pays(8, 1))"
    assert answered("0", script)[:2] == (0, "None False")
    assert answered("", script)[1].split()[0] == PATHS[0]
    for name in PATHS:
        assert answered(name, script)[:2] == (0, f"{name} True")
    code, _, told = answered("avx9000", script)
    assert code
    assert f"HASHFAISS_KERNELS is 'avx9000': give 0, or what was compiled and this processor has: {PATHS[0]}" in told


ANSWERS = """
import numpy as np, hashlib
from hashfaiss.indexes import CodeIndex
random = np.random.default_rng(0)
centres = random.integers(0, 2, (30, 64))
for bits in (64, 50, 128, 256):
    flips = random.random((9000, bits)) < 0.1
    codes = np.packbits(np.tile(centres, 4)[random.integers(0, 30, 9000), :bits] ^ flips, axis=1, bitorder="little")
    for kind in ("flat", "ivf:lists=64,probes=3", "hash:b=12,flips=1"):
        index = CodeIndex(codes[:8800], np.arange(8800) * 3, bits, kind)
        digest = hashlib.sha256(index.dump() if kind[0] != "h" else b"")
        for exact in (True, False):
            for found in (index.search(codes[8800:], 7, exact), index.within(codes[8800:], 9, exact)):
                for part in (found.offsets, found.ids, found.distances, found.exact):
                    digest.update(np.ascontiguousarray(part).tobytes())
            for query in codes[8800:8820]:
                digest.update(index.search(query[None], 5, exact).ids.tobytes())
        print(bits, kind, digest.hexdigest())
"""


def test_every_path_answers_the_same_as_faiss():
    """Bytes of index files, and of all answers, certified or not."""
    expected = answered("0", ANSWERS)
    assert expected[0] == 0, expected[2]
    assert len(expected[1].splitlines()) == 12
    for name in ("", *PATHS):
        assert answered(name, ANSWERS)[1] == expected[1], name


def clustered(n, bits=64, seed=0):
    random = np.random.default_rng(seed)
    centres = random.integers(0, 2, (50, bits))
    values = centres[random.integers(0, 50, n)] ^ (random.random((n, bits)) < 0.08)
    return np.packbits(values, axis=1, bitorder="little")


def test_exact_answers_come_from_the_lists_where_these_are_cheap(path):
    codes = clustered(30_000)
    index = CodeIndex(codes[:29_900], np.arange(29_900), 64, "ivf:lists=64,probes=2")
    certain = index.kind.certain
    assert certain is not None
    assert index.now._first(False, 100) is index.kind
    if path != "portable":
        assert index.now._first(True, 100) is certain
        assert index.now._first(True, 1, 3) is certain
    assert 0 < certain.work_within(0) <= certain.work_within(3) < certain.work_within(64)
    flat = CodeIndex(codes[:29_900], np.arange(29_900), 64, "flat")
    for ask in (
        lambda index: index.search(codes[29_900:], 10, True),
        lambda index: index.within(codes[29_900:], 5, True),
    ):
        one, other = ask(index), ask(flat)
        assert np.array_equal(one.ids, other.ids)
        assert one.exact.all()


def test_random_codes_are_scanned(path):
    codes = np.random.default_rng(0).integers(0, 256, (20_000, 8), dtype=np.uint8)
    index = CodeIndex(codes, np.arange(20_000), 64, "ivf:lists=256,probes=2")
    assert index.now._first(True, 100) is index.flat
    assert index.now._first(True, 100, 30) is index.flat


def test_codes_added_behind_its_back_are_not_searched_where_they_were(path):
    """FAISS moves its codes when it takes more: FAISS itself is asked from then on."""
    codes = clustered(3000)
    for kind in ("flat", "ivf:lists=16,probes=16"):
        index = CodeIndex(codes[:2000], np.arange(2000), 64, kind)
        before = index.search(codes[:5], 1, True).ids.tolist()
        for start in range(2000, 3000, 10):
            index.faiss.add(codes[start : start + 10])
        assert index.search(codes[:5], 1, True).ids.tolist() == before
        assert getattr(index.kind, "certain", None) is None


@pytest.mark.parametrize("off", [False, True])
@pytest.mark.parametrize("bits", [20, 64, 128])
def test_centroids_are_the_same_with_and_without(path, monkeypatch, off, bits):
    codes = clustered(4000, bits)
    expected = clusters.centroids_of(codes, 30)
    assert expected.shape == (30, codes.shape[1])
    if off:
        monkeypatch.setattr(kernels, "_path", None)
    monkeypatch.setattr(clusters, "BITS_AT_ONCE", 5000)
    monkeypatch.setattr(clusters, "WORK_PER_CALL", 3000)
    assert np.array_equal(clusters.centroids_of(codes, 30), expected)
    distances, numbers = clusters.nearest_centroids(codes, expected)
    exact = hamming(codes, expected)
    assert np.array_equal(numbers, exact.argmin(axis=1))
    assert np.array_equal(distances, exact.min(axis=1))
    assert distances.mean() < hamming(codes, clusters.centroids_of(codes, 1)).mean() / 2


def test_lists_are_kept_in_order_of_distance(path):
    codes = clustered(3000)
    kind = CodeIndex(codes, np.arange(3000), 64, "ivf:lists=20,probes=3").kind
    centroids = faiss.vector_to_array(kind._quantizer.xb).reshape(20, 8)
    for number in range(20):
        size = kind.faiss.invlists.list_size(number)
        held = faiss.rev_swig_ptr(kind.faiss.invlists.get_codes(number), size * 8).reshape(size, 8)
        distances = hamming(centroids[number : number + 1], held)[0].astype(int)
        assert (np.diff(distances) >= 0).all()
        assert not size or kind._radii[number] == distances.max()


def test_other_threads_run_meanwhile(path):
    codes = clustered(60_000)
    done, ticks = threading.Event(), []

    def tick():
        while not done.is_set():
            ticks.append(time.monotonic())
            time.sleep(0.001)

    thread = threading.Thread(target=tick)
    thread.start()
    started = time.monotonic()
    while time.monotonic() - started < 0.5:
        kernels.nearest(codes, codes[:500], 3)
    done.set()
    thread.join()
    assert len(ticks) > 20


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_batch_can_be_interrupted(path):
    script = (
        "import numpy as np, time, faiss\n"
        "from hashfaiss.indexes import CodeIndex\n"
        "codes = np.random.default_rng(0).integers(0, 256, (400_000, 8), dtype=np.uint8)\n"
        "index = CodeIndex(codes, np.arange(400_000), 64, 'flat')\n"
        "queries = np.repeat(codes[:100_000], 5, axis=0)\n"
        "print('ready', flush=True)\n"
        "started = time.monotonic()\n"
        "try: index.search(queries, 10)\n"
        "except KeyboardInterrupt: print('stopped', flush=True)\n"
    )
    environment = {**os.environ, "HASHFAISS_KERNELS": path}
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment
    ) as running:
        assert running.stdout.readline().strip() == "ready"
        time.sleep(1.0)
        sent = time.monotonic()
        running.send_signal(signal.SIGINT)
        assert running.stdout.readline().strip() == "stopped"
        assert time.monotonic() - sent < 2.0  # one second on a machine that has nothing else to do
        running.wait(10)
