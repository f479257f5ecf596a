"""Differences of rows: what can be told apart, and what cannot."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hashfaiss.experiments.comparison import DRAWS, Difference, bootstrap, compare_runs, in_words, leader


def runs(scores: Any, seeds: Any = (0, 1, 2)) -> list[dict[str, Any]]:
    """Runs with these average precisions (seeds, queries)."""
    return [
        {"seed": seed, "average_precisions": list(row), "retrieval": {"mean_average_precision": float(np.mean(row))}}
        for seed, row in zip(seeds, scores, strict=True)
    ]


def noise(seed: int, seeds: int = 3, queries: int = 200) -> Any:
    return np.random.default_rng(seed).normal(0, 0.1, (seeds, queries))


def test_the_interval_is_that_of_a_plain_bootstrap() -> None:
    differences = 0.02 + noise(1, 4, 60) + np.array([[-0.03], [0.0], [0.02], [0.04]])
    random = np.random.default_rng(7)
    means = []
    for _ in range(DRAWS):
        seeds, queries = random.integers(0, 4, 4), random.integers(0, 60, 60)
        means.append(sum(differences[s, q] for s in seeds for q in queries) / 240)
    low, high = np.quantile(means, (0.025, 0.975))
    found = bootstrap(differences)
    assert found.mean == pytest.approx(differences.mean())
    assert found.low == pytest.approx(low, abs=0.1 * (high - low))
    assert found.high == pytest.approx(high, abs=0.1 * (high - low))
    assert bootstrap(differences) == found


def test_differences_are_paired() -> None:
    """Queries that are hard for both rows say nothing: only what one has over the other in each counts."""
    hard = noise(2) * 5
    found = compare_runs(runs(hard + 0.01), runs(hard))
    assert found is not None
    assert (found.mean, found.low, found.high) == pytest.approx((0.01, 0.01, 0.01))
    assert found.told_apart
    same = compare_runs(runs(noise(3)), runs(noise(4)))
    assert same is not None
    assert not same.told_apart


def test_one_seed_that_differs_is_not_enough() -> None:
    far = np.zeros((3, 50))
    far[0] = 0.9
    found = compare_runs(runs(far), runs(np.zeros((3, 50))))
    assert found is not None
    assert found.mean == pytest.approx(0.3)
    assert not found.told_apart


def test_only_common_seeds_and_queries_are_compared() -> None:
    one = runs(noise(5)[:2], (0, 1))
    assert compare_runs(one, runs(noise(6)[:2], (1, 2))) == bootstrap(noise(5)[1:2] - noise(6)[:1])
    assert compare_runs(one, runs(noise(6)[:1], (4,))) is None
    assert compare_runs(one, runs(noise(6, 2, 7), (0, 1))) is None
    older = [{"seed": 0, "retrieval": {"mean_average_precision": 0.5}}]
    assert compare_runs(one, older) is None


def test_the_leader_and_what_is_said_of_it() -> None:
    base = noise(7)
    found = leader({"A": runs(base), "B": runs(base + 0.2), "C": runs(base + 0.199 + noise(8))})
    assert found is not None
    first, others = found
    assert (first, list(others)) == ("B", ["C", "A"])
    told = in_words(16, first, others)
    assert told.startswith("16 bits: B leads, and cannot be told apart from C by ")
    assert " A " not in told
    clear = in_words(16, "B", {"A": Difference(0.2, 0.15, 0.25)})
    assert clear == "16 bits: B is ahead of all others, of A by +0.2000 (+0.1500 to +0.2500)"
    assert "nothing to compare B with A by" in in_words(16, "B", {"A": None})
    assert leader({"A": runs(base)}) is None
