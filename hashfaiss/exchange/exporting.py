"""An index's codes, written for another program."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from hashfaiss.errors import ArgumentError, HashfaissError
from hashfaiss.exchange.aside import aside
from hashfaiss.exchange.batches import About, BitOrder, Progress, batches
from hashfaiss.exchange.formats import FORMATS, Format
from hashfaiss.indexes.distinct import Distinct

if TYPE_CHECKING:
    from hashfaiss.library.image_index import ImageIndex

FEW_DISTINCT = 0.25  # where less than this share of codes is different, a graph over all loses hits (docs/exchange.md)
TABLE = "codes"


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        rows: codes that were written.
        images: that they are of.
        trouble: what a search there must reckon with, or None.
    """

    rows: int
    images: int
    trouble: str | None


def export(
    index: ImageIndex,
    to: str,
    out: str | os.PathLike[str],
    bit_order: BitOrder | None = None,
    distinct: bool = False,
    table: str = TABLE,
    progress: Progress = lambda done, images: None,
) -> Exported:
    """Write the packed codes of an index, with ids, paths and labels, for another program; see docs/exchange.md.

    Some 65,536 rows are in memory at a time (of usearch all codes, whose index is made there; with `distinct` too). A
    file or folder is there whole or not at all; nothing is overwritten.

    Args:
        to: of `FORMATS`.
        out: a file, or for "lance" and "qdrant" a folder; for "pgvector" and "qdrant" the address of a database.
        bit_order: of the bits in a byte: "little" (as here; None) or "big", most significant first. "pgvector" has no
            bytes: a code's bit j is character j of its bit(K), which counts as "big".
        distinct: each code once, in the row of the smallest id that has it, with all ids that have it.
        table: name of the table or collection, where the format has such.
        progress: called with (images done, images).

    Raises:
        ArgumentError: no such format or order, an empty index, a name that is taken.
        HashfaissError: a package is missing, or it cannot be written.
        CorruptIndexError: a segment is damaged.
    """
    target = os.fspath(out)
    form = _check(to, target, bit_order, table)
    store = index.store
    if not len(store):
        raise ArgumentError("the index is empty: there are no codes to export")
    groups = Distinct.of(*store.codes()) if distinct or form.graph else None
    kept = groups if distinct else None
    order: BitOrder = bit_order or ("big" if to == "pgvector" else "little")
    rows = len(store) if kept is None else len(kept)
    made_by = store.manifest["encoder"]
    about = About(store.bits, order, rows, distinct, made_by["method"], made_by["identity"])
    stream = batches(store, order, kept, progress)
    try:
        if form.address and target.startswith(form.address):
            form.write(target, about, stream, table)
        else:
            with aside(Path(target)) as path:
                form.write(path, about, stream, table)
    except HashfaissError:
        raise
    except Exception as error:  # each package has kinds of its own
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        if re.search("Query interrupted|has been terminated", reason):  # what DuckDB and usearch make of Ctrl-C
            raise KeyboardInterrupt from None
        raise HashfaissError(f"cannot write the codes for {to}: {reason}") from None
    share = 1.0 if groups is None or distinct else len(groups) / len(store)
    return Exported(rows, len(store), _trouble(share, len(store)) if share < FEW_DISTINCT else None)


def _check(to: str, out: str, bit_order: str | None, table: str) -> Format:
    if to not in FORMATS:
        raise ArgumentError(f"format is {to!r}: give {', '.join(FORMATS)}")
    form = FORMATS[to]
    if bit_order not in (None, "little", "big"):
        raise ArgumentError(f"bit order is {bit_order!r}: give 'little' or 'big'")
    if to == "pgvector" and bit_order == "little":
        raise ArgumentError("pgvector's bit(K) has a code's bits one after another, in no bytes: leave the order out")
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,50}", table):
        raise ArgumentError(f"table is {table[:60]!r}: give a name of up to 51 letters, digits and _")
    if to == "pgvector" and not out.startswith(form.address):
        raise ArgumentError("pgvector needs the address of a database, such as postgresql://me@localhost/photos")
    if not out.endswith(form.suffix):
        raise ArgumentError(f"{out!r} is to be a table of {to}: give it the suffix {form.suffix}")
    for module in form.modules:
        try:
            import_module(module)
        except ImportError:
            raise HashfaissError(
                f"to export to {to}, {module} is missing: pip install {form.install} (or 'hashfaiss[exchange]' for all)"
            ) from None
    return form


def _trouble(share: float, images: int) -> str:
    return (
        f"{100 * share:.1f} % of {images:,} codes are different: a graph index over equal codes loses hits, even the "
        "nearest, however far it looks; search exactly there, or export each code once (distinct)"
    )
