"""The papers' figures, of the results of a table: few lines, few pixels, one PNG a kind.

Seeds are averaged. Where a figure is of one length, it is the greatest that most rows have.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hashfaiss.files import write_atomic
from hashfaiss.images.sniffing import DRAWN_BY
from hashfaiss.train.methods import Shallow, method_class

Result = Mapping[str, Any]
Runs = Mapping[str, Sequence[Result]]  # by row

PANEL = (4.6, 3.8)  # inches
LEGEND_LINE = 0.21  # inches, of the legend
RESOLUTION = 100  # dots per inch
STYLES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D")
# Colour, line and marker all change from row to row: lines that lie on each other are seen, and 20 rows told apart.
COLOURS = tuple(f"C{number}" for number in range(10))


def draw_figures(folder: Path, names: Sequence[str], results: Sequence[Result]) -> list[Path]:
    """Draw the figures called so (see `tables.FIGURES`) into `folder`, and return their files.

    What the results do not have, such as epochs of shallow methods, is not drawn.
    """
    folder.mkdir(parents=True, exist_ok=True)
    order = list(dict.fromkeys(result["row"] for result in results))
    looks: dict[str, dict[str, Any]] = {
        row: {
            "color": COLOURS[place % 10],
            "linestyle": STYLES[place % 4],
            "marker": MARKERS[place % 4],
            "markersize": 4,
        }
        for place, row in enumerate(order)
    }
    files = []
    for name in names:
        figure = DRAWINGS[name](results, looks)
        if figure is not None:
            image = io.BytesIO()
            figure.savefig(image, format="png", dpi=RESOLUTION, metadata=DRAWN_BY)
            files.append(folder / f"{name}.png")
            write_atomic(files[-1], image.getvalue())
    return files


def _precision_recall(results: Sequence[Result], looks: Mapping[str, Any]) -> Figure:
    bits, runs = _of_one_length(results)
    figure, (by_rank, by_radius) = _panels(2)
    for row, found in runs.items():
        line = {**looks[row], "marker": ""}
        by_rank.plot(_mean(found, "recall_by_rank"), _mean(found, "precision_by_rank"), label=row, **line)
        recall, precision = _mean(found, "recall_by_radius"), _mean(found, "precision_by_radius")
        by_radius.plot(recall, precision, label=row, **looks[row])
    by_rank.set_title("Precision-recall by rank")
    by_radius.set_title("by Hamming radius 0..K (empty ball: 0)")
    for axes in (by_rank, by_radius):
        axes.set(xlabel="recall", ylabel="precision", xlim=(-0.02, 1.02))
    return _finish(figure, f"{bits} bits")


def _precision_recall_at(results: Sequence[Result], looks: Mapping[str, Any]) -> Figure:
    bits, runs = _of_one_length(results)
    figure, (precision, recall) = _panels(2)
    for row, found in runs.items():
        ranks = found[0]["retrieval"]["ranks"]
        line = {**looks[row], "marker": ""}
        precision.plot(ranks, _mean(found, "precision_by_rank"), label=row, **line)
        recall.plot(ranks, _mean(found, "recall_by_rank"), label=row, **line)
    precision.set(title="P@N, precision of the first N images", ylabel="P@N")
    recall.set(title="R@N, recall of the first N images", ylabel="R@N")
    for axes in (precision, recall):
        axes.set(xlabel="N", xscale="log")
    return _finish(figure, f"{bits} bits")


def _radius_2(results: Sequence[Result], looks: Mapping[str, Any]) -> Figure:
    lengths = sorted({result["bits"] for result in results})
    if len(lengths) == 1:  # points above one number would hide each other
        means = {row: float(np.mean(_of(found, "precision_within_2"))) for row, found in _by_row(results).items()}
        return _bars(means, f"P@H<=2, {lengths[0]} bits", "precision within Hamming radius 2 (empty ball: 0)")
    figure, (precision, empty) = _panels(2)
    for row, found in _by_row(results).items():
        bits = sorted({result["bits"] for result in found})
        of_length = {number: [run for run in found if run["bits"] == number] for number in bits}
        for axes, name in ((precision, "precision_within_2"), (empty, "empty_balls")):
            axes.plot(bits, [np.mean(_of(of_length[number], name)) for number in bits], label=row, **looks[row])
    precision.set(title="P@H<=2 (empty ball: 0)", ylabel="precision within Hamming radius 2")
    empty.set(title="Queries with an empty ball", ylabel="share of queries")
    for axes in (precision, empty):
        axes.set(xlabel="bits", xticks=lengths)
    return _finish(figure, "")


def _convergence(results: Sequence[Result], looks: Mapping[str, Any]) -> Figure | None:
    bits, runs = _of_one_length(
        [result for result in results if not issubclass(method_class(result["method"]), Shallow)]
    )
    if not runs:
        return None
    figure, (loss, score) = _panels(2)
    longest = max(len(run["history"]) for found in runs.values() for run in found)
    for row, found in runs.items():
        histories = [run["history"] for run in found]
        length = min(map(len, histories))
        losses = np.mean([[epoch["loss"] for epoch in history[:length]] for history in histories], axis=0)
        # each loss has its own scale and offset; how it falls is what can be compared
        span = losses[0] if losses[0] else 1.0
        loss.plot(range(1, length + 1), losses / span, label=row, **{**looks[row], "marker": ""})
        measured = [epoch["epoch"] for epoch in histories[0][:length] if epoch["validation_score"] is not None]
        scores = [[history[at - 1]["validation_score"] for history in histories] for at in measured]
        if measured:
            means = [np.mean(values) for values in scores]
            score.plot(measured, means, label=row, **looks[row])
    loss.set(title="Training loss, as a share of its first epoch's", ylabel="loss / loss of epoch 1")
    on_queries = results[0]["settings"]["select"] == "on-queries"
    score.set(title="mAP of the test queries" if on_queries else "Validation mAP", ylabel="mAP")
    for axes in (loss, score):
        axes.set(xlabel="epoch", xlim=(0.5, longest + 0.5))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return _finish(figure, f"{bits} bits")


def _encoding_time(results: Sequence[Result], looks: Mapping[str, Any]) -> Figure:
    bits, runs = _of_one_length(results)
    times = {row: float(np.min([run["encode"]["fastest"] for run in found])) for row, found in runs.items()}
    size, batch = results[0]["settings"]["size"], results[0]["encode"]["batch"]
    return _bars(
        times, f"Encoding time, {bits} bits", f"ms an image (network alone, fastest batch of {batch}, {size} px)"
    )


DRAWINGS: dict[str, Callable[[Sequence[Result], Mapping[str, Any]], Figure | None]] = {
    "precision-recall": _precision_recall,
    "precision-recall-at": _precision_recall_at,
    "radius-2": _radius_2,
    "convergence": _convergence,
    "encoding-time": _encoding_time,
}


def _by_row(results: Sequence[Result]) -> dict[str, list[Result]]:
    rows: dict[str, list[Result]] = {}
    for result in results:
        rows.setdefault(result["row"], []).append(result)
    return rows


def _of_one_length(results: Sequence[Result]) -> tuple[int, Runs]:
    """The greatest K that most rows have, and the runs of it by row."""
    rows = Counter(bits for _, bits in {(result["row"], result["bits"]) for result in results})
    bits = max(rows, key=lambda number: (rows[number], number), default=0)
    return bits, _by_row([result for result in results if result["bits"] == bits])


def _of(runs: Sequence[Result], name: str) -> list[float]:
    return [run["retrieval"][name] for run in runs]


def _bars(values: Mapping[str, float], title: str, label: str) -> Figure:
    figure = Figure(figsize=(6.4, 1.4 + 0.3 * len(values)), layout="constrained")
    axes = figure.add_subplot()
    bars = axes.barh(list(values), list(values.values()), color="C0", height=0.7)
    axes.bar_label(bars, fmt="{:.2f}", padding=3, fontsize=9)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set(title=title, xlabel=label)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    return figure


def _mean(runs: Sequence[Result], name: str) -> list[float]:
    curve: list[float] = np.mean([run["retrieval"][name] for run in runs], axis=0).tolist()
    return curve


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    # the legend stands to the right of both
    figure = Figure(figsize=(PANEL[0] * count + 1.5, PANEL[1]), layout="constrained")
    return figure, [figure.add_subplot(1, count, place + 1) for place in range(count)]


def _finish(figure: Figure, title: str) -> Figure:
    for axes in figure.axes:
        axes.grid(alpha=0.3)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.set_figheight(max(PANEL[1], LEGEND_LINE * (len(labels) + 3)))  # room for a line of each row
    figure.legend(handles, labels, loc="outside right upper", title=title or None, frameon=False)
    return figure
