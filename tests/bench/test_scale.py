"""The simulation of many shards is what a loop over queries and shards gives."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples/benchmarks"


def test_latencies_are_those_of_queues(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    from scale import answered, simulated

    random = np.random.default_rng(0)
    arrivals, service = random.exponential(1.0, 200).cumsum(), random.exponential(0.7, (200, 5))
    free, expected = [0.0] * 5, []
    for arrival, takes in zip(arrivals, service, strict=True):
        free = [max(end, arrival) + one for end, one in zip(free, takes, strict=True)]
        expected.append(max(free) - arrival)
    assert answered(arrivals, service) == pytest.approx(expected)
    alike = simulated(np.full(3, 0.01), 2.0, 4, 1e-6, 0.001, queries=100)  # nobody waits
    assert (alike["p50_ms"], alike["p99_ms"]) == (pytest.approx(21, rel=1e-4), pytest.approx(21, rel=1e-4))


def test_the_script(tmp_path):
    given = ["--sizes", "2000,4000", "--kinds", "flat,ivf", "--queries", "5", "--out", "scale.json"]
    done = subprocess.run([sys.executable, "-W", "error", EXAMPLES / "scale.py", *given], cwd=tmp_path, text=True)
    assert done.returncode == 0
    found = json.loads((tmp_path / "scale.json").read_text())
    assert [row["codes"] for row in found["measured"]] == [2000, 2000, 4000, 4000]
    assert len(found["simulated"]) == 2 * 4 * 2
