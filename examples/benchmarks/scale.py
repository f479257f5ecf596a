"""What searching costs as codes grow, and what a billion codes over many shards would answer in.

    python examples/benchmarks/scale.py --sizes 1000000,10000000,30000000 --kinds flat,ivf --out scale.json

Codes lie round 100 centres, each bit flipped with a probability of 0.1. Queries are asked exactly, on one thread, in a
process of its own for each kind and size; times are seconds of a processor, which others' work lengthens least. Sizes
between are taken on the line through their neighbours, larger ones in proportion; each size is held against what that
says of it from the size below.

The simulation draws times of the size that is next to the codes of a shard. Each query asks all shards, which answer in
the order of asking; when the last has, their answers are merged. That shards are drawn apart from each other is held
against shards that were really asked the same queries.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from hashfaiss.bench.codes import drawn
from hashfaiss.indexes import Answers, CodeIndex

K = 10
FLIP = 0.1
LOADS = (0.1, 0.5)
BEYOND = 10  # times the codes that were measured: no shard is simulated with more
PARTS = 10  # real shards


def asked(index: CodeIndex, queries: np.ndarray) -> np.ndarray:
    """Seconds of a processor of each query, by itself."""
    index.search(queries[:1], K, exact=True)  # what the first one prepares
    times = []
    for query in queries[:, None]:
        began = time.process_time()
        index.search(query, K, exact=True)
        times.append(time.process_time() - began)
    return np.array(times)


def measured(kind: str, size: int, queries: int) -> dict[str, Any]:
    """What one kind costs: building, memory, and each query's seconds as `times_s`."""
    faiss.omp_set_num_threads(1)
    case = drawn(size, FLIP)
    CodeIndex(case.codes[:1000], kind=kind).search(case.queries, K, exact=True)  # what is loaded late is loaded
    before, began = _memory(), time.process_time()
    index = CodeIndex(case.codes, kind=kind)
    built = time.process_time() - began
    times = asked(index, case.queries[:queries])
    held, began = _memory() - before, time.process_time()
    index.search(case.queries, K, exact=True)
    return {
        "kind": str(index.kind),
        "codes": size,
        "distinct": len(index.distinct) / size,
        "build_s": built,
        "bytes_a_code": held / size,
        "faiss_bytes_a_code": index.kind.held_bytes / size,
        "mean_ms": 1e3 * float(times.mean()),
        "p50_ms": 1e3 * float(np.percentile(times, 50)),
        "p99_ms": 1e3 * float(np.percentile(times, 99)),
        "batch_queries_a_second": len(case.queries) / (time.process_time() - began),
        "times_s": times.tolist(),
    }


def _memory() -> int:
    """Bytes of memory that this process holds."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return 1024 * int(line.split()[1])


def together(kind: str, size: int, queries: int) -> dict[str, Any]:
    """Codes over real shards, each asked the same queries: the slowest of each, and what draws say of it."""
    faiss.omp_set_num_threads(1)
    case = drawn(size, FLIP)
    times = np.array(
        [asked(CodeIndex(part, kind=kind), case.queries[:queries]) for part in np.split(case.codes, PARTS)]
    )
    slowest = 1e3 * np.percentile(times.max(axis=0), [50, 99])
    drawn_ones = simulated(times.ravel(), 1.0, PARTS, 1e-6, 0.0)
    return {
        "kind": kind,
        "codes_a_shard": size // PARTS,
        "shards": PARTS,
        "p50_ms": float(slowest[0]),
        "p99_ms": float(slowest[1]),
        "drawn_p50_ms": drawn_ones["p50_ms"],
        "drawn_p99_ms": drawn_ones["p99_ms"],
        "mean_ms": 1e3 * float(times.mean()),
    }


def merging(shards: int) -> float:
    """Seconds to merge the answers of so many shards to one query."""
    queries = drawn(1000, FLIP).queries[:100]
    parts = [CodeIndex(np.roll(queries, n, axis=0), np.arange(len(queries)) * shards + n) for n in range(shards)]
    answers = [part.search(queries[:1], K) for part in parts]
    times = []
    for _ in range(20):
        began = time.process_time()
        Answers.merge(answers, K)
        times.append(time.process_time() - began)
    return float(np.median(times))


def expected(codes: float, sizes: list[int], means: list[float]) -> float:
    """Seconds of a query of so many codes, from means of some sizes, ascending.

    Between two it is on the line through them, above the greatest in proportion, below the least as there.
    """
    return float(np.interp(codes, sizes, means)) * max(1.0, codes / sizes[-1])


def delays(arrivals: np.ndarray, service: np.ndarray) -> np.ndarray:
    """Seconds (queries, shards) from each query's arrival to each shard's answer; a shard serves one at a time.

    Args:
        arrivals: seconds (queries,), ascending.
        service: seconds (queries, shards).
    """
    # with S the sum of services so far, query q is done at S_q + max over p <= q of (arrival_p - S_(p-1))
    total = service.cumsum(axis=0)
    done: np.ndarray = total + np.maximum.accumulate(arrivals[:, None] - (total - service), axis=0)
    return done - arrivals[:, None]


def simulated(
    times: np.ndarray, scale: float, shards: int, load: float, merge: float, seed: int = 0, queries: int = 10_000
) -> dict[str, Any]:
    """Latencies of queries that come by chance and keep each shard busy for a share `load` of the time.

    Where a shard is lost and no answer waits for it longer than a limit, the p99 of before, all wait that long: the
    hits that an answer then misses are those of the lost shard and of those too late.

    Args:
        times: seconds (n,) that a query was seen to take; each shard takes one of them by chance, times `scale`.
        merge: seconds after the last shard's answer.
    """
    random = np.random.default_rng(seed)
    service = scale * random.choice(times, (queries, shards))
    arrivals = random.exponential(scale * times.mean() / load, queries).cumsum()
    found = delays(arrivals, service)
    slowest = found.max(axis=1)
    limit = float(np.percentile(slowest, 99))
    late = float((found > limit).mean())
    rate = load / (scale * float(times.mean()))
    return {
        "shards": shards,
        "load": load,
        "p50_ms": 1e3 * (float(np.percentile(slowest, 50)) + merge),
        "p99_ms": 1e3 * (limit + merge),
        "queries_a_second": rate,
        "merge_ms": 1e3 * merge,
        "merging_processors": rate * merge,
        "missed_by_the_limit": late,
        "missed_with_a_shard_lost": 1 / shards + (1 - 1 / shards) * late,
    }


def planned(rows: list[dict[str, Any]], codes: float, shards: list[int], merges: dict[int, float]) -> list[dict]:
    """One kind, measured at ascending sizes, over so many codes; shards far larger than these are left out."""
    sizes, means = [row["codes"] for row in rows], [row["mean_ms"] for row in rows]
    found = []
    for count in (count for count in shards if codes / count <= BEYOND * sizes[-1]):
        like = rows[min(int(np.searchsorted(sizes, codes / count)), len(rows) - 1)]
        scale = expected(codes / count, sizes, means) / like["mean_ms"]
        for load in LOADS:
            result = simulated(np.array(like["times_s"]), scale, count, load, merges[count])
            found.append({"kind": like["kind"], "codes": codes, "codes_a_shard": codes / count, **result})
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown; times are left out."""
    names = [name for name in rows[0] if name != "times_s"] if rows else []
    lines = [names, ["---"] * len(names)] + [[_text(row[name]) for name in names] for row in rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def _text(value: Any) -> str:
    if isinstance(value, str) or value == 0 or not math.isfinite(value):
        return str(value)
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(digits, 6)}f}"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--sizes", default="1000000,3000000,10000000")
    options.add_argument("--kinds", default="flat,ivf,hash,multihash")
    options.add_argument("--queries", type=int, default=300, help="asked one by one")
    options.add_argument("--planned", default="1e9,1e10", help="codes, of the simulation")
    options.add_argument("--shards", default="10,100,300,1000")
    options.add_argument("--out", type=Path, help="JSON")
    given = options.parse_args()
    sizes, kinds = sorted(int(size) for size in given.sizes.split(",")), given.kinds.split(",")
    shards = [int(count) for count in given.shards.split(",")]
    found: dict[str, list[dict[str, Any]]] = {
        "measured": [],
        "from_the_size_below": [],
        "together": [],
        "simulated": [],
    }
    alone = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), max_tasks_per_child=1)
    with alone:
        for kind in kinds:
            rows = [alone.submit(measured, kind, size, given.queries).result() for size in sizes]
            found["measured"] += rows
            for below, row in itertools.pairwise(rows):
                says = expected(row["codes"], [below["codes"]], [below["mean_ms"]])
                compared = {"kind": kind, "codes": row["codes"], "expected_ms": says, "mean_ms": row["mean_ms"]}
                found["from_the_size_below"].append(compared)
            found["together"].append(alone.submit(together, kind, sizes[-1], given.queries).result())
    merges = {count: merging(count) for count in shards}
    for first in range(0, len(found["measured"]), len(sizes)):
        for codes in map(float, given.planned.split(",")):
            found["simulated"] += planned(found["measured"][first : first + len(sizes)], codes, shards, merges)
    for name, rows in found.items():
        print(f"## {name}\n\n{table(rows)}")
    if given.out:
        given.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
