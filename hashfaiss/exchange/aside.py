"""What is written beside its place first, so that it is there whole or not at all, and replaces nothing."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from hashfaiss.errors import ArgumentError, HashfaissError
from hashfaiss.files import sync_folder


@contextlib.contextmanager
def aside(out: Path) -> Iterator[Path]:
    """Where to write a file or a folder that then comes to stand at `out`, and with it whatever lies beside it there.

    Raises:
        ArgumentError: something is at `out` already.
        HashfaissError: there is no folder to write to, or it cannot be written.
    """
    folder = out.absolute().parent
    _check_free(out)
    try:
        made = Path(tempfile.mkdtemp(".tmp", f".{out.name}.", folder))
    except OSError as error:
        raise HashfaissError(f"cannot write to {str(folder)!r}: {error.strerror}") from None
    try:
        yield made / out.name
        for place, _, names in os.walk(made):
            for name in names:
                _sync(Path(place) / name)
            sync_folder(Path(place))
        entries = sorted(made.iterdir(), key=lambda entry: entry.name == out.name)  # what says that all is there: last
        for entry in entries:
            _check_free(folder / entry.name)
        for entry in entries:
            entry.rename(folder / entry.name)
        sync_folder(folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _check_free(path: Path) -> None:
    if os.path.lexists(path):
        raise ArgumentError(f"{str(path)!r} is there already: nothing is overwritten, give another name or remove it")


def _sync(file: Path) -> None:
    with file.open("rb+") as opened:
        os.fsync(opened.fileno())
