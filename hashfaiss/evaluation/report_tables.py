"""An evaluation as tables of text, for a terminal or a page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from hashfaiss.evaluation.index_report import FEWEST_READ, IndexReport
from hashfaiss.evaluation.neighbours import NeighbourReport
from hashfaiss.evaluation.retrieval import RetrievalReport
from hashfaiss.evaluation.unseen import UnseenReport

NEIGHBOUR_RANKS = (50, 100, 200)


class Table(NamedTuple):
    """Names of columns, and rows of text."""

    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def report_tables(report: IndexReport) -> Iterator[Table | str]:
    """Agreement, retrieval, neighbours and health, each a table; lines between them, empty ones too, are texts."""
    yield _agreement(report)
    if report.retrieval is not None:
        yield _retrieval(report.retrieval)
        if report.unseen is not None:
            yield from _unseen(report.unseen)
        if report.asymmetric is not None:
            rows = [
                ("Hamming distance", f"{report.asymmetric.hamming:.4f}"),
                ("Hamming distance, ties by asymmetric distance", f"{report.asymmetric.ties:.4f}"),
                ("asymmetric distance", f"{report.asymmetric.asymmetric:.4f}"),
            ]
            yield Table(("order", "mAP"), rows)
    else:
        yield "No labels on both sides: no retrieval metrics."
    if report.albums:
        yield "This model learned from no labels. If those of the images are albums rather than classes, the figures"
        yield "above say little; those of the neighbours say how good the codes are."
    if report.albums or report.retrieval is None:
        yield from _neighbours(report.neighbours)
    yield _health(report)


def _share(value: float) -> str:
    # 100 % only where it is all of them
    shown = f"{100 * value:.2f} %"
    return "99.99 %" if shown == "100.00 %" and value < 1 else shown


def _agreement(report: IndexReport) -> Table:
    found = report.agreement
    who = report.queries if report.leaks is None else f"{report.queries}, {report.leaks:,} of them in the index too"
    rows = [
        ("queries", f"{found.queries:,} ({who})"),
        ("ranks checked of each", f"{report.depth:,}"),
        ("distances equal at every rank", _share(found.distances_equal)),
        ("ids equal at every rank", _share(found.ids_equal)),
        ("certified exact", _share(found.certified_share)),
        ("certified, yet wrong", f"{found.false_certificates:,}"),
        ("recall by distance", _share(found.recall_by_distance)),
    ]
    return Table(("FAISS against the exact ranking", report.kind), rows)


def _retrieval(found: RetrievalReport) -> Table:
    cutoff = "ALL" if found.cutoff is None else str(found.cutoff)
    rows = [
        (f"mAP@{cutoff} (tie-aware, norm {found.norm})", f"{found.mean_average_precision:.4f}"),
        ("  ties at their worst and best", f"{found.pessimistic:.4f} to {found.optimistic:.4f}"),
        *([] if found.stable_order is None else [("  ties in order of id", f"{found.stable_order:.4f}")]),
        *((f"P@{n}", f"{value:.4f}") for n, value in found.precision_at.items()),
        *((f"R@{n}", f"{value:.4f}") for n, value in found.recall_at.items()),
        ("P@H<=2", f"{found.precision_within_2:.4f} ({_share(found.empty_balls)} of the balls empty)"),
        (
            "queries without a relevant image",
            f"{found.queries_without_relevant:,} (they count {'not' if found.norm == 'kept' else '0'})",
        ),
    ]
    return Table(("Retrieval", f"{found.queries:,} queries, {found.items:,} images, {found.bits} bits"), rows)


def _unseen(found: UnseenReport) -> Iterator[Table | str]:
    sides = found.seen, found.unseen
    cutoff = "ALL" if found.seen.cutoff is None else str(found.seen.cutoff)
    rows = [
        ("queries", *(f"{side.queries:,}" for side in sides)),
        (f"mAP@{cutoff}", *(f"{side.mean_average_precision:.4f}" for side in sides)),
        *((f"P@{n}", f"{value:.4f}", f"{sides[1].precision_at[n]:.4f}") for n, value in sides[0].precision_at.items()),
        ("P@H<=2", *(f"{side.precision_within_2:.4f}" for side in sides)),
    ]
    yield Table(("queries of classes that were", "trained on", "never seen"), rows)
    yield f"Not trained on: {', '.join(found.classes)}"
    yield ""


def _neighbours(found: NeighbourReport | None) -> Iterator[Table | str]:
    if found is None:
        yield (
            "No neighbours by the network's real features: that takes the index's encoder, and at least "
            f"{FEWEST_READ} of its images in the sample, unaltered."
        )
        yield ""
        return
    yield ""
    curve = zip(found.ranks.tolist(), found.curve.tolist(), found.chance.tolist(), strict=True)
    rows = [
        (
            f"recall@{n} of float neighbours" if n == found.k else f"  among the {n} nearest codes",
            f"{share:.4f} (by chance {chance:.4f})",
        )
        for n, share, chance in curve
        if n in (found.k, *NEIGHBOUR_RANKS)
    ]
    yield Table(("Neighbours by the network's real features", f"{found.images:,} images of the index"), rows)


def _health(report: IndexReport) -> Table:
    health = report.health
    ties = "-" if health.tie_rate is None else f"{_share(health.tie_rate)} of the cuts after 10 hits"
    codes = ", ".join(
        f"{count:,} on {name}" for name, count in zip(health.bucket_names, health.buckets, strict=True) if count
    )
    rows = [
        ("distinct codes", f"{health.distinct:,} of {health.images:,} images"),
        ("distinct codes by images that share them", codes),
        ("largest bucket", f"{health.largest_bucket:,} images"),
        ("bit balance (entropy, 1 is best)", f"{health.mean_entropy:.3f}, {health.constant_bits} bits constant"),
        ("bit correlation (mean, greatest)", f"{health.mean_correlation:.3f}, {health.greatest_correlation:.3f}"),
        ("ties", ties),
        (
            f"codes met in a hash bucket of {report.buckets.b} bits",
            "{:,.1f} by the first bits, {:,.1f} by those chosen".format(*report.buckets.met),
        ),
    ]
    return Table(("Code health", ""), rows)
