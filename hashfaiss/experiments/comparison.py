"""Which rows of a table differ by more than chance: paired differences over seeds and queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Result = Mapping[str, Any]
Floats = npt.NDArray[np.float64]

DRAWS = 2000
CONFIDENCE = 0.95
CELLS = 1 << 22  # drawn queries held at a time


@dataclass(frozen=True)
class Difference:
    """Of the mAP of two rows: its mean, and the bounds of its 95 % interval."""

    mean: float
    low: float
    high: float

    @property
    def told_apart(self) -> bool:
        """Whether 0 is outside the interval."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        return f"{self.mean:+.4f} ({self.low:+.4f} to {self.high:+.4f})"


def compare_runs(one: Sequence[Result], other: Sequence[Result]) -> Difference | None:
    """mAP of one row's runs minus another's, paired by seed and query; None where there is nothing to pair.

    Args:
        one, other: results of runs at the same K on the same split, with `average_precisions`, that of each query.
    """
    by_seed = [
        {run["seed"]: run["average_precisions"] for run in runs if "average_precisions" in run} for runs in (one, other)
    ]
    seeds = sorted(by_seed[0].keys() & by_seed[1].keys())
    if not seeds or len({len(found[seed]) for found in by_seed for seed in seeds}) != 1:
        return None
    first, second = (np.array([found[seed] for seed in seeds], np.float64) for found in by_seed)
    return bootstrap(first - second)


def bootstrap(differences: Floats, seed: int = 0) -> Difference:
    """The mean of differences (seeds, queries), and its percentile interval when both are drawn anew, with repetition.

    Drawing seeds as well as queries, a difference must hold for other trainings and for other questions (Owen 2007, the
    pigeonhole bootstrap). Three seeds say little of their spread: the interval is then rather too narrow.
    """
    random = np.random.default_rng(seed)
    seeds, queries = differences.shape
    means = []
    step = max(1, CELLS // queries)
    for start in range(0, DRAWS, step):
        draws = min(step, DRAWS - start)
        of_seeds = random.multinomial(seeds, np.full(seeds, 1 / seeds), draws) / seeds
        of_queries = random.multinomial(queries, np.full(queries, 1 / queries), draws) / queries
        means.append(((of_seeds @ differences) * of_queries).sum(axis=1))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(np.concatenate(means), (tail, 1 - tail))
    return Difference(float(differences.mean()), float(low), float(high))


def leader(runs: Mapping[str, Sequence[Result]]) -> tuple[str, dict[str, Difference | None]] | None:
    """The row of the highest mean mAP, and by how much it leads each of the others, the next best first.

    Args:
        runs: of each row, at the same K. Fewer than two rows have no leader.
    """
    means = {
        row: float(np.mean([run["retrieval"]["mean_average_precision"] for run in of])) for row, of in runs.items()
    }
    ranked = sorted(means, key=lambda row: -means[row])
    if len(ranked) < 2:
        return None
    return ranked[0], {row: compare_runs(runs[ranked[0]], runs[row]) for row in ranked[1:]}


def in_words(bits: int, first: str, others: Mapping[str, Difference | None]) -> str:
    """What the differences of a column say."""
    unclear = [row for row, found in others.items() if found is None or not found.told_apart]
    after, found = next(iter(others.items()))
    if found is None:
        return f"{bits} bits: nothing to compare {first} with {after} by, seed by seed and query by query"
    if not unclear:
        return f"{bits} bits: {first} is ahead of all others, of {after} by {found}"
    known = [f"{row} by {others[row]}" if others[row] else row for row in unclear]
    return f"{bits} bits: {first} leads, and cannot be told apart from {', '.join(known)}"
