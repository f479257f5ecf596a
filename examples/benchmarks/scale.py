"""What searching costs as codes grow, and what a billion codes over many shards would answer in.

    python examples/benchmarks/scale.py --sizes 1000000,10000000 --kinds flat,ivf --out scale.json

Codes lie round 100 centres, each bit flipped with a probability of 0.1. Queries are asked one by one on one thread,
exactly. The simulation draws service times of the largest size that was measured, in proportion to the codes of a
shard: each query asks all shards, which answer in the order of asking; when the last has, their answers are merged.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np

from hashfaiss.bench.codes import drawn
from hashfaiss.indexes import Answers, CodeIndex

K = 10
SHARDS = (10, 30, 100, 300)


def measured(kind: str, codes: np.ndarray, queries: np.ndarray) -> dict[str, Any]:
    """Seconds of building and of each query, and bytes a distinct code that FAISS's index holds."""
    began = time.perf_counter()
    index = CodeIndex(codes, kind=kind)
    built = time.perf_counter() - began
    index.search(queries[:1], K, exact=True)  # what the first one prepares
    times = []
    for query in queries[:, None]:
        began = time.perf_counter()
        index.search(query, K, exact=True)
        times.append(time.perf_counter() - began)
    return {
        "kind": str(index.kind),
        "codes": len(codes),
        "distinct": len(index.distinct) / len(codes),
        "build_s": built,
        "bytes_a_code": index.kind.held_bytes / len(index.distinct),
        "times_s": times,
    }


def merging(shards: int, queries: np.ndarray) -> float:
    """Seconds to merge the answers of so many shards to one query."""
    parts = [CodeIndex(np.roll(queries, n, axis=0), np.arange(len(queries)) * shards + n) for n in range(shards)]
    answers = [part.search(queries[:1], K) for part in parts]
    began = time.perf_counter()
    for _ in range(10):
        Answers.merge(answers, K)
    return (time.perf_counter() - began) / 10


def answered(arrivals: np.ndarray, service: np.ndarray) -> np.ndarray:
    """Seconds each query waits for the last of its shards, which serve one query at a time.

    Args:
        arrivals: seconds (queries,), ascending.
        service: seconds (queries, shards).
    """
    # with S the sum of services so far, query q is done at S_q + max over p <= q of (arrival_p - S_(p-1))
    total = service.cumsum(axis=0)
    done = total + np.maximum.accumulate(arrivals[:, None] - (total - service), axis=0)
    return done.max(axis=1) - arrivals


def simulated(
    times: np.ndarray, scale: float, shards: int, load: float, merge: float, seed: int = 0, queries: int = 20_000
) -> dict[str, Any]:
    """Latencies of queries that come by chance and keep each shard busy for a share `load` of the time.

    Args:
        times: seconds (n,) that a query was seen to take; each shard takes one of them by chance, times `scale`.
    """
    random = np.random.default_rng(seed)
    service = scale * random.choice(times, (queries, shards))
    arrivals = random.exponential(scale * times.mean() / load, queries).cumsum()
    latency = answered(arrivals, service) + merge
    return {
        "shards": shards,
        "load": load,
        "p50_ms": 1e3 * float(np.percentile(latency, 50)),
        "p99_ms": 1e3 * float(np.percentile(latency, 99)),
        "queries_a_second": load / (scale * float(times.mean())),
        "lost_with_a_shard": 1 / shards,
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--sizes", default="1000000,10000000")
    options.add_argument("--kinds", default="flat,ivf")
    options.add_argument("--queries", type=int, default=200)
    options.add_argument("--planned", type=float, default=1e9, help="codes, of the simulation")
    options.add_argument("--out", type=Path)
    given = options.parse_args()
    found: dict[str, Any] = {"measured": [], "simulated": []}
    for size in map(int, given.sizes.split(",")):
        case = drawn(size, 0.1)
        for kind in given.kinds.split(","):
            row = measured(kind, case.codes, case.queries[: given.queries])
            found["measured"].append(row)
            times = np.array(row.pop("times_s"))
            row |= {f"{name}_ms": 1e3 * float(np.percentile(times, at)) for name, at in (("p50", 50), ("p99", 99))}
            row["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
            print(json.dumps(row))
            for shards in SHARDS if size == max(map(int, given.sizes.split(","))) else ():
                for load in (0.1, 0.5):
                    merge = merging(shards, case.queries[:100])
                    result = simulated(times, given.planned / shards / size, shards, load, merge)
                    found["simulated"].append({"kind": row["kind"], "merge_ms": 1e3 * merge, **result})
                    print(json.dumps(found["simulated"][-1]))
    if given.out:
        given.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
