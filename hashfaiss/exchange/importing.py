"""An index of codes from anywhere: asked with codes and ids, as no model for images is known."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from hashfaiss.codes import check_bits, code_bytes, reversed_bits
from hashfaiss.errors import ArgumentError, HashfaissError
from hashfaiss.exchange.aside import aside
from hashfaiss.exchange.batches import BitOrder, Progress
from hashfaiss.exchange.reading import opened
from hashfaiss.exchange.source import Found
from hashfaiss.files import DIGEST_BYTES
from hashfaiss.indexes import parse_kind
from hashfaiss.library.faiss_file import commit_faiss
from hashfaiss.library.image_index import ImageIndex
from hashfaiss.library.stored_encoder import NO_ENCODER
from hashfaiss.storage.paths import stored_path
from hashfaiss.storage.segments import Labels, Row
from hashfaiss.storage.store import CodeStore

COMMIT_ROWS = 65536
LONGEST_NAME = 1 << 15  # letters of a path or label
UNKNOWN = bytes(DIGEST_BYTES)  # of files that were never read


def import_codes(
    source: str | os.PathLike[str],
    index: str | os.PathLike[str],
    bits: int | None = None,
    bit_order: BitOrder | None = None,
    kind: str = "auto",
    progress: Progress = lambda done, rows: None,
) -> ImageIndex:
    """Make an index of the codes in a file: Parquet, .npz or .npy; see docs/exchange.md.

    It answers codes and ids (`ImageIndex.search`, `query`), and refuses images. It is there whole or not at all.

    Args:
        source: with codes, and ids, paths and labels where it has such. A path that does not begin with / is relative
            to the folder that the index lies in; nothing is looked for there.
        index: its new folder.
        bits: K; None: what the file says, or all bits of a code's bytes.
        bit_order: of the bits in a byte; None: what the file says, or "little".
        kind: of the FAISS index.
        progress: called with (rows done, rows).

    Raises:
        ArgumentError: another K or order than the file says, ids that do not ascend, codes with bits beyond K, a folder
            that is there.
        HashfaissError: the file cannot be read, or holds no such codes.
    """
    target = Path(index)
    with opened(Path(source)) as found:
        known = check_bits(_told("bits", bits, found.about.get("bits"), 8 * found.width))
        order = _told("bit order", bit_order, found.about.get("bit_order"), "little")
        if order not in ("little", "big"):
            raise ArgumentError(f"bit order is {order!r}: give 'little' or 'big'")
        if code_bytes(known) != found.width:
            raise ArgumentError(
                f"codes of {known} bits have {code_bytes(known)} bytes, and those in {str(source)!r} have "
                f"{found.width}: give another K"
            )
        parse_kind(kind, known, 0)
        with aside(target) as folder:
            _fill(folder, os.path.realpath(target.absolute().parent), found, known, order, kind, progress)
    return ImageIndex.open(target)


def _told(what: str, given: object, said: object, otherwise: object) -> object:
    if given is not None and said is not None and given != said:
        raise ArgumentError(f"{what} is given as {given!r}, and the file says {said!r}: leave it out")
    return next(value for value in (given, said, otherwise) if value is not None)


def _fill(folder: Path, base: str, found: Found, bits: int, order: object, kind: str, progress: Progress) -> None:
    """Write the index; nothing of it stays open."""
    store = CodeStore.create(folder, bits, encoder=NO_ENCODER, kind=kind)
    done = 0
    with store.writing() as writer:
        writer.holding = True
        for part in found.parts:
            codes = part.codes if order == "little" else reversed_bits(part.codes)
            nothing: Sequence[Labels] = [()] * len(codes)
            paths, labels = part.paths or [None] * len(codes), part.labels or nothing
            rows = [_row(path, names, base) for path, names in zip(paths, labels, strict=True)]
            writer.append(codes, rows, part.ids)
            done += len(codes)
            if writer.pending >= COMMIT_ROWS:
                writer.commit()
            progress(done, found.rows)
        if not done:
            raise HashfaissError("the file holds no codes: no index is made of nothing")
        writer.holding = False
        commit_faiss(writer, kind)


def _row(path: str | None, labels: Labels, base: str) -> Row:
    for name in (path or "", *labels):
        if len(name) > LONGEST_NAME or "\0" in name:
            raise HashfaissError(f"a path or label begins {name[:40]!r}, and is too long or holds NUL: it is no name")
    return Row(stored_path(path or "", base), 0, 0, UNKNOWN, labels)
