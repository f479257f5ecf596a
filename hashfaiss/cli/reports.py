"""An evaluation as tables on a terminal."""

from __future__ import annotations

from hashfaiss.cli.console import print_table, say
from hashfaiss.evaluation.index_report import FEWEST_READ, IndexReport
from hashfaiss.evaluation.neighbours import NeighbourReport
from hashfaiss.evaluation.radii import RadiusReport
from hashfaiss.evaluation.retrieval import RetrievalReport
from hashfaiss.evaluation.unseen import UnseenReport
from hashfaiss.wording import counted

NEIGHBOUR_RANKS = (50, 100, 200)


def print_report(report: IndexReport) -> None:
    """Agreement, retrieval and health, each a table."""
    _print_agreement(report)
    if report.retrieval is not None:
        _print_retrieval(report.retrieval)
        if report.unseen is not None:
            _print_unseen(report.unseen)
        if report.asymmetric is not None:
            rows = [
                ("Hamming distance", f"{report.asymmetric.hamming:.4f}"),
                ("Hamming distance, ties by asymmetric distance", f"{report.asymmetric.ties:.4f}"),
                ("asymmetric distance", f"{report.asymmetric.asymmetric:.4f}"),
            ]
            print_table(("order", "mAP"), rows)
    else:
        say("No labels on both sides: no retrieval metrics.")
    if report.albums:
        say("This model learned from no labels. If those of the images are albums rather than classes, the figures")
        say("above say little; those of the neighbours say how good the codes are.")
    if report.albums or report.retrieval is None:
        _print_neighbours(report.neighbours)
    _print_health(report)


def _share(value: float) -> str:
    # 100 % only where it is all of them
    shown = f"{100 * value:.2f} %"
    return "99.99 %" if shown == "100.00 %" and value < 1 else shown


def _print_agreement(report: IndexReport) -> None:
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
    print_table(("FAISS against the exact ranking", report.kind), rows)


def _print_retrieval(found: RetrievalReport) -> None:
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
    print_table(("Retrieval", f"{found.queries:,} queries, {found.items:,} images, {found.bits} bits"), rows)


def _print_unseen(found: UnseenReport) -> None:
    sides = found.seen, found.unseen
    cutoff = "ALL" if found.seen.cutoff is None else str(found.seen.cutoff)
    rows = [
        ("queries", *(f"{side.queries:,}" for side in sides)),
        (f"mAP@{cutoff}", *(f"{side.mean_average_precision:.4f}" for side in sides)),
        *((f"P@{n}", f"{value:.4f}", f"{sides[1].precision_at[n]:.4f}") for n, value in sides[0].precision_at.items()),
        ("P@H<=2", *(f"{side.precision_within_2:.4f}" for side in sides)),
    ]
    print_table(("queries of classes that were", "trained on", "never seen"), rows)
    say(f"Not trained on: {', '.join(found.classes)}")
    say()


def _print_neighbours(found: NeighbourReport | None) -> None:
    if found is None:
        say(
            "No neighbours by the network's real features: that takes the index's encoder, and at least "
            f"{FEWEST_READ} of its images in the sample, unaltered."
        )
        say()
        return
    say()
    curve = zip(found.ranks.tolist(), found.curve.tolist(), found.chance.tolist(), strict=True)
    rows = [
        (
            f"recall@{n} of float neighbours" if n == found.k else f"  among the {n} nearest codes",
            f"{share:.4f} (by chance {chance:.4f})",
        )
        for n, share, chance in curve
        if n in (found.k, *NEIGHBOUR_RANKS)
    ]
    print_table(("Neighbours by the network's real features", f"{found.images:,} images of the index"), rows)


def _print_health(report: IndexReport) -> None:
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
    print_table(("Code health", ""), rows)


def print_radii(report: RadiusReport) -> None:
    """What each radius finds, up to the first that finds all."""
    last = next(radius for radius, share in enumerate(report.recall) if share == 1)
    rows = []
    for radius, precision in enumerate(report.precision[: last + 1]):
        pairs = [] if report.expected is None else [f"{report.expected[radius]:,.0f}"]
        shown = "-" if precision is None else f"{precision:.3f}"
        shares = (f"{report.recall[radius]:.3f}", f"{report.f1[radius]:.3f}")
        rows.append((str(radius), shown, *shares, f"{report.within[radius]:,}", *pairs))
    columns = ["radius", "precision", "recall", "F1", "judged pairs found"]
    if report.expected is not None:
        columns.append("pairs in the index")
    print_table(columns, rows, f"{report.same[-1]:,} of {counted(report.within[-1], 'pair')} are the same")
    if report.skipped:
        say(f"{counted(len(report.skipped), 'image')} cannot be read: pairs with one are left out")
    if report.sampled is not None and report.images is not None and report.sampled < report.images:
        say(f"Pairs in the index are estimated from {report.sampled:,} of {report.images:,} images.")
    say(f"Radius {report.best} has the greatest F1, {report.f1[report.best]:.3f}.")
