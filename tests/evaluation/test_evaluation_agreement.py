"""Agreement must see every kind of wrong answer: each test starts from a right one and breaks one thing."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest

from hashfaiss.codes import pack
from hashfaiss.errors import ArgumentError
from hashfaiss.evaluation import Agreement, agreement, compare

# Distances from query 0 (all zeros): 0 1 1 2 3; from query 1 (all ones in 3 bits): 3 2 2 1 0.
DATABASE = pack(np.array([[-1, -1, -1], [1, -1, -1], [-1, 1, -1], [1, 1, -1], [1, 1, 1]]))
IDS = np.array([40, 30, 20, 10, 50])
QUERIES = pack(np.array([[-1, -1, -1], [1, 1, 1]]))


@dataclass
class Given:
    offsets: np.ndarray
    ids: np.ndarray
    distances: np.ndarray
    exact: np.ndarray


def right(k=3):
    """The k nearest by (distance, id), written by hand."""
    ids = [[40, 20, 30, 10, 50], [50, 10, 20, 30, 40]]
    distances = [[0, 1, 1, 2, 3], [0, 1, 2, 2, 3]]
    k = min(k, 5)
    return Given(
        np.array([0, k, 2 * k]),
        np.array([row[:k] for row in ids]).ravel(),
        np.array([row[:k] for row in distances], dtype=np.int32).ravel(),
        np.array([True, True]),
    )


def judge(answers, k=3):
    return compare(answers, QUERIES, DATABASE, IDS, k)


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5, 9])
def test_right_answers_agree_whatever_k(k):
    assert judge(right(k), k) == Agreement(2, 2, 2, 2, 2, 0, 2.0)


def test_another_order_inside_a_tie_has_right_distances_and_wrong_ids():
    answers = right()
    answers.ids[[1, 2]] = 30, 20
    found = judge(answers)
    assert (found.distances_equal, found.ids_equal, found.recall_by_distance) == (1.0, 0.5, 1.0)
    assert found.false_certificates == 1


def test_a_tied_item_beyond_the_cut_has_full_recall_and_wrong_ids():
    answers = right(2)
    answers.ids[1] = 30
    found = judge(answers, 2)
    assert (found.distances_equal, found.ids_equal, found.recall_by_distance) == (1.0, 0.5, 1.0)


def test_a_farther_item_loses_recall_distances_and_ids():
    answers = right()
    answers.ids[2], answers.distances[2] = 10, 2
    found = judge(answers)
    assert (found.distances_equal, found.ids_equal) == (0.5, 0.5)
    assert found.recall_by_distance == pytest.approx((2 / 3 + 1) / 2)
    assert found.false_certificates == 1


def test_a_wrong_answer_without_certificate_is_no_false_certificate():
    answers = right()
    answers.ids[2], answers.distances[2] = 10, 2
    answers.exact = np.array([False, True])
    found = judge(answers)
    assert (found.certified_share, found.false_certificates, found.ids_equal) == (0.5, 0, 0.5)


def test_too_few_results_are_wrong_even_if_each_is_right():
    answers = right()
    answers = Given(np.array([0, 2, 5]), np.delete(answers.ids, 2), np.delete(answers.distances, 2), answers.exact)
    found = judge(answers)
    assert (found.numbers_equal, found.distances_equal, found.ids_equal) == (0.5, 0.5, 0.5)
    assert found.recall_by_distance == pytest.approx((2 / 3 + 1) / 2)
    assert found.false_certificates == 1


def test_too_many_results_are_wrong_and_recall_stays_at_most_one():
    answers = right(3)
    answers = Given(np.array([0, 3, 7]), np.append(answers.ids, 30), np.append(answers.distances, 2), answers.exact)
    found = judge(answers)
    assert (found.numbers_equal, found.recall_by_distance, found.false_certificates) == (0.5, 1.0, 1)


def test_no_results_at_all():
    none = np.array([], dtype=np.int64)
    found = judge(Given(np.array([0, 0, 0]), none, none.astype(np.int32), np.array([False, False])))
    assert found == Agreement(2, 0, 0, 0, 0, 0, 0.0)


def test_reported_distances_that_lie_are_seen_and_buy_no_recall():
    answers = right()
    answers.ids[2] = 50  # truly at distance 3, reported at 1
    found = judge(answers)
    assert (found.distances_equal, found.ids_equal) == (1.0, 0.5)
    assert found.recall_by_distance == pytest.approx((2 / 3 + 1) / 2)
    answers = right()
    answers.distances[0] = 1
    found = judge(answers)
    assert (found.distances_equal, found.ids_equal, found.false_certificates) == (0.5, 1.0, 1)


@pytest.mark.parametrize("stranger", [-1, 25, 40, 99])
def test_unknown_and_repeated_ids_count_nothing(stranger):
    answers = right()
    answers.ids[2] = stranger
    assert judge(answers).recall_by_distance == pytest.approx((2 / 3 + 1) / 2)


def test_batches_add_up(monkeypatch):
    answers = right()
    answers.ids[5] = 40
    whole = judge(answers)
    monkeypatch.setattr(agreement, "SORT_CELLS", 1)
    assert judge(answers) == whole
    first = Given(answers.offsets[:2], answers.ids, answers.distances, answers.exact[:1])
    second = Given(answers.offsets[1:], answers.ids, answers.distances, answers.exact[1:])
    parts = [compare(part, QUERIES[[i]], DATABASE, IDS, 3) for i, part in enumerate((first, second))]
    assert sum(parts, Agreement()) == whole
    assert whole.ids_equal == 0.5
    assert json.loads(json.dumps(whole.to_dict()))["ids_equal"] == 0.5


def test_random_answers_against_sorted():
    random = np.random.default_rng(0)
    codes, queries = pack(random.standard_normal((300, 12))), pack(random.standard_normal((20, 12)))
    ids = random.permutation(1000)[:300]
    rows = []
    for query in queries:
        distance = np.bitwise_count(query ^ codes).sum(axis=1)
        rows += sorted(zip(distance.tolist(), ids.tolist(), strict=True))[:10]
    distances, found = np.array(rows).T
    answers = Given(np.arange(21) * 10, found, distances.astype(np.int32), np.ones(20, dtype=bool))
    assert compare(answers, queries, codes, ids, 10) == Agreement(20, 20, 20, 20, 20, 0, 20.0)


def test_empty_database_and_no_queries():
    none = np.array([], dtype=np.int64)
    empty = Given(np.array([0, 0, 0]), none, none, np.array([True, True]))
    assert compare(empty, QUERIES, DATABASE[:0], IDS[:0], 3) == Agreement(2, 2, 2, 2, 2, 0, 2.0)
    nobody = compare(Given(np.array([0]), none, none, none.astype(bool)), QUERIES[:0], DATABASE, IDS, 3)
    assert nobody == Agreement()
    assert nobody.recall_by_distance == nobody.ids_equal == nobody.certified_share == 0.0


def test_bad_arguments_are_refused():
    with pytest.raises(ArgumentError, match="k is 0"):
        judge(right(), 0)
    with pytest.raises(ArgumentError, match="for 2 queries and there are 1"):
        compare(right(), QUERIES[:1], DATABASE, IDS, 3)
    with pytest.raises(ArgumentError, match="one for each of 5 codes"):
        compare(right(), QUERIES, DATABASE, IDS[:4], 3)
    with pytest.raises(ArgumentError, match="ids repeat"):
        compare(right(), QUERIES, DATABASE, np.array([1, 2, 2, 3, 4]), 3)
    short = replace(right(), exact=np.array([True]))
    with pytest.raises(ArgumentError, match="answers are for 1 queries"):
        judge(short)
