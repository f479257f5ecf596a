"""What an evaluation of an index asks with: its own images, or those of a folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from hashfaiss.codes import Codes
from hashfaiss.errors import ArgumentError
from hashfaiss.evaluation.batches import Counts

if TYPE_CHECKING:
    from hashfaiss.library.image_index import ImageIndex
    from hashfaiss.storage.segments import Labels, Row


@dataclass
class Queries:
    """Queries, one after another.

    Attributes:
        codes: uint8 (queries, ceil(K/8)).
        labels, paths: of each.
        rows: int64 (queries,), which image of the index each is, to be left out of its own ranking; None for others.
        leaks: how many have a file that the index has, too; None for the index's own.
        skipped: images left out, with the reason.
        outputs: the network's, float32 (queries, K), where they were asked for.
    """

    codes: Codes
    labels: list[Labels]
    paths: list[str | None]
    rows: Counts | None = None
    leaks: int | None = None
    skipped: Sequence[tuple[str, str]] = ()
    outputs: npt.NDArray[np.float32] | None = None


def own_images(index: ImageIndex, codes: Codes, rows: list[Row], sample: int, seed: int) -> Queries:
    """The index's images, or so many of them drawn at random."""
    chosen = np.arange(len(codes))
    if 0 < sample < len(codes):
        chosen = np.sort(np.random.default_rng(seed).choice(len(codes), sample, replace=False))
    images = [rows[row] for row in chosen.tolist()]
    labels, paths = [image.labels for image in images], [index.store.full_path(image) for image in images]
    return Queries(codes[chosen], labels, paths, chosen)


def held_out(
    index: ImageIndex,
    folder: str | os.PathLike[str],
    labels: str | os.PathLike[str] | None,
    indexed: set[bytes],
    outputs: bool,
) -> Queries:
    """Images of a folder, encoded as a build has them; `indexed` are the digests of the index's own.

    Raises:
        ArgumentError: none can be read.
    """
    from hashfaiss.encoding.items import Item
    from hashfaiss.encoding.pipeline import encode_stream
    from hashfaiss.images.labels import labelled_files

    unlisted: list[tuple[str, str]] = []
    files = labelled_files(folder, labels, lambda path, reason: unlisted.append((path, reason)))
    items = (Item(file, file_labels) for file, file_labels in files)
    batches = list(encode_stream(index.encoder, items, outputs=outputs))
    skipped = unlisted + [(item.path or "", reason) for batch in batches for item, reason in batch.skipped]
    if not any(batch.items for batch in batches):
        raise ArgumentError(f"{os.fspath(folder)!r} holds no image that can be read: give a folder of query images")
    return Queries(
        np.concatenate([batch.codes for batch in batches]),
        [item.labels for batch in batches for item in batch.items],
        [item.path for batch in batches for item in batch.items],
        leaks=sum(digest in indexed for digest in chain.from_iterable(batch.digests for batch in batches)),
        skipped=skipped,
        outputs=np.concatenate([batch.outputs for batch in batches if batch.outputs is not None]) if outputs else None,
    )
