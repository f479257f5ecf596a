"""What a terminal sees: tables and JSON lines on stdout, notes and progress bars on stderr."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hashfaiss.errors import HashfaissError
from hashfaiss.library.progress import bar as bar  # as all that a terminal sees
from hashfaiss.wording import counted, printable

if TYPE_CHECKING:
    from hashfaiss.library.build_report import BuildReport
    from hashfaiss.library.hits import Hit, Hits
    from hashfaiss.train.progress import Progress as TrainingProgress

MOST_SHOWN = 20  # images of a group
MOST_NAMED = 5  # files that were skipped, say


def note(text: str) -> None:
    """A line on stderr."""
    print(printable(text), file=sys.stderr)


def say(text: str = "") -> None:
    """A line on stdout."""
    print(printable(text))


def print_json(values: dict[str, Any]) -> None:
    """One object on one line; ASCII, so that file names of any bytes survive a pipe."""
    print(json.dumps(values))


def shown_path(path: str | None) -> str:
    """A path as a person would type it here: relative where it lies below the current folder."""
    if path is None:
        return "(in memory)"
    here = os.getcwd().rstrip(os.sep) + os.sep
    return path[len(here) :] if path.startswith(here) else path


def check_target(folder: Path, file: Path | None = None) -> None:
    """Tell before the work that what it draws could not be saved."""
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise HashfaissError(f"{str(folder)!r} is no folder that can be written: draw into another")
    if file is not None and file.is_dir():
        raise HashfaissError(f"{str(file)!r} is a folder: give the name of a file")


def check_plots(folder: Path) -> None:
    """The same of a folder that is made where there is none."""
    check_target(next(path for path in (folder, *folder.absolute().parents) if path.exists()))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None) -> None:
    """A table on stdout, as wide as it needs to be where stdout is no terminal. Numbers stand right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(width=None if sys.stdout.isatty() else 10_000)
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", pad_edge=False)
    for place, column in enumerate(columns):
        numbers = all(row[place][:1].isdigit() or row[place] in ("", "-") for row in rows)
        table.add_column(column, justify="right" if numbers and rows else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    console.print(table)


def print_build(report: BuildReport) -> None:
    """What a build did: what is amiss on stderr, the sum on stdout."""
    for name, rows, _ in report.damaged:
        note(f"{name} was damaged, and is set aside: of {counted(rows, 'image')} in it, those given are encoded anew")
    for path, reason in report.kept[:MOST_NAMED]:
        note(f"kept {shown_path(path)}: {reason}; its images stay in the index")
    for path, reason in report.left[:MOST_NAMED]:
        note(f"left {shown_path(path)}: {reason}")
    for path, reason in report.skipped[:MOST_NAMED]:
        note(f"skipped {shown_path(path)}: {reason}")
    if report.decoders:
        note(report.decoders)
    named = report.skipped_report if report.skipped or report.kept or report.left else None
    where = f" (see {shown_path(str(named))})" if named is not None else ""
    recognised = f"{report.recognised:,} recognised by their contents, " if report.recognised else ""
    left = f"{len(report.left):,} left to the next build, " if report.left else ""
    passed = report.passed_over
    say(
        f"{report.encoded:,} encoded, {recognised}{report.unchanged:,} unchanged, {report.removed:,} removed, "
        f"{left}{len(report.skipped):,} skipped{where}, {report.seconds:.1f} s, "
        f"{report.images_per_second:,.0f} images/s"
    )
    if passed.count:
        say(f"{counted(passed.count, 'other file')} passed over: {passed}")


def print_hits(hits: Hits, as_json: bool) -> None:
    """One query's hits: a table, or one JSON object a line."""
    if as_json:
        exact = {"exact": hits.exact} | ({"missing_parts": hits.missing} if hits.missing else {})
        for rank, hit in enumerate(hits, start=1):
            about = {"path": hit.path, "labels": hit.labels, "id": hit.id, **exact, **_missing(hit), **_index(hit)}
            score = {} if hit.score is None else {"asymmetric_distance": hit.score}
            print_json({"query": hits.query, "rank": rank, "distance": hit.distance, **score, **about})
        if not hits:
            print_json({"query": hits.query, "rank": None, **exact})
        return
    certified = "certified exact" if hits.exact else "not certified exact: there may be nearer ones"
    for name in hits.missing:
        note(f"{name} does not answer: what it has is not among the hits")
    asked = "".join(map(shown_path, re.split("( [+-] )", hits.query))) if hits.query else shown_path(None)
    say(f"{asked}: {counted(len(hits), 'hit')}, {certified}")
    if hits:
        columns = ["rank", "distance"]
        columns += ["asymmetric"] * (hits[0].score is not None) + ["path", "labels"] + ["index"] * bool(hits[0].index)
        rows = [
            (
                str(rank),
                str(hit.distance),
                *([] if hit.score is None else [f"{hit.score:.3f}"]),
                *_place(hit),
                *map(shown_path, _index(hit).values()),
            )
            for rank, hit in enumerate(hits, start=1)
        ]
        print_table(columns, rows)


def print_group(number: int, group: Sequence[Hit], as_json: bool) -> None:
    """One group of near-duplicates: a table of the first images, or a JSON object with all."""
    if as_json:
        about = [{"path": hit.path, "distance": hit.distance, "labels": hit.labels, **_missing(hit)} for hit in group]
        print_json({"group": number, "images": about})
        return
    rows = [(str(hit.distance), *_place(hit)) for hit in group[:MOST_SHOWN]]
    print_table(("distance", "path", "labels"), rows, f"group {number:,}: {counted(len(group), 'image')}")
    more = len(group) - MOST_SHOWN
    if more > 0:
        say(f"... and {more:,} more (all with --json)\n")


def _missing(hit: Hit) -> dict[str, bool]:
    return {"missing": True} if hit.missing else {}


def _index(hit: Hit) -> dict[str, str]:
    return {} if hit.index is None else {"index": hit.index}


def _place(hit: Hit) -> tuple[str, str]:
    return shown_path(hit.path) + (" (no longer there)" if hit.missing else ""), ";".join(hit.labels)


@contextlib.contextmanager
def training_bar() -> Iterator[Callable[[TrainingProgress], None]]:
    """A bar for each epoch on stderr with loss, rate and time left; a line an epoch where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield _training_line
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    with Progress(BarColumn(), TextColumn("{task.description}"), console=Console(stderr=True)) as progress:
        task = progress.add_task("reading images", total=None)

        def show(at: TrainingProgress) -> None:
            progress.update(task, completed=at.done, total=at.total, description=_training_text(at))
            if at.epoch and at.done == at.total:
                progress.console.print(_training_text(at))

        yield show


def _training_line(at: TrainingProgress) -> None:
    if at.epoch and at.done == at.total:
        note(_training_text(at))


def _training_text(at: TrainingProgress) -> str:
    if not at.epoch:
        return f"reading images {at.done:,}/{at.total:,}"
    parts = [f"epoch {at.epoch}/{at.epochs}", f"loss {at.loss:.4f}", f"{at.images_per_second:,.0f} images/s"]
    if at.validation_score is not None:
        parts.append(f"validation {at.validation_score:.4f}")
    if at.seconds_left is not None:
        minutes, seconds = divmod(round(at.seconds_left), 60)
        parts.append(f"{minutes}:{seconds:02d} left")
    return ", ".join(parts)
