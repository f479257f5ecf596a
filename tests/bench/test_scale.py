"""The simulation of many shards is what a loop over queries and shards gives."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples/benchmarks"


@pytest.fixture(autouse=True)
def examples(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)


def test_delays_are_those_of_queues():
    from scale import delays

    random = np.random.default_rng(0)
    arrivals, service = random.exponential(1.0, 200).cumsum(), random.exponential(0.7, (200, 5))
    free, expected = [0.0] * 5, []
    for arrival, takes in zip(arrivals, service, strict=True):
        free = [max(end, arrival) + one for end, one in zip(free, takes, strict=True)]
        expected.append([end - arrival for end in free])
    assert delays(arrivals, service) == pytest.approx(np.array(expected))


def test_nobody_waits_where_queries_are_rare():
    from scale import simulated

    alike = simulated(np.full(3, 0.01), 2.0, 4, 1e-6, 0.001, queries=100)
    assert (alike["p50_ms"], alike["p99_ms"]) == (pytest.approx(21, rel=1e-4), pytest.approx(21, rel=1e-4))
    assert alike["queries_a_second"] == pytest.approx(1e-6 / 0.02)


def test_a_lost_shard_costs_its_hits_and_those_too_late():
    from scale import delays, simulated

    times, shards, load, queries = np.array([0.001, 0.002, 0.03]), 5, 0.5, 400
    found = simulated(times, 1.0, shards, load, 0.0, seed=3, queries=queries)
    random = np.random.default_rng(3)
    service = random.choice(times, (queries, shards))
    each = delays(random.exponential(times.mean() / load, queries).cumsum(), service)
    missed = 0
    for lost in range(shards):
        for query in each:
            missed += sum(shard == lost or 1e3 * delay > found["p99_ms"] for shard, delay in enumerate(query))
    assert found["missed_with_a_shard_lost"] == pytest.approx(missed / (shards * shards * queries))


def test_other_sizes_are_expected_between_and_beyond():
    from scale import expected, planned

    assert [expected(codes, [2, 6], [1.0, 9.0]) for codes in (1, 2, 3, 6, 12)] == [1, 1, 3, 9, 18]
    rows = [
        {"kind": "flat", "codes": 1000, "mean_ms": 1.0, "times_s": [0.001]},
        {"kind": "flat", "codes": 2000, "mean_ms": 4.0, "times_s": [0.004]},
    ]
    found = planned(rows, 1e5, [4, 20, 50, 200], dict.fromkeys([4, 20, 50, 200], 0.0))
    takes = [one["load"] / one["queries_a_second"] for one in found]
    assert takes == pytest.approx([0.01, 0.01, 0.004, 0.004, 0.001, 0.001])  # of 4 shards, each had too many codes


def test_the_script(tmp_path):
    given = ["--sizes", "2000,4000", "--kinds", "flat,ivf", "--queries", "5", "--out", "scale.json"]
    more = ["--planned", "200000", "--shards", "5,10"]
    command = [sys.executable, "-W", "error", EXAMPLES / "scale.py", *given, *more]
    done = subprocess.run(command, cwd=tmp_path, text=True, stdout=subprocess.PIPE)
    assert done.returncode == 0
    found = json.loads((tmp_path / "scale.json").read_text())
    assert [row["codes"] for row in found["measured"]] == [2000, 4000, 2000, 4000]
    assert [row["codes"] for row in found["from_the_size_below"]] == [4000, 4000]
    for row, below in zip(found["from_the_size_below"], found["measured"][::2], strict=True):
        assert row["expected_ms"] == pytest.approx(2 * below["mean_ms"])
    assert [row["codes_a_shard"] for row in found["together"]] == [400, 400]
    assert [(row["kind"][:3], row["shards"]) for row in found["simulated"]] == [
        (kind, shards) for kind in ("fla", "ivf") for shards in (5, 10) for _ in (0.1, 0.5)
    ]
    assert all(f"## {name}\n\n| kind |" in done.stdout for name in found)
