"""An evaluation as tables on a terminal."""

from __future__ import annotations

from hashfaiss.cli.console import print_table, say
from hashfaiss.evaluation.index_report import IndexReport
from hashfaiss.evaluation.radii import RadiusReport
from hashfaiss.evaluation.report_tables import report_tables
from hashfaiss.wording import counted


def print_report(report: IndexReport) -> None:
    """Agreement, retrieval and health, each a table."""
    for part in report_tables(report):
        if isinstance(part, str):
            say(part)
        else:
            print_table(part.columns, part.rows)


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
