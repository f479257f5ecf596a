"""The whole report against plain loops over a small multi-label database, and the figures."""

from __future__ import annotations

import json

import numpy as np
import pytest
from matplotlib.image import imread

from hashfaiss.codes import pack
from hashfaiss.errors import ArgumentError
from hashfaiss.evaluation import (
    code_health,
    evaluate_retrieval,
    plot_health,
    plot_precision_recall,
    plot_precision_recall_at,
)


def make(bits=12, n=60, queries=8, seed=0):
    """Clustered codes of images with 0 to 2 of 4 labels; query 0 has a label that nothing else has."""
    random = np.random.default_rng(seed)
    labels = [tuple(f"l{i}" for i in random.integers(0, 4, random.integers(0, 3))) for _ in range(n + queries)]
    centres = random.standard_normal((4, bits))
    outputs = [sum((centres[int(name[1])] for name in row), np.zeros(bits)) for row in labels]
    codes = pack(np.array(outputs) + random.standard_normal((n + queries, bits)))
    return codes[:queries], [("alone",), *labels[1:queries]], codes[queries:], labels[queries:]


def plain_ranking(query, wanted, codes, labels, leave=None):
    """[(distance, row, relevant), …] in stable order."""
    rows = [j for j in range(len(codes)) if j != leave]
    distance = {j: int(np.bitwise_count(query ^ codes[j]).sum()) for j in rows}
    return [(distance[j], j, bool(set(wanted) & set(labels[j]))) for j in sorted(rows, key=lambda j: (distance[j], j))]


def plain_average_precision(flags, cutoff, norm):
    found = np.cumsum(flags[:cutoff])
    total = sum(flags)
    divisor = {"found": found[-1], "all": total, "min": min(total, cutoff or total)}[norm]
    return sum(found[i] / (i + 1) for i in range(len(found)) if flags[i]) / divisor if divisor else 0.0


@pytest.mark.parametrize("norm", ["found", "min", "all"])
@pytest.mark.parametrize("cutoff", [None, 13])
@pytest.mark.parametrize("inside", [False, True])
def test_report_against_loops(norm, cutoff, inside):
    queries, query_labels, codes, labels = make()
    leave = [5, 0, 59, 7, 7, 30, 12, 58] if inside else None
    if leave:
        queries, query_labels = codes[leave], [labels[row] for row in leave]
    report = evaluate_retrieval(
        queries, query_labels, codes, labels, 12, cutoff, norm, leave, precision_at=(1, 9, 60, 61), recall_at=(20, 60)
    )
    rankings = [
        plain_ranking(query, wanted, codes, labels, leave and leave[i])
        for i, (query, wanted) in enumerate(zip(queries, query_labels, strict=True))
    ]
    flags = [[row[2] for row in ranking] for ranking in rankings]
    assert (report.queries, report.items, report.bits) == (8, 59 if inside else 60, 12)
    assert report.queries_without_relevant == sum(not any(row) for row in flags) >= 1
    stable = np.mean([plain_average_precision(row, cutoff, norm) for row in flags])
    assert report.stable_order == pytest.approx(stable, abs=1e-12)
    assert report.mean_average_precision == pytest.approx(shuffled_mean(rankings, cutoff, norm), abs=0.01)
    for value, best in ((report.pessimistic, False), (report.optimistic, True)):
        ordered = [sorted(ranking, key=lambda row: (row[0], row[2] != best)) for ranking in rankings]
        extreme = np.mean([plain_average_precision([row[2] for row in r], cutoff, norm) for r in ordered])
        assert value >= extreme - 1e-12 if best else value <= extreme + 1e-12
        if norm != "found" or cutoff is None:
            assert value == pytest.approx(extreme, abs=1e-12)
    assert list(report.precision_at) == ([1, 9] if inside else [1, 9, 60])
    assert list(report.recall_at) == ([20] if inside else [20, 60])
    check_balls(report, rankings)


def shuffled_mean(rankings, cutoff, norm):
    """Mean AP over 300 random orders of the ties."""
    random = np.random.default_rng(9)
    values = []
    for ranking in rankings:
        for _ in range(300):
            order = sorted(zip([row[0] for row in ranking], random.random(len(ranking)), ranking, strict=True))
            values.append(plain_average_precision([row[2][2] for row in order], cutoff, norm))
    return np.mean(values)


def check_balls(report, rankings):
    for radius in range(13):
        balls = [[row[2] for row in ranking if row[0] <= radius] for ranking in rankings]
        precision = np.mean([np.mean(ball) if ball else 0.0 for ball in balls])
        assert report.precision_by_radius[radius] == pytest.approx(precision)
        totals = [sum(row[2] for row in ranking) for ranking in rankings]
        recall = np.mean([sum(b) / t if t else 0.0 for b, t in zip(balls, totals, strict=True)])
        assert report.recall_by_radius[radius] == pytest.approx(recall)
        if radius == 2:
            assert report.precision_within_2 == pytest.approx(precision)
            assert report.empty_balls == pytest.approx(np.mean([not ball for ball in balls]))


def test_perfect_codes_score_one_and_the_order_of_the_database_never_matters():
    codes = pack(np.repeat(np.array([[1.0] * 8, [-1.0] * 8]), 10, axis=0))
    labels = [("a",)] * 10 + [("b",)] * 10
    report = evaluate_retrieval(codes[[0, 19]], [("a",), ("b",)], codes, labels, 8, leave_out=[0, 19])
    assert report.mean_average_precision == report.pessimistic == report.stable_order == 1.0
    queries, query_labels, codes, labels = make()
    shuffled = np.random.default_rng(2).permutation(len(codes))
    one = evaluate_retrieval(queries, query_labels, codes, labels, 12, 13)
    other = evaluate_retrieval(queries, query_labels, codes[shuffled], [labels[i] for i in shuffled], 12, 13)
    assert one.mean_average_precision == other.mean_average_precision
    assert one.stable_order != other.stable_order


@pytest.mark.parametrize("cutoff", [None, 3])
def test_kept_leaves_out_queries_that_find_nothing(cutoff):
    """As HashNet's code: the mean is over the queries with something relevant among the first R."""
    random = np.random.default_rng(3)
    codes, labels = pack(random.standard_normal((40, 62))), [(f"l{i % 8}",) for i in range(40)]  # next to no ties
    queries, query_labels = pack(random.standard_normal((9, 62))), [*[(f"l{i}",) for i in range(8)], ("alone",)]
    kept = []
    for query, wanted in zip(queries, query_labels, strict=True):
        flags = [relevant for _, _, relevant in plain_ranking(query, wanted, codes, labels)]
        if any(flags[:cutoff]):
            kept.append(plain_average_precision(flags, cutoff, "found"))
    assert 0 < len(kept) < 9
    report = evaluate_retrieval(queries, query_labels, codes, labels, 62, cutoff, "kept")
    assert report.stable_order == pytest.approx(np.mean(kept))
    assert report.pessimistic <= report.mean_average_precision <= report.optimistic <= 1
    assert report.pessimistic <= report.stable_order <= report.optimistic


def test_report_is_ready_for_json():
    report = evaluate_retrieval(*make(), 12)
    read = json.loads(json.dumps(report.to_dict()))
    assert read["mean_average_precision"] == report.mean_average_precision
    assert read["precision_at"] == {"10": report.precision_at[10]}
    assert read["ranks"][0] == 1
    assert read["ranks"][-1] == 60


def test_bad_arguments_are_refused():
    queries, query_labels, codes, labels = make()
    with pytest.raises(ArgumentError, match="no queries"):
        evaluate_retrieval(queries[:0], [], codes, labels, 12)
    with pytest.raises(ArgumentError, match="no item to rank"):
        evaluate_retrieval(queries, query_labels, codes[:0], [], 12)
    with pytest.raises(ArgumentError, match="no item to rank"):
        evaluate_retrieval(codes[:1], labels[:1], codes[:1], labels[:1], 12, leave_out=[0])


def test_figures_are_readable_pictures(tmp_path):
    reports = {f"{bits} bits": evaluate_retrieval(*make(bits), bits) for bits in (12, 32)}
    plot_precision_recall(tmp_path / "curve.png", reports)
    plot_precision_recall_at(str(tmp_path / "ranks.png"), reports)
    plot_health(tmp_path / "health.png", code_health(make(12)[2], 12))
    plot_health(tmp_path / "none.png", code_health(make(12)[2][:0], 12))
    for name in ("curve", "ranks", "health", "none"):
        picture = imread(tmp_path / f"{name}.png")
        assert picture.shape[0] > 400
        assert picture.shape[1] > 1000
        assert picture[..., :3].std() > 0.05


def test_no_report_is_refused(tmp_path):
    for plot in (plot_precision_recall, plot_precision_recall_at):
        with pytest.raises(ArgumentError, match="no report to draw"):
            plot(tmp_path / "none.png", {})
