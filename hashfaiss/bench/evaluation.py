"""How fast a set of queries is evaluated: against the script that the field's repositories share."""

from __future__ import annotations

import statistics
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hashfaiss.codes import Codes, unpack
from hashfaiss.errors import ArgumentError
from hashfaiss.evaluation import evaluate_retrieval

CLASSES = 10
FLIP = 0.25
ROUNDS = 3


@dataclass(frozen=True)
class EvaluationBench:
    """Seconds for all queries.

    Attributes:
        queries, items, bits: what was ranked.
        script: the popular script, which finds mAP in whatever order its sort leaves ties.
        ours: tie-aware mAP with bounds, P@N, R@N, both precision-recall curves, P@H<=2.
        ours_by_id: the same and mAP in order of id.
        gpu: as `ours`, counted on a GPU; None without one.
        ratio, ratio_by_id: script / ours.
        peak_megabytes: memory that numpy takes meanwhile, at most.
        script_map, our_map: what both find; they differ by the ties.
    """

    queries: int
    items: int
    bits: int
    script: float
    ours: float
    ours_by_id: float
    gpu: float | None
    ratio: float
    ratio_by_id: float
    peak_megabytes: float
    script_map: float
    our_map: float

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


def bench_evaluation(queries: int = 1000, items: int = 54_000, bits: int = 64, seed: int = 0) -> EvaluationBench:
    """Evaluate codes of ten classes, a quarter of the bits flipped, as CIFAR-10's protocol has them."""
    if min(queries, items, bits) < 1:
        raise ArgumentError(f"{queries} queries, {items} codes of {bits} bits were asked for: give 1 or more of each")
    random = np.random.default_rng(seed)
    classes = random.integers(0, CLASSES, queries + items)
    values = random.integers(0, 2, (CLASSES, bits), dtype=np.uint8)[classes]
    codes = np.packbits(values ^ (random.random(values.shape) < FLIP), axis=1, bitorder="little")
    labels = [(str(number),) for number in classes]
    sides = codes[:queries], labels[:queries], codes[queries:], labels[queries:]
    onehot = np.eye(CLASSES, dtype=np.int8)[classes]

    def ours(**how: Any) -> float:
        return evaluate_retrieval(*sides, bits, **how).mean_average_precision

    script, script_map = _timed(lambda: _script(codes, onehot, queries, bits), 1)
    plain, our_map = _timed(lambda: ours(by_id=False))
    by_id, _ = _timed(ours)
    tracemalloc.start()
    ours()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    gpu = _timed(lambda: ours(by_id=False, device="cuda"))[0] if _has_gpu() else None
    return EvaluationBench(
        queries, items, bits, script, plain, by_id, gpu, script / plain, script / by_id, peak / 1e6, script_map, our_map
    )


def _timed(work: Callable[[], float], rounds: int = ROUNDS) -> tuple[float, float]:
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        value = work()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds), value


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _script(codes: Codes, onehot: npt.NDArray[np.int8], queries: int, bits: int) -> float:
    """mAP as nearly every deep hashing repository finds it: for each query the distances, a sort, a loop's turn."""
    signs = unpack(codes, bits).astype(np.float32)
    asked, database = signs[:queries], signs[queries:]
    asked_labels, database_labels = onehot[:queries], onehot[queries:]
    total = 0.0
    for query in range(queries):
        relevant = (np.dot(asked_labels[query], database_labels.T) > 0).astype(np.float32)
        distances = 0.5 * (bits - np.dot(asked[query], database.T))
        relevant = relevant[np.argsort(distances)]
        found = int(relevant.sum())
        if found:
            ranks = np.asarray(np.where(relevant == 1)) + 1.0
            total += float(np.mean(np.linspace(1, found, found) / ranks))
    return total / queries
