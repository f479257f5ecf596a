"""Figures of reports, written as PNG (or what the file name's ending says).

Reports come by name, so that several methods or lengths share one figure. Drawing needs no display.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hashfaiss.errors import ArgumentError
from hashfaiss.evaluation.health import CodeHealth
from hashfaiss.evaluation.retrieval import RetrievalReport
from hashfaiss.images.sniffing import DRAWN_BY

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from hashfaiss.evaluation.bucket_report import BucketReport
    from hashfaiss.evaluation.neighbours import NeighbourReport
    from hashfaiss.evaluation.radii import RadiusReport

Reports = Mapping[str, RetrievalReport]

PANEL = (5.2, 4.4)  # inches
RESOLUTION = 150  # dots per inch


def plot_precision_recall(path: str | Path, reports: Reports) -> None:
    """Draw precision over recall, by Hamming radius 0..K (left) and by rank (right): two curves that differ."""
    _check(reports)
    figure, (by_radius, by_rank) = _figure(2)
    for name, report in reports.items():
        by_radius.plot(report.recall_by_radius, report.precision_by_radius, marker="o", markersize=3, label=name)
        by_rank.plot(report.recall_by_rank, report.precision_by_rank, marker="o", markersize=3, label=name)
    by_radius.set_title("Precision-recall by Hamming radius (an empty ball counts 0)")
    by_rank.set_title("Precision-recall by rank")
    for axes in (by_radius, by_rank):
        axes.set(
            xlabel="recall (share of relevant items returned)", ylabel="precision (share of returned items relevant)"
        )
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        _finish(axes)
    _save(figure, path)


def plot_precision_recall_at(path: str | Path, reports: Reports) -> None:
    """Draw P@N (left) and R@N (right) over the number N of items returned."""
    _check(reports)
    figure, (precision, recall) = _figure(2)
    for name, report in reports.items():
        precision.plot(report.ranks, report.precision_by_rank, label=name)
        recall.plot(report.ranks, report.recall_by_rank, label=name)
    precision.set(title="Precision of the first N items", ylabel="P@N (share of the N items relevant)")
    recall.set(title="Recall of the first N items", ylabel="R@N (share of relevant items returned)")
    for axes in (precision, recall):
        axes.set(xlabel="N (items returned, logarithmic)", xscale="log", ylim=(-0.02, 1.02))
        _finish(axes)
    _save(figure, path)


def plot_health(path: str | Path, health: CodeHealth) -> None:
    """Draw the share of ones of every bit, the correlation of bits, and how many images share a code."""
    figure, (ones, correlation, buckets) = _figure(3)
    figure.suptitle(f"{health.images:,} codes of {health.bits} bits, {health.distinct:,} distinct")
    ones.bar(np.arange(health.bits), health.ones, width=1.0, edgecolor="white", linewidth=0.3)
    ones.axhline(0.5, color="black", linewidth=0.8, linestyle="--")
    ones.set(title="Bit balance", xlabel="bit", ylabel="share of ones", ylim=(0, 1), xlim=(-0.5, health.bits - 0.5))
    image = correlation.imshow(health.correlation, vmin=-1, vmax=1, cmap="RdBu_r", interpolation="nearest")
    correlation.set(title="Bit correlation", xlabel="bit", ylabel="bit")
    figure.colorbar(image, ax=correlation, label="Pearson correlation")
    bars = buckets.bar(range(len(health.buckets)), health.buckets)
    buckets.bar_label(bars, fmt="{:,.0f}", fontsize=8)
    buckets.margins(y=0.1)
    buckets.set_xticks(range(len(health.buckets)), health.bucket_names, rotation=45, ha="right")
    buckets.set(title="Bucket sizes", xlabel="images that share a code", ylabel="distinct codes")
    _save(figure, path)


def plot_buckets(path: str | Path, report: BucketReport) -> None:
    """Draw how many hash buckets hold how many codes, by the bits as stored and by the bits chosen."""
    figure, (axes,) = _figure(1)
    names = ("first bits, as stored", "bits chosen for balance")
    powers = [np.log2(sizes).astype(np.int64) for sizes in (report.stored, report.chosen)]
    ranges = range(int(max(power.max(initial=0) for power in powers)) + 1)
    both = zip(names, (report.stored, report.chosen), powers, report.met, strict=True)
    for place, (name, sizes, power, met) in enumerate(both):
        held = np.bincount(power, sizes, minlength=len(ranges)) / max(1, sizes.sum())
        label = f"{name}: {len(sizes):,} buckets, a code meets {met:,.1f}"
        axes.bar(np.arange(len(held)) + 0.4 * place - 0.2, held, width=0.4, label=label)
    titles = ["1" if power == 0 else f"{2**power}-{2 ** (power + 1) - 1}" for power in ranges]
    axes.set_xticks(list(ranges), titles, rotation=45, ha="right")
    axes.set(title=f"Hash buckets by {report.b} bits", xlabel="codes in a bucket", ylabel="share of the codes")
    axes.margins(y=0.35)
    _finish(axes)
    _save(figure, path)


def plot_neighbours(path: str | Path, report: NeighbourReport) -> None:
    """Draw the share of each image's neighbours by real features that are among the n nearest codes, over n."""
    figure, (axes,) = _figure(1)
    # the first point is recall@k, and all there is of few images
    first: Any = {"markevery": [0], "markersize": 6}
    axes.plot(report.ranks, report.curve, marker="o", label=f"codes (recall@{report.k} {report.recall:.3f})", **first)
    chance: Any = {"color": "black", "linewidth": 0.8, "linestyle": "--", **first}
    axes.plot(report.ranks, report.chance, marker="_", label="chance, n / (m - 1)", **chance)
    axes.locator_params(axis="x", integer=True)
    axes.set(
        title=f"Neighbours by real features, m = {report.images:,} images",
        xlabel="n (nearest codes)",
        ylabel=f"share of the {report.k} nearest by features",
        xlim=(0, report.ranks[-1] + 1),
        ylim=(-0.02, 1.02),
    )
    _finish(axes)
    _save(figure, path)


def plot_radius(path: str | Path, report: RadiusReport) -> None:
    """Draw precision, recall and F1 of judged pairs over the radius and, of an index, how many pairs are near."""
    figure, (shares, *pairs) = _figure(1 if report.expected is None else 2)
    radii = range(report.bits + 1)
    curves: dict[str, Any] = {"precision": report.precision, "recall": report.recall, "F1": report.f1}
    for name, values in curves.items():
        known = [(radius, value) for radius, value in zip(radii, values, strict=True) if value is not None]
        shares.plot(*zip(*known, strict=True), marker="o", markersize=3, label=name)
    label = f"radius {report.best}: greatest F1, {report.f1[report.best]:.3f}"
    shares.axvline(report.best, color="black", linewidth=0.8, linestyle="--", label=label)
    same = f"{report.same[-1]:,} of {report.within[-1]:,} pairs are the same"
    shares.set(title=f"What a radius finds; {same}", ylabel="share of pairs", ylim=(-0.02, 1.02))
    for axes in pairs:
        axes.plot(radii, report.expected or (), marker="o", markersize=3, label=f"of {report.images:,} images")
        axes.axvline(report.best, color="black", linewidth=0.8, linestyle="--")
        axes.set_yscale("symlog", linthresh=1)
        axes.set_ylim(bottom=0)
        axes.set(title="Pairs of the index within a radius", ylabel="pairs (logarithmic)")
    for axes in (shares, *pairs):
        axes.set(xlabel="Hamming radius")
        axes.locator_params(axis="x", integer=True)
        _finish(axes)
    _save(figure, path)


def _check(reports: Reports) -> None:
    if not reports:
        raise ArgumentError("there is no report to draw: give at least one, by name")


def _figure(panels: int) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(figsize=(PANEL[0] * panels, PANEL[1]), layout=ConstrainedLayoutEngine(w_pad=0.12))
    return figure, [figure.add_subplot(1, panels, panel + 1) for panel in range(panels)]


def _finish(axes: Axes) -> None:
    axes.grid(alpha=0.3)
    axes.legend()


def _save(figure: Figure, path: str | Path) -> None:
    """Write a figure, of which a PNG says that it is no photograph."""
    metadata = DRAWN_BY if Path(path).suffix.lower() == ".png" else None
    figure.savefig(path, dpi=RESOLUTION, metadata=metadata)
