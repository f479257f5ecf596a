"""Files of codes that anybody may have written, read some rows at a time and believed in nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hashfaiss.codes import MAX_BITS, code_bytes
from hashfaiss.errors import HashfaissError
from hashfaiss.exchange import read_numpy, read_parquet
from hashfaiss.exchange.source import Found, Part
from hashfaiss.files import check_regular

READERS = {b"PAR1": read_parquet.read, b"PK\x03\x04": read_numpy.read_npz, b"\x93NUM": read_numpy.read_npy}
MOST_ROWS = (1 << 31) - 1
LARGE, BLOWN_UP = 1 << 30, 100  # bytes of codes from so many times fewer in the file: nobody's codes, but a bomb
MOST_ID = (1 << 63) - 2  # the next one is an id, too


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Found]:
    """A file of codes: Parquet, .npz or .npy, as its first bytes say.

    Raises:
        HashfaissError: it cannot be read, or is something else; also while its rows are read.
    """
    with contextlib.ExitStack() as stack:
        with _one_sentence(path):
            check_regular(path)
            with path.open("rb") as file:
                reader = READERS.get(file.read(4))
            if reader is None:
                raise ValueError("it is neither Parquet nor .npz nor .npy")
            found = reader(path, stack)
            _check_size(found, path.stat().st_size)
        yield found._replace(parts=_checked(path, found.parts))


@contextlib.contextmanager
def _one_sentence(path: Path) -> Iterator[None]:
    try:
        yield
    except HashfaissError:
        raise
    except FileNotFoundError:
        raise HashfaissError(f"there is no file {str(path)!r}: give one of codes") from None
    except Exception as error:  # each library has many kinds, and a hostile file finds them
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise HashfaissError(f"{str(path)!r} cannot be taken for codes: {reason}") from None


def _check_size(found: Found, size: int) -> None:
    if not 1 <= found.width <= code_bytes(MAX_BITS):
        raise ValueError(f"codes of {found.width} bytes, and they may have 1 to {code_bytes(MAX_BITS)}")
    held = found.rows * found.width
    if found.rows > MOST_ROWS or (held > LARGE and held > BLOWN_UP * size):
        raise ValueError(f"{held:,} bytes of codes in {size:,}, as a bomb has: write them uncompressed")


def _checked(path: Path, parts: Iterator[Part]) -> Iterator[Part]:
    """The parts, whose ids ascend from 0."""
    last = -1
    with _one_sentence(path):
        for part in parts:
            if part.ids is not None and len(part.ids):
                wrong = np.flatnonzero(np.diff(part.ids, prepend=last) < 1)
                if len(wrong):
                    before = last if wrong[0] == 0 else int(part.ids[wrong[0] - 1])
                    after = "is the first" if before < 0 else f"comes after {before}"
                    raise ValueError(f"id {part.ids[wrong[0]]} {after}: sort by id, from 0 up, each once")
                last = int(part.ids[-1])
                if last > MOST_ID:
                    raise ValueError(f"id {last} is too large: ids go up to {MOST_ID}")
            yield part
