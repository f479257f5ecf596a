"""Metrics with ties against enumeration of every order, and against plain loops."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hashfaiss.errors import ArgumentError
from hashfaiss.evaluation import (
    average_precision,
    average_precision_bounds,
    average_precision_ranked,
    chance_of_relevant,
    precision_at,
    precision_recall_by_radius,
    precision_recall_by_rank,
    precision_within_radius,
    recall_at,
)

NORMS = ("found", "min", "all")
level = st.integers(0, 4).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n)))
query = st.lists(level, min_size=1, max_size=4)


def orders(levels):
    """Every distinct order of relevance (True or False), all equally likely, of levels [(items, relevant), …]."""
    choices = [
        [tuple(i in chosen for i in range(n)) for chosen in itertools.combinations(range(n), r)] for n, r in levels
    ]
    for parts in itertools.product(*choices):
        yield [flag for part in parts for flag in part]


def plain_average_precision(flags, cutoff, norm):
    total = sum(flags)
    top = flags if cutoff is None else flags[:cutoff]
    hits, precisions = 0, Fraction(0)
    for rank, flag in enumerate(top, start=1):
        if flag:
            hits += 1
            precisions += Fraction(hits, rank)
    divisor = {"found": hits, "all": total, "min": total if cutoff is None else min(total, cutoff)}[norm]
    return precisions / divisor if divisor else Fraction(0)


def plain_hits(levels, rank):
    """Mean over all orders of the relevant items among the first `rank`."""
    values = [sum(flags[:rank]) for flags in orders(levels)]
    return Fraction(sum(values), len(values))


@settings(max_examples=100, deadline=None)
@given(levels=query, cutoff=st.none() | st.integers(1, 12))
def test_chance_that_something_relevant_is_found_is_that_of_all_orders(levels, cutoff):
    found = [any(flags if cutoff is None else flags[:cutoff]) for flags in orders(levels)]
    assert chance_of_relevant(*counts(levels), cutoff)[0] == pytest.approx(sum(found) / len(found), abs=1e-12)


def counts(*queries):
    array = np.array(queries, dtype=np.int64)
    return array[:, :, 0], array[:, :, 1]


@pytest.mark.parametrize("norm", NORMS)
@settings(max_examples=150, deadline=None)
@given(levels=query, cutoff=st.none() | st.integers(1, 12))
def test_tie_aware_value_and_bounds_are_those_of_all_orders(norm, levels, cutoff):
    values = [plain_average_precision(flags, cutoff, norm) for flags in orders(levels)]
    items, relevant = counts(levels)
    pessimistic, optimistic = average_precision_bounds(items, relevant, cutoff, norm)
    mean = average_precision(items, relevant, cutoff, norm)
    assert mean[0] == pytest.approx(float(sum(values) / len(values)), abs=1e-12)
    assert pessimistic[0] == pytest.approx(float(min(values)), abs=1e-12)
    assert optimistic[0] == pytest.approx(float(max(values)), abs=1e-12)


@pytest.mark.parametrize("norm", NORMS)
def test_queries_of_a_batch_do_not_touch_each_other(norm):
    random = np.random.default_rng(5)
    items = random.integers(0, 30, (600, 9))
    relevant = random.integers(0, items + 1)
    for function in (average_precision, lambda *a: np.stack(average_precision_bounds(*a), axis=1)):
        together = function(items, relevant, 40, norm)
        alone = np.concatenate([function(items[i : i + 1], relevant[i : i + 1], 40, norm) for i in range(600)])
        np.testing.assert_allclose(together, alone, rtol=0, atol=1e-15)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("cutoff", "scale"), [(None, 100), (40, 1), (500, 1)])
def test_large_levels_agree_with_a_sum_over_every_rank(norm, cutoff, scale):
    """Levels of a real database's size, where the closed form could lose digits and the mixture is truncated."""
    levels = [
        (3, 3),
        (200 * scale, 1),
        (2, 2),
        (1, 0),
        (900 * scale, 400 * scale),
        (3000 * scale, 1500 * scale),
        (2, 2),
    ]
    for rotation in range(len(levels)):
        turned = levels[rotation:] + levels[:rotation]
        items, relevant = counts(turned)
        value = average_precision(items, relevant, cutoff, norm)[0]
        assert value == pytest.approx(summed_average_precision(turned, cutoff, norm), rel=1e-12, abs=0)


def summed_average_precision(levels, cutoff, norm):
    """Expectation rank by rank: E = sum of precisions given x relevant in the level, mixed over x where R cuts it."""
    total, cut = sum(r for _, r in levels), cutoff or sum(n for n, _ in levels)
    before = relevant_before = 0
    whole = 0.0
    for n, r in levels:
        slots = min(n, cut - before)
        if slots < n and norm == "found":
            terms = []
            for x in range(max(0, slots - (n - r)), min(slots, r) + 1):
                weight = math.comb(slots, x) * math.comb(n - slots, r - x) / math.comb(n, r)
                if relevant_before + x:
                    inside = whole + level_sum(before, relevant_before, slots, x, slots)
                    terms.append(weight * inside / (relevant_before + x))
            return math.fsum(terms)
        whole += level_sum(before, relevant_before, n, r, slots)
        before, relevant_before = before + slots, relevant_before + r
        if slots < n or before == cut:
            break
    found = relevant_before if norm == "found" else total
    return whole / (min(total, cut) if norm == "min" else found)


def level_sum(before, relevant_before, n, r, slots):
    """Position i is relevant with probability r/n and then has (i-1)(r-1)/(n-1) relevant ones before it, on average."""
    i = np.arange(1, slots + 1)
    return math.fsum(r / n * (relevant_before + 1 + (i - 1) * (r - 1) / max(n - 1, 1)) / (before + i)) if r else 0.0


def test_one_relevant_item_in_a_level_is_right_to_the_last_digits():
    """AP = (1/n) sum_{i=1..n} 1 / (N0 + i): harmonic numbers and nothing else, around where their series takes over."""
    cases = [(before, n) for before in range(40) for n in (1, 2, 15, 16, 17, 60)]
    items, relevant = counts(*([(before, 0), (n, 1)] for before, n in cases))
    expected = [float(sum(Fraction(1, n * (before + i)) for i in range(1, n + 1))) for before, n in cases]
    np.testing.assert_allclose(average_precision(items, relevant), expected, rtol=4e-15, atol=0)


def test_fewer_relevant_items_inside_the_cut_can_be_better():
    """Of 8 tied items 1 is relevant and 4 get in: left outside, it spares the mean its lower precision."""
    items, relevant = counts([(1, 1), (1, 0), (8, 1), (1, 1)])
    pessimistic, optimistic = average_precision_bounds(items, relevant, 6, "found")
    assert optimistic[0] == 1.0
    assert pessimistic[0] == pytest.approx((1 + 2 / 6) / 2)
    assert average_precision_bounds(items, relevant, 6, "all")[1][0] == pytest.approx((1 + 2 / 3) / 3)


@pytest.mark.parametrize("norm", NORMS)
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_ranked_value_against_a_loop(norm, data):
    n = data.draw(st.integers(0, 9))
    cutoff = data.draw(st.none() | st.integers(1, 11))
    rows = data.draw(st.lists(st.lists(st.booleans(), min_size=n, max_size=n), min_size=1, max_size=4))
    flags = np.array(rows, dtype=bool).reshape(len(rows), n)
    values = average_precision_ranked(flags, flags.sum(axis=1), cutoff, norm)
    expected = [float(plain_average_precision(row, cutoff, norm)) for row in rows]
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-12)


def test_levels_of_one_item_are_a_plain_ranking():
    flags = np.random.default_rng(3).random((20, 65)) < 0.3
    for norm, cutoff in itertools.product(NORMS, (None, 7, 64)):
        ranked = average_precision_ranked(flags, flags.sum(axis=1), cutoff, norm)
        items, relevant = np.ones(flags.shape, dtype=np.int64), flags.astype(np.int64)
        np.testing.assert_allclose(average_precision(items, relevant, cutoff, norm), ranked, rtol=0, atol=1e-13)
        for bound in average_precision_bounds(items, relevant, cutoff, norm):
            np.testing.assert_allclose(bound, ranked, rtol=0, atol=1e-13)


@settings(max_examples=100, deadline=None)
@given(queries=st.lists(st.lists(level, min_size=3, max_size=3), min_size=1, max_size=3), rank=st.integers(1, 14))
def test_precision_and_recall_at_against_enumeration(queries, rank):
    items, relevant = counts(*queries)
    hits = [plain_hits(levels, rank) for levels in queries]
    totals = [sum(r for _, r in levels) for levels in queries]
    precision = [float(hit / rank) for hit in hits]
    recall = [float(hit / total) if total else 0.0 for hit, total in zip(hits, totals, strict=True)]
    np.testing.assert_allclose(precision_at(items, relevant, [1, rank])[:, 1], precision, rtol=0, atol=1e-12)
    np.testing.assert_allclose(recall_at(items, relevant, [1, rank])[:, 1], recall, rtol=0, atol=1e-12)
    by_rank = precision_recall_by_rank(items, relevant, [rank])
    assert by_rank[0][0] == pytest.approx(np.mean(precision), abs=1e-12)
    assert by_rank[1][0] == pytest.approx(np.mean(recall), abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(queries=st.lists(st.lists(level, min_size=4, max_size=4), min_size=1, max_size=4), radius=st.integers(0, 5))
def test_radius_metrics_against_loops(queries, radius):
    items, relevant = counts(*queries)
    precisions, recalls, empty = [], [], 0
    for levels in queries:
        ball = sum(n for n, _ in levels[: radius + 1])
        hits = sum(r for _, r in levels[: radius + 1])
        total = sum(r for _, r in levels)
        precisions.append(hits / ball if ball else 0.0)
        recalls.append(hits / total if total else 0.0)
        empty += ball == 0
    precision, share = precision_within_radius(items, relevant, radius)
    assert precision == pytest.approx(sum(precisions) / len(queries), abs=1e-12)
    assert share == pytest.approx(empty / len(queries), abs=1e-12)
    if radius < 4:
        by_radius = precision_recall_by_radius(items, relevant)
        assert by_radius[0].shape == (4,)
        assert by_radius[0][radius] == pytest.approx(precision, abs=1e-12)
        assert by_radius[1][radius] == pytest.approx(sum(recalls) / len(queries), abs=1e-12)


def test_worked_example_of_the_empty_ball():
    items, relevant = counts([(0, 0), (0, 0), (0, 0), (5, 5)], [(1, 1), (0, 0), (1, 0), (0, 0)])
    assert precision_within_radius(items, relevant) == (0.25, 0.5)


def test_bad_arguments_are_refused():
    items, relevant = counts([(2, 1)])
    with pytest.raises(ArgumentError, match="cutoff R is 0"):
        average_precision(items, relevant, 0)
    with pytest.raises(ArgumentError, match=r"norm is 'every'.*found, min, all"):
        average_precision_bounds(items, relevant, 3, "every")
    with pytest.raises(ArgumentError, match="norm is 'every'"):
        average_precision_ranked(relevant > 0, relevant.sum(axis=1), None, "every")
    with pytest.raises(ArgumentError, match="rank N is 0"):
        precision_at(items, relevant, [0])
    with pytest.raises(ArgumentError, match="radius is -1"):
        precision_within_radius(items, relevant, -1)
    for function in (precision_recall_by_radius, precision_within_radius):
        with pytest.raises(ArgumentError, match="no queries"):
            function(items[:0], relevant[:0])
