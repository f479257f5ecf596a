"""Precision, recall and numbers of pairs by Hamming radius: of files that were judged, or of an index's labels."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hashfaiss.codes import Codes
from hashfaiss.errors import ArgumentError, HashfaissError
from hashfaiss.evaluation.plots import plot_radius
from hashfaiss.evaluation.radii import SAMPLE, RadiusReport, asked_of, radii_of_codes, radii_of_pairs
from hashfaiss.library.searching import Searching

if TYPE_CHECKING:
    from hashfaiss.encoding.encoder import Encoder
    from hashfaiss.images.pairs import Pair
    from hashfaiss.library.image_index import ImageIndex


def evaluate_radius(
    asked: ImageIndex | Encoder,
    pairs: Iterable[Pair] | None = None,
    sample: int = SAMPLE,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> RadiusReport:
    """What each radius finds of judged pairs, or of images of an index that share a label.

    Args:
        asked: an index, or an encoder alone, which needs pairs.
        pairs: images and whether they are the same, as `hashfaiss.images.pairs.read_pairs` reads them.
        sample, seed: see `radii_of_codes`.
        progress: called with (images of pairs encoded, images).

    Raises:
        ArgumentError: nothing that tells what is the same, or an empty index.
        HashfaissError: no pair of which both images can be read.
    """
    if sample < 0 or seed < 0:
        raise ArgumentError(f"sample is {sample} and seed {seed}: give 0 or more of each")
    if not isinstance(asked, Searching):
        if pairs is None:
            raise ArgumentError("an encoder alone has no labels: give pairs, which say what is the same")
        return _of_files(asked, list(pairs), progress)
    codes, _ = asked.store.codes()
    if len(codes) < 2:
        raise ArgumentError("the index has fewer than two images: build it from a folder of images first")
    labels = None if pairs is not None else [row.labels for _, row in asked.store.rows()]
    report, expected = radii_of_codes(codes, asked.bits, labels, sample, seed)
    if pairs is None:
        if report is None:
            raise ArgumentError("no image of the index has a label: give pairs, which say what is the same")
        return report
    found = _of_files(asked.encoder, list(pairs), progress)
    return replace(found, expected=expected, images=len(codes), sampled=asked_of(len(codes), sample))


def draw_radius(folder: str | os.PathLike[str], report: RadiusReport) -> Path:
    """Draw the curves into `folder`, which is made where there is none, as radius.png."""
    drawn = Path(folder) / "radius.png"
    try:
        drawn.parent.mkdir(parents=True, exist_ok=True)
        plot_radius(drawn, report)
    except OSError as error:
        raise HashfaissError(f"cannot write plots to {str(folder)!r}: {error.strerror}") from None
    return drawn


def _of_files(encoder: Encoder, pairs: Sequence[Pair], progress: Callable[[int, int], None] | None) -> RadiusReport:
    """The report of pairs of files, without those that cannot be read."""
    from hashfaiss.encoding.items import as_items
    from hashfaiss.encoding.pipeline import encode_stream

    paths = list(dict.fromkeys(path for pair in pairs for path in pair[:2]))
    skipped: list[tuple[str, str]] = []
    code_of: dict[str | None, Codes] = {}
    for batch in encode_stream(encoder, as_items(paths)):
        code_of |= {item.path: code for item, code in zip(batch.items, batch.codes, strict=True)}
        skipped += [(item.path or "", reason) for item, reason in batch.skipped]
        if progress:
            progress(len(code_of) + len(skipped), len(paths))
    read = [pair for pair in pairs if pair.one in code_of and pair.other in code_of]
    if not read:
        raise HashfaissError(f"no pair can be read: of {skipped[0][0]!r}, {skipped[0][1]}")
    ends = (np.stack([code_of[path] for path in side]) for side in zip(*(pair[:2] for pair in read), strict=True))
    one, other = ends
    distances = np.bitwise_count(one ^ other).sum(axis=1, dtype=np.int64)
    found = radii_of_pairs(distances.tolist(), [pair.same for pair in read], encoder.bits)
    return replace(found, skipped=tuple(skipped))
