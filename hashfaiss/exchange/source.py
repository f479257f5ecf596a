"""What a file of codes says and holds, whatever format it has."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from hashfaiss.codes import Codes
from hashfaiss.storage.paths import Int64
from hashfaiss.storage.segments import Labels

ROWS = 1024  # at once: few, as a file may repeat a long text at no cost


class Part(NamedTuple):
    """Some rows.

    Attributes:
        codes: uint8 (n, width).
        ids: int64 (n,); None where the file has none.
        paths, labels: of each; None where the file has none.
    """

    codes: Codes
    ids: Int64 | None
    paths: Sequence[str | None] | None
    labels: Sequence[Labels] | None


class Found(NamedTuple):
    """What a file of codes says and holds.

    Attributes:
        width: bytes of a code.
        rows: how many there are.
        about: its metadata, as `batches.About` has it, or {}.
        parts: its rows; to be read once.
    """

    width: int
    rows: int
    about: dict[str, Any]
    parts: Iterator[Part]


def metadata(text: Any) -> dict[str, Any]:
    """What an export says of its codes, from its JSON; ValueError where it is none."""
    said = json.loads(text)
    if not isinstance(said, dict) or not isinstance(said.get("bits", 1), int):
        raise ValueError("its metadata is no export's")
    return said


def label_names(labels: Any) -> Labels:
    """The labels of a row: of a list, of one name, or of the number of a class; none for None and the empty name."""
    if isinstance(labels, (list, tuple)):
        return tuple(str(label) for label in labels if label is not None)
    return () if labels is None or labels == "" else (str(labels),)
