"""Evaluating an index: agreement with the exact ranking, retrieval with labels, neighbours without, health of codes."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hashfaiss.codes import Codes
from hashfaiss.errors import ArgumentError, CorruptIndexError, HashfaissError
from hashfaiss.evaluation.agreement import Agreement, compare
from hashfaiss.evaluation.asked import Queries, held_out, own_images
from hashfaiss.evaluation.asymmetric import AsymmetricReport, evaluate_asymmetric
from hashfaiss.evaluation.bucket_report import BucketReport, bucket_report
from hashfaiss.evaluation.health import CodeHealth, code_health
from hashfaiss.evaluation.neighbours import NeighbourReport, kept_neighbours
from hashfaiss.evaluation.plots import (
    plot_buckets,
    plot_health,
    plot_neighbours,
    plot_precision_recall,
    plot_precision_recall_at,
)
from hashfaiss.evaluation.ranking import Database
from hashfaiss.evaluation.retrieval import MeanNorm, RetrievalReport, evaluate_retrieval
from hashfaiss.evaluation.unseen import UnseenReport, by_training

if TYPE_CHECKING:
    from hashfaiss.library.image_index import ImageIndex
    from hashfaiss.storage.segments import Labels, Row

Progress = Callable[[int, int], None] | None
EVERY_RANK = 100_000  # up to so many images, agreement is checked at every rank by default ...
DEPTH = 1_000  # ... and beyond them at this many
CELLS = 1 << 22  # query-image pairs compared at once
MOST_READ = 20_000  # images that are read again for their neighbours, where all are asked for
FEWEST_READ = 3  # of fewer, there is nothing to choose among


@dataclass(frozen=True)
class IndexReport:
    """What an evaluation found.

    Attributes:
        kind: of the FAISS index.
        depth: ranks at which agreement was checked.
        queries: "held out" or "leave one out".
        leaks: queries whose file's bytes are in the index too; None for leave-one-out.
        skipped: queries, and images read again for `neighbours`, that are left out, with the reason.
        agreement: of FAISS's answers with the exact ranking.
        retrieval: metrics by labels, or None where queries or index have none.
        health: of the index's codes.
        buckets: how evenly they fill hash buckets.
        asymmetric: mAP when the queries' real outputs order ties, or all; None where not asked for.
        neighbours: how well codes keep the neighbours by the network's real features, where there are no labels or
            `albums`; None with labels, for an index in memory or of imported codes, and where its encoder or all but 2
            of its images are gone or altered.
        albums: the index's own images asked, and its encoder learned from no labels: theirs may be names of albums.
        unseen: retrieval by queries of classes that the encoder was trained on, and by those of others; None where
            there are none of either kind.
        asked: the queries themselves; not in `to_dict`.
    """

    kind: str
    depth: int
    queries: str
    leaks: int | None
    skipped: list[tuple[str, str]]
    agreement: Agreement
    retrieval: RetrievalReport | None
    health: CodeHealth
    buckets: BucketReport
    asymmetric: AsymmetricReport | None = None
    neighbours: NeighbourReport | None = None
    albums: bool = False
    unseen: UnseenReport | None = None
    asked: Queries | None = field(default=None, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """The report ready for JSON."""
        return {
            "kind": self.kind,
            "depth": self.depth,
            "queries": self.queries,
            "leaks": self.leaks,
            "skipped": [{"path": path, "reason": reason} for path, reason in self.skipped],
            "agreement": self.agreement.to_dict(),
            "retrieval": self.retrieval.to_dict() if self.retrieval else None,
            "health": self.health.to_dict(),
            "buckets": self.buckets.to_dict(),
            "asymmetric": self.asymmetric.to_dict() if self.asymmetric else None,
            "neighbours": self.neighbours.to_dict() if self.neighbours else None,
            "albums": self.albums,
            "unseen": self.unseen.to_dict() if self.unseen else None,
        }

    def plot(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Draw what was found into `folder` as PNG files."""
        target = Path(folder)
        try:
            target.mkdir(parents=True, exist_ok=True)
            drawn = [target / "health.png", target / "buckets.png"]
            plot_health(drawn[0], self.health)
            plot_buckets(drawn[1], self.buckets)
            if self.retrieval is not None:
                curves = {f"{self.retrieval.bits} bits": self.retrieval}
                drawn += [target / "precision-recall.png", target / "precision-recall-at.png"]
                plot_precision_recall(drawn[2], curves)
                plot_precision_recall_at(drawn[3], curves)
            if self.neighbours is not None:
                drawn.append(target / "neighbours.png")
                plot_neighbours(drawn[-1], self.neighbours)
        except OSError as error:
            raise HashfaissError(f"cannot write plots to {str(folder)!r}: {error.strerror}") from None
        return drawn


def evaluate_index(
    index: ImageIndex,
    queries: str | os.PathLike[str] | None = None,
    labels: str | os.PathLike[str] | None = None,
    depth: int | None = None,
    cutoff: int | None = None,
    norm: MeanNorm = "found",
    sample: int = 1000,
    seed: int = 0,
    progress: Progress = None,
    rerank: str | None = None,
    exact: bool = False,
) -> IndexReport:
    """Evaluate an index on held-out queries, or on its own images, each left out of its own ranking.

    Args:
        queries: folder of query images, labelled by class folders or `labels`; None asks with the index's images.
        labels: label file of the queries (only images it lists are asked with).
        depth: ranks at which agreement is checked; None: all up to 100,000 images, else 1,000.
        cutoff, norm: of mAP@R, see `evaluation.evaluate_retrieval`.
        sample, seed: without `queries`, ask with this many images drawn at random; 0 asks with all. So many
            (up to 20,000) are read again for `IndexReport.neighbours`.
        progress: called with (queries compared, queries), then, without labels, with (images read again, images).
        rerank: "asymmetric" also measures mAP under the order of the queries' real outputs.
        exact: FAISS probes on until every answer is certified; without it, as an approximate search answers: as its
            kind was made or, where tuning chose it, as `CodeIndex.search` has it.

    Raises:
        ArgumentError: nothing to ask with, or an empty index.
        CorruptIndexError: a stored file is damaged.
    """
    codes, ids = index.store.codes()
    _check(len(codes), queries is not None, labels is not None, rerank, norm, depth, cutoff, sample, seed)
    cutoff = None if cutoff is None else min(cutoff, len(codes))
    depth = min(depth or (EVERY_RANK if len(codes) <= EVERY_RANK else DEPTH), len(codes))
    rows = [row for _, row in index.store.rows()]
    image_labels = [row.labels for row in rows]
    if queries is not None:
        asked = held_out(index, queries, labels, {row.digest for row in rows}, rerank is not None)
    else:
        asked = own_images(index, codes, rows, sample, seed)
    agreement = _agreement(index, asked.codes, codes, ids, depth, exact, progress)
    retrieval, asymmetric = _by_labels(index, asked, codes, image_labels, cutoff, norm, rerank)
    albums = retrieval is not None and queries is None and _learned_no_labels(index)
    told = retrieval is not None and not albums
    neighbours, unread = (None, []) if told else _own_neighbours(index, codes, rows, sample, seed, progress)
    return IndexReport(
        kind=str(index.codes.kind),
        depth=depth,
        queries="leave one out" if asked.rows is not None else "held out",
        leaks=asked.leaks,
        skipped=[*asked.skipped, *unread],
        agreement=agreement,
        retrieval=retrieval,
        health=code_health(codes, index.bits),
        buckets=bucket_report(codes, index.bits),
        asymmetric=asymmetric,
        neighbours=neighbours,
        albums=albums,
        unseen=None if retrieval is None else _unseen(index, asked, codes, image_labels, cutoff, norm),
        asked=asked,
    )


def _check(
    images: int,
    queries: bool,
    labels: bool,
    rerank: str | None,
    norm: MeanNorm,
    depth: int | None,
    cutoff: int | None,
    sample: int,
    seed: int,
) -> None:
    """ArgumentError for what cannot be asked of an index of so many images, with queries and labels or without."""
    if not images:
        raise ArgumentError("the index is empty: build it from a folder of images first")
    if labels and not queries:
        raise ArgumentError("labels were given without queries: they are those of the query images, give both")
    if rerank not in (None, "asymmetric"):
        raise ArgumentError(f"rerank is {rerank!r}: give 'asymmetric', or leave it out")
    if rerank and not queries:
        raise ArgumentError("rerank needs the real outputs of queries, which an index does not keep: give queries")
    if rerank and norm == "kept":
        raise ArgumentError("norm is 'kept', which rerank does not have: give found, min or all")
    if sample < 0:
        raise ArgumentError(f"sample is {sample}: give how many of the index's images to ask with, 0 for all")
    for name, value, least in (("depth", depth, 1), ("cutoff", cutoff, 1), ("seed", seed, 0)):
        if value is not None and value < least:
            raise ArgumentError(f"{name} is {value}: give a whole number of {least} or more")


def _agreement(
    index: ImageIndex,
    queries: Codes,
    codes: Codes,
    ids: npt.NDArray[np.int64],
    depth: int,
    exact: bool,
    progress: Progress,
) -> Agreement:
    """FAISS's answers against the exact ranking, some queries at a time."""
    agreement = Agreement()
    step = max(1, CELLS // len(codes))
    for start in range(0, len(queries), step):
        batch = queries[start : start + step]
        agreement += compare(index.codes.search(batch, depth, exact), batch, codes, ids, depth)
        if progress:
            progress(min(start + step, len(queries)), len(queries))
    return agreement


def _by_labels(
    index: ImageIndex,
    asked: Queries,
    codes: Codes,
    labels: list[Labels],
    cutoff: int | None,
    norm: MeanNorm,
    rerank: str | None,
) -> tuple[RetrievalReport | None, AsymmetricReport | None]:
    """Metrics by the labels of queries and images; None without labels on both sides, or with nothing to find."""
    alone = asked.rows is not None and len(codes) == 1
    if not any(labels) or not any(asked.labels) or alone:
        return None, None
    device = "cpu" if asked.rows is not None else str(index.encoder.device)
    sides = asked.codes, asked.labels, codes, labels
    retrieval = evaluate_retrieval(*sides, index.bits, cutoff, norm, leave_out=asked.rows, device=device)
    asymmetric = None
    if rerank and asked.outputs is not None:
        database = Database(codes, index.bits, labels)
        assert norm != "kept"  # refused where it was asked for
        asymmetric = evaluate_asymmetric(asked.outputs, asked.labels, database, cutoff, norm)
    return retrieval, asymmetric


def _unseen(
    index: ImageIndex, asked: Queries, codes: Codes, labels: list[Labels], cutoff: int | None, norm: MeanNorm
) -> UnseenReport | None:
    """Retrieval by queries of classes that were trained on and of others; None where there are none of either kind."""
    if not index.has_encoder:
        return None
    try:
        trained = index.encoder.labels
    except CorruptIndexError:  # all else can be said without it
        return None
    seen, unseen, classes = by_training(asked.labels, trained)
    if not len(seen) or not len(unseen):
        return None
    device = "cpu" if asked.rows is not None else str(index.encoder.device)
    found = [
        evaluate_retrieval(
            asked.codes[rows],
            [asked.labels[row] for row in rows.tolist()],
            codes,
            labels,
            index.bits,
            cutoff,
            norm,
            leave_out=None if asked.rows is None else asked.rows[rows],
            device=device,
            by_id=False,
        )
        for rows in (seen, unseen)
    ]
    return UnseenReport(classes, *found)


def _learned_no_labels(index: ImageIndex) -> bool:
    """Whether the index's encoder was made of images alone."""
    try:
        return index.path is not None and index.has_encoder and not index.encoder.labels
    except CorruptIndexError:
        return False


def _own_neighbours(
    index: ImageIndex, codes: Codes, rows: list[Row], sample: int, seed: int, progress: Progress
) -> tuple[NeighbourReport | None, list[tuple[str, str]]]:
    """How well codes keep the neighbours of the index's images, read again; and what is left out, with the reason."""
    from hashfaiss.encoding.items import Item
    from hashfaiss.encoding.pipeline import encode_stream
    from hashfaiss.images.finding import image_file
    from hashfaiss.library.stored_encoder import ENCODER

    if index.path is None or not index.has_encoder:
        return None, []
    files = _still_there(index, rows, sample or MOST_READ, seed)
    if len(files) < FEWEST_READ:
        return None, []
    try:
        encoder = index.encoder
    except CorruptIndexError as error:  # all else can be said without it
        return None, [(str(index.path / ENCODER), str(error))]
    features, kept = [], list[int]()
    left_out, done = list[tuple[str, str]](), 0
    for batch in encode_stream(encoder, (Item(image_file(path)) for path in files), features=True):
        left_out += [(item.path or "", reason) for item, reason in batch.skipped]
        vectors = () if batch.features is None else batch.features
        for item, digest, vector in zip(batch.items, batch.digests, vectors, strict=True):
            row = files[item.path or ""]
            if rows[row].digest == digest:
                features.append(vector)
                kept.append(row)
            else:
                left_out.append((item.path or "", "altered since it was indexed"))
        done += len(batch.items) + len(batch.skipped)
        if progress:
            progress(done, len(files))
    found = kept_neighbours(np.stack(features), codes[kept], index.bits) if len(kept) >= FEWEST_READ else None
    return found, sorted(left_out)


def _still_there(index: ImageIndex, rows: list[Row], most: int, seed: int) -> dict[str, int]:
    """Paths and rows, ascending, of images drawn at random, of those that still exist as files; at most `most`."""
    drawn = np.random.default_rng(seed).permutation(len(rows)).tolist()
    paths = ((row, index.store.full_path(rows[row])) for row in drawn)
    there = ((row, path) for row, path in paths if path is not None and os.path.isfile(path))
    return {path: row for row, path in sorted(islice(there, min(most, MOST_READ)))}
