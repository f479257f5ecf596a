"""How fast codes are searched: hashfaiss's layer against FAISS as it is, on the same codes, one thread, in one run.

The yardstick is `faiss.IndexBinaryFlat` over all codes given. Ratios are medians over rounds in each of which both are
measured, one after the other.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from hashfaiss.bench.codes import Case, K
from hashfaiss.bench.peers import Peer, peers
from hashfaiss.codes import Codes
from hashfaiss.files import fast_digest
from hashfaiss.indexes import CodeIndex, kernels
from hashfaiss.indexes.tuning import RECALL

ROUNDS = 5
SECONDS = 0.3  # of each measurement
FLAT_QUERIES = 200  # a flat scan of ten million codes takes 6 ms
SINGLES = 200

Notice = Callable[[str], None]


@dataclass(frozen=True)
class Row:
    """One way to search.

    Attributes:
        name: of it.
        ratio: queries a second in batch, over those of FAISS's flat index of all codes.
        recall: share of the answers no farther than the true k-th.
        certified: share of the answers certified exact; None where nothing says so.
        bytes_per_code: of memory, by its own count; None where it has none.
        build_seconds: from codes to an index that answers.
    """

    name: str
    ratio: float
    recall: float
    certified: float | None = None
    bytes_per_code: float | None = None
    build_seconds: float | None = None


@dataclass(frozen=True)
class SearchBench:
    """What was measured on one set of codes.

    Attributes:
        case, codes, distinct, bits: which, how many, how many differ, K.
        flat_rate: queries a second of FAISS's flat index of all codes, in batch.
        rows: ways to search.
        single: kind → p50 of one query in microseconds: FAISS's own index of that kind, and through the layer.
        build: kind → seconds of FAISS's train and add, and of ours.
        load: kind → seconds of FAISS's read, and of ours with its check.
    """

    case: str
    codes: int
    distinct: int
    bits: int
    flat_rate: float
    rows: list[Row]
    single: dict[str, tuple[float, float]] = field(default_factory=dict)
    build: dict[str, tuple[float, float]] = field(default_factory=dict)
    load: dict[str, tuple[float, float]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


def bench_search(case: Case, with_peers: bool = True, notice: Notice = lambda _: None) -> SearchBench:
    """Measure one set of codes.

    Args:
        with_peers: usearch and LanceDB too, where they are installed.
        notice: told what is being measured.
    """
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        return _measured(case, with_peers, notice)
    finally:
        faiss.omp_set_num_threads(threads)


def _measured(case: Case, with_peers: bool, notice: Notice) -> SearchBench:
    ids = np.arange(len(case.codes))
    raw = faiss.IndexBinaryFlat(8 * case.codes.shape[1])
    raw.add(case.codes)
    few = case.queries[:FLAT_QUERIES]
    truth = raw.search(few, K)[0][:, -1]

    def compared(search: Callable[[Codes], object], queries: Codes) -> float:
        search(queries[:32])
        ratios = []
        for _ in range(ROUNDS):
            bound = _rate(lambda: raw.search(few, K), len(few))
            ratios.append(_rate(lambda: search(queries), len(queries)) / bound)
        return statistics.median(ratios)

    def ours(name: str, index: CodeIndex, queries: Codes, seconds: float | None, exact: bool = False) -> Row:
        notice(f"{case.name}: {name}")
        answers = index.search(few, K, exact)
        held = None if exact else index.kind.held_bytes / max(1, len(index.distinct))
        near = [np.count_nonzero(got <= last) for (_, got), last in zip(answers, truth, strict=True)]
        ratio = compared(lambda asked: index.search(asked, K, exact), queries)
        return Row(name, ratio, sum(near) / (K * len(few)), float(answers.exact.mean()), held, seconds)

    notice(f"{case.name}: building")
    started = time.perf_counter()
    flat = CodeIndex(case.codes, ids, case.bits, "flat")
    flat_seconds = time.perf_counter() - started
    started = time.perf_counter()
    auto = CodeIndex.tuned(case.codes, ids, case.bits, RECALL)
    auto_seconds = time.perf_counter() - started
    started = time.perf_counter()
    lists = CodeIndex(case.codes, ids, case.bits, "ivf")
    lists_seconds = time.perf_counter() - started
    core = kernels.available() or "FAISS alone"
    rows = [
        ours(f"flat over distinct codes: {core}", flat, case.queries, flat_seconds),
        ours(f"tuned to recall {RECALL:g}: {auto.kind}", auto, case.queries, auto_seconds),
        ours("the same, exact", auto, case.queries, None, exact=True),
        ours(f"exact over lists: {lists.kind}, {core}", lists, case.queries, lists_seconds, exact=True),
    ]
    kinds = ["flat"] if auto.kind.name == "flat" else ["flat", str(auto.kind)]
    single, build, load = {}, {}, {}
    for kind in kinds:
        notice(f"{case.name}: {kind}, one query, build, load")
        own, build[kind] = _build(case, ids, kind)
        load[kind] = _load(case, ids, own)
        single[kind] = _single(case, own)
    for peer in peers(len(ids)) if with_peers else []:
        notice(f"{case.name}: {peer.name}")
        rows.append(_peer_row(peer, case, truth, compared))
    rate = _rate(lambda: raw.search(few, K), len(few))
    return SearchBench(case.name, len(ids), len(flat.distinct), case.bits, rate, rows, single, build, load)


def _rate(work: Callable[[], object], count: int) -> float:
    """How many of `count` are done a second."""
    started = time.perf_counter()
    rounds = 0
    while not rounds or time.perf_counter() - started < SECONDS:
        work()
        rounds += 1
    return rounds * count / (time.perf_counter() - started)


def _raw(case: Case, index: CodeIndex) -> Any:
    """FAISS's own index with the same parameters, over all codes, as FAISS is told to make it."""
    name, d = index.kind.name, 8 * case.codes.shape[1]
    parameters = index.kind.parameters
    if name in ("flat", "gpu"):
        return faiss.IndexBinaryFlat(d)
    if name == "ivf":
        made: Any = faiss.IndexBinaryIVF(faiss.IndexBinaryFlat(d), d, parameters["lists"])
        made.nprobe = parameters["probes"]
        made.train(case.codes[: 64 * parameters["lists"]])
        return made
    if name == "hash":
        made = faiss.IndexBinaryHash(d, parameters["b"])
        made.nflip = parameters["flips"]
        return made
    if name == "multihash":
        made = faiss.IndexBinaryMultiHash(d, parameters["tables"], parameters["b"])
        made.nflip = parameters["flips"]
        return made
    return faiss.IndexBinaryHNSW(d, parameters["m"])


def _build(case: Case, ids: Any, kind: str) -> tuple[tuple[Any, CodeIndex], tuple[float, float]]:
    started = time.perf_counter()
    index = CodeIndex(case.codes, ids, case.bits, kind)
    seconds = time.perf_counter() - started
    started = time.perf_counter()
    raw = _raw(case, index)
    raw.add(case.codes)
    return (raw, index), (time.perf_counter() - started, seconds)


def _load(case: Case, ids: Any, pair: tuple[Any, CodeIndex]) -> tuple[float, float]:
    """Medians of reading FAISS's file, and of mapping, checking and taking up ours; both files were just written."""
    raw, index = pair
    with tempfile.TemporaryDirectory() as folder:
        theirs, ours = os.path.join(folder, "faiss.index"), Path(folder) / "ours.index"
        faiss.write_index_binary(raw, theirs)
        ours.write_bytes(index.dump())
        digest = fast_digest(ours.read_bytes())

        def load() -> None:
            data = np.memmap(ours, np.uint8, mode="r")
            assert fast_digest(data.data) == digest
            CodeIndex.restore(data, case.codes, ids, case.bits, str(index.kind))

        return _median(lambda: faiss.read_index_binary(theirs)), _median(load)


def _median(work: Callable[[], object]) -> float:
    seconds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def _single(case: Case, pair: tuple[Any, CodeIndex]) -> tuple[float, float]:
    """p50 in microseconds of one query: FAISS's own, and through the layer; in turn, block by block."""
    raw, index = pair
    ones = [case.queries[row : row + 1] for row in range(min(SINGLES, len(case.queries)))]
    blocks: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        for kept, search in zip(blocks, (raw.search, index.search), strict=True):
            seconds = []
            for query in ones:
                started = time.perf_counter()
                search(query, K)
                seconds.append(time.perf_counter() - started)
            kept.append(1e6 * statistics.median(seconds))
    return statistics.median(blocks[0]), statistics.median(blocks[1])


def _peer_row(peer: Peer, case: Case, truth: Any, compared: Callable[[Callable[[Codes], object], Codes], float]) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        search = peer.build(case.codes, folder)
        seconds = time.perf_counter() - started
        queries = case.queries[: peer.queries]
        found = search(queries)
        near = sum(np.count_nonzero(got[:K] <= last) for got, last in zip(found, truth, strict=False))
        ratio = compared(search, queries)
        return Row(peer.name, ratio, near / (K * min(len(queries), len(truth))), build_seconds=seconds)
