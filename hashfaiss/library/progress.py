"""How far a long call is, on stderr: a bar on a terminal, one line in a notebook, elsewhere a line now and then."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

Progress = Callable[[int, int], None]

EVERY = 10.0  # seconds between lines in a log
IN_NOTEBOOK = 0.5


@contextlib.contextmanager
def shown(progress: Progress | bool | None, what: str) -> Iterator[Progress | None]:
    """What is to be called with (done, to do): as given, or what shows it where that is True."""
    if not isinstance(progress, bool):
        yield progress
    elif progress:
        with bar(what) as call:
            yield call
    else:
        yield None


@contextlib.contextmanager
def bar(what: str) -> Iterator[Progress]:
    """Count, rate and time left, on stderr."""
    if not sys.stderr.isatty():
        notebook = "ipykernel" in sys.modules
        lines = _Lines(what, IN_NOTEBOOK if notebook else EVERY, "\r" if notebook else "")
        yield lines
        lines.end()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Any) -> Text:
            return Text(f"{task.finished_speed or task.speed or 0:,.0f} images/s")

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


class _Lines:
    """A line every so many seconds; in a notebook each over the one before."""

    def __init__(self, what: str, every: float, over: str) -> None:
        self._what, self._every, self._over = what, every, over
        self._started = self._last = time.monotonic()
        self._done: tuple[int, int] | None = None

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        self._done = done, total
        if now - self._last >= self._every and total:
            self._last = now
            self._write(now, done, total)

    def _write(self, now: float, done: int, total: int) -> None:
        rate = done / (now - self._started) if now > self._started else 0.0
        left = f", {(total - done) / rate / 60:,.0f} min left" if rate and done < total else ""
        text = f"{self._what}: {done:,} of {total:,} ({100 * done // total} %), {rate:,.0f}/s{left}"
        print(f"{self._over}{text:<78}" if self._over else text, end="" if self._over else "\n", file=sys.stderr)

    def end(self) -> None:
        """The last state, where a notebook shows one."""
        if self._over and self._done is not None and self._done[1]:
            self._write(time.monotonic(), *self._done)
            print(file=sys.stderr)
