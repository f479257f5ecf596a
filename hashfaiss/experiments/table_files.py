"""A table's results as Markdown and CSV: what was measured beside what the paper printed, and what differs."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hashfaiss.datasets.protocols import leak_sentence
from hashfaiss.experiments.comparison import Difference, in_words, leader
from hashfaiss.experiments.figures import draw_figures
from hashfaiss.experiments.tables import Table
from hashfaiss.files import write_atomic
from hashfaiss.train.methods import Shallow, method_class

Result = Mapping[str, Any]

# What the first columns of the CSV are called there; the others are called as they lie in result.json.
_CSV_NAMES = {
    "retrieval.mean_average_precision": "map",
    "retrieval.pessimistic": "map_pessimistic",
    "retrieval.optimistic": "map_optimistic",
    "retrieval.stable_order": "map_ties_by_id",
    "retrieval.precision_within_2": "precision_within_2",
    "retrieval.empty_balls": "empty_balls",
    "encode.milliseconds_per_image": "encode_milliseconds_per_image",
    "training.seconds": "training_seconds",
    "training.best_epoch": "best_epoch",
    "agreement.ids_equal": "faiss_ids_equal",
}
_FIRST = ("table", "dataset", "protocol", "cutoff", "row", "method", "bits", "seed", "paper", *_CSV_NAMES.values())


def write_table(
    out: Path, table: Table, results: Sequence[Result], left_out: Sequence[tuple[str, str]], described: str
) -> list[Path]:
    """Write `<table>.md`, `<table>.csv` and, in `<table>/`, its figures.

    Args:
        results: of finished runs, as in their `result.json`; by row, bits and seed.
        left_out: (run, why not) of those that are not in it.
        described: the data, in a few words.

    Returns:
        The files.
    """
    out.mkdir(parents=True, exist_ok=True)
    figures = draw_figures(out / table.name, table.figures, results) if results else []
    text = markdown(table, results, left_out, described, [f"{table.name}/{file.name}" for file in figures])
    files = [out / f"{table.name}.md", out / f"{table.name}.csv"]
    write_atomic(files[0], text.encode())
    write_atomic(files[1], csv_text(results).encode())
    return files + figures


def csv_text(results: Sequence[Result]) -> str:
    """Every number of every run, one line a run."""
    rows = []
    for result in results:
        flat = {_CSV_NAMES.get(name, name): value for name, value in _scalars(result)}
        rows.append(flat)
    names = dict.fromkeys([*_FIRST, *(name for row in rows for name in row)])
    text = io.StringIO()
    writer = csv.DictWriter(text, list(names), lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def markdown(
    table: Table,
    results: Sequence[Result],
    left_out: Sequence[tuple[str, str]],
    described: str,
    figures: Sequence[str] = (),
) -> str:
    """The table for people, with what must be known beside it."""
    lines = [f"# {table.title}", "", f"{described}. {table.source}.".replace("..", ".")]
    if not results:
        return "\n".join([*lines, "", "No run is finished yet.", *_notes(table, results, left_out)]) + "\n"
    lines += ["", _header(results), "", *_main(results), "", *_details(results), *_notes(table, results, left_out)]
    for figure in figures:
        name = Path(figure).stem
        lines += ["", f"![{name}]({figure})"]
    return "\n".join(lines) + "\n"


def groups(results: Iterable[Result]) -> dict[tuple[str, int], list[Result]]:
    """Results of all seeds by (row, bits), in their order."""
    found: dict[tuple[str, int], list[Result]] = {}
    for result in results:
        found.setdefault((result["row"], result["bits"]), []).append(result)
    return found


def _header(results: Sequence[Result]) -> str:
    cutoff = results[0]["cutoff"]
    measure = f"mAP@{'ALL' if cutoff is None else f'{cutoff:,}'}, tie-aware (the mean over all orders of ties)"
    settings = results[0]["settings"]
    if settings["select"] == "on-queries":
        chosen = "model chosen on the test queries (the best epoch there, as popular code does: too high a number)"
    elif settings["validation"]:
        chosen = f"model chosen on a validation split, {100 * settings['validation']:g} % of the training images"
    else:
        chosen = "the last epoch's model"
    return f"**{measure}; {chosen}.**"


def _main(results: Sequence[Result]) -> list[str]:
    """mAP by row and bits, the paper's beside it; in bold what is ahead of all others by more than chance."""
    by_cell = groups(results)
    bits = sorted({number for _, number in by_cell})
    rows = list(dict.fromkeys(row for row, _ in by_cell))
    printed = any(result["paper"] is not None for result in results)
    scores = {cell: [run["retrieval"]["mean_average_precision"] for run in runs] for cell, runs in by_cell.items()}
    titles = ["Method"]
    for number in bits:
        titles += [f"{number} bits", *(["paper"] if printed else [])]
    most = max(map(len, scores.values()))
    ahead = {(first, number) for number, first, others in _leaders(results) if all(map(_told_apart, others.values()))}
    body = []
    for row in rows:
        cells = [row]
        for number in bits:
            values = scores.get((row, number), [])
            shown = _spread(values, "{:.4f}")
            if values and len(values) < most:
                shown += f" ({len(values)} of {most} seeds)"
            if (row, number) in ahead:
                shown = f"**{shown}**"
            paper = by_cell[row, number][0]["paper"] if values else None
            cells += [shown, *(["-" if paper is None else f"{paper:.4f}"] if printed else [])]
        body.append(cells)
    return _grid(titles, body)


def _leaders(results: Sequence[Result]) -> Iterable[tuple[int, str, dict[str, Difference | None]]]:
    """(bits, row, its lead over each of the others) of each column that has two rows or more."""
    by_cell = groups(results)
    for number in sorted({bits for _, bits in by_cell}):
        found = leader({row: runs for (row, bits), runs in by_cell.items() if bits == number})
        if found is not None:
            yield number, *found


def _told_apart(difference: Difference | None) -> bool:
    return difference is not None and difference.told_apart


_DETAILS: tuple[tuple[str, Callable[[Result], float | None], str], ...] = (
    ("ties at their worst", lambda run: run["retrieval"]["pessimistic"], "{:.4f}"),
    ("at their best", lambda run: run["retrieval"]["optimistic"], "{:.4f}"),
    ("mAP, seen classes", lambda run: _side(run, "seen"), "{:.4f}"),
    ("mAP, unseen classes", lambda run: _side(run, "unseen"), "{:.4f}"),
    ("P@H<=2", lambda run: run["retrieval"]["precision_within_2"], "{:.4f}"),
    ("empty balls, %", lambda run: 100 * run["retrieval"]["empty_balls"], "{:.1f}"),
    ("encoding, ms/image", lambda run: run["encode"]["fastest"], "{:.2f}"),
    ("training, s", lambda run: run["training"]["seconds"], "{:,.0f}"),
)


def _side(run: Result, side: str) -> float | None:
    """mAP of the queries of classes that were trained on, or of the others, where they are told apart."""
    return run["unseen"][side]["mean_average_precision"] if "unseen" in run else None


def _details(results: Sequence[Result]) -> list[str]:
    told = [entry for entry in _DETAILS if any(entry[1](run) is not None for run in results)]
    titles = ["Method", "bits", *(title for title, _, _ in told), "best epoch", "FAISS = exact ranking"]
    chosen = any("learning_rate" in run["training"] for run in results)
    body = []
    for (row, bits), runs in groups(results).items():
        cells = [row, str(bits)]
        for _, read, form in told:
            cells.append(_spread([value for value in map(read, runs) if value is not None], form))
        epochs = [run["training"] for run in runs]
        cells.append(
            ", ".join("-" if _is_shallow(runs[0]) else f"{one['best_epoch']}/{one['epochs']}" for one in epochs)
        )
        cells.append(_agreement(runs))
        if chosen:
            cells.append(", ".join(f"{one['learning_rate']:g}" if "learning_rate" in one else "-" for one in epochs))
        body.append(cells)
    return _grid(titles + (["learning rate"] if chosen else []), body)


def _agreement(runs: Sequence[Result]) -> str:
    """Whether FAISS returned the exact ranking for every query, to the depth that was checked."""
    found = [run["agreement"] for run in runs]
    queries = sum(one["queries"] for one in found)
    right, wrong = sum(one["right_ids"] for one in found), sum(one["false_certificates"] for one in found)
    depths = ", ".join(f"{depth:,}" for depth in sorted({run["index"]["depth"] for run in runs}))
    told = f"{right:,} of {queries:,} queries, {depths} ranks"
    return told + (f", {wrong:,} falsely certified" if wrong else "")


def _notes(table: Table, results: Sequence[Result], left_out: Sequence[tuple[str, str]]) -> list[str]:
    notes = []
    if results:
        split = results[0]["split"]
        drawn = f"split seed {split['seed']}, " if "seed" in split else ""
        hashes = ", ".join(f"{name} {digest[:12]}" for name, digest in split["sha256"].items())
        notes.append(f"{leak_sentence(split)} ({drawn}sha256 of the lists: {hashes})")
        if "unseen" in results[0]:
            notes.append(f"classes not trained on: {', '.join(results[0]['unseen']['classes'])}")
        seeds = sorted({result["seed"] for result in results})
        told = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
        notes.append(told + (": mean ± standard deviation over them" if len(seeds) > 1 else ""))
        notes += _compared(results)
        notes += _differences(results)
        machines = {
            f"{run['machine']['device']}, {run['machine']['threads']} threads, torch {run['machine']['torch']}"
            for run in results
        }
        notes.append(f"run on {'; '.join(sorted(machines))}")
        skipped = max(run["training"]["skipped"] + run["database_skipped"] + run["index"]["skipped"] for run in results)
        if skipped:
            notes.append(f"{skipped:,} images could not be read and are left out")
    notes += [f"not in the table: {run}: {reason}" for run, reason in left_out]
    return ["", *(f"- {note}" for note in notes)] if notes else []


def _compared(results: Sequence[Result]) -> list[str]:
    """What the best of each column is ahead of, in words."""
    told = [f"  - {in_words(*found)}" for found in _leaders(results)]
    if not told:
        return []
    return [
        "differences of mAP, paired by seed and query, with 95 % bootstrap intervals; bold is ahead of every other row "
        "by more than that:\n" + "\n".join(told)
    ]


def _differences(results: Sequence[Result]) -> list[str]:
    """In which settings the runs differ from the methods' own recipes, told by setting and rows."""
    names = dict.fromkeys(name for run in results for name in run["differs"])
    told = []
    for name in names:
        rows: dict[tuple[str, str], list[str]] = {}
        for run in results:
            if name in run["differs"]:
                pair = tuple(map(_value, run["differs"][name]))
                rows.setdefault((pair[0], pair[1]), []).append(run["row"])
        concerned = {run["row"] for run in results if name in run["differs"] or not _is_shallow(run)}
        parts = [
            f"{here} instead of {there}" + ("" if set(found) == concerned else f" ({', '.join(dict.fromkeys(found))})")
            for (there, here), found in rows.items()
        ]
        told.append(f"  - {name.replace('_', ' ')}: {'; '.join(parts)}")
    return ["settings that differ from the papers' (the methods' recipes):\n" + "\n".join(told)] if told else []


def _is_shallow(result: Result) -> bool:
    return issubclass(method_class(result["method"]), Shallow)


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _spread(values: Sequence[float], form: str) -> str:
    if not values:
        return "-"
    mean = form.format(statistics.fmean(values))
    return mean if len(values) == 1 else f"{mean} ± {form.format(statistics.stdev(values))}"


def _grid(titles: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    rows = [[cell.replace("|", "\\|") for cell in row] for row in (titles, *body)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(titles))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    ruler = "|" + "|".join("-" * (width + 1) + (":" if place else "-") for place, width in enumerate(widths)) + "|"
    return [lines[0], ruler, *lines[1:]]


def _scalars(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """(name with dots, value) of everything in nested dictionaries that is not a list; None is left out."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _scalars(value, f"{prefix}{name}.")
        elif value is not None and not isinstance(value, list):
            yield f"{prefix}{name}", value
