"""Candidates in another order: by the query network's real outputs against the stored bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from hashfaiss.codes import Codes, asymmetric_distances, hamming, pack
from hashfaiss.errors import ArgumentError
from hashfaiss.indexes.answers import Answers
from hashfaiss.indexes.code_index import CodeIndex
from hashfaiss.indexes.distinct import Distinct
from hashfaiss.indexes.kind import Int32, Int64, ranges
from hashfaiss.indexes.parts import Parts
from hashfaiss.indexes.snapshot import Snapshot


def rerank(
    index: CodeIndex | Parts,
    queries: Codes,
    outputs: npt.NDArray[np.floating[Any]],
    k: int | None = None,
    radius: int | None = None,
    exact: bool = False,
) -> Answers:
    """Answers in order of (asymmetric distance, Hamming distance, id); nothing more is stored for it.

    A bit that differs counts as much as the query is sure of it: the asymmetric distance is the sum of |u_j| over the
    bits j that differ, in units of the mean |u_j|. Where all |u_j| are alike it is the Hamming distance.

    Args:
        queries: uint8 (n, ceil(K/8)).
        outputs: u (n, K), whose signs `queries` are.
        k: candidates are all within the Hamming distance of the k-th nearest, ties with it included; the first k in
            the new order are returned.
        radius: instead of k: candidates are all within this Hamming distance.
        exact: as in `CodeIndex.search`, of the candidates.

    Raises:
        ArgumentError: as `CodeIndex.search` and `within`, and outputs of another shape or not finite.
    """
    _check_outputs(outputs, len(queries), index.bits)
    if (k is None) == (radius is None):
        raise ArgumentError("give either k or radius")
    now = index.now  # all of one answer is of the same codes
    if k is not None:
        first = now.search(queries, k, exact)
        radii = [int(distances.max(initial=0)) for _, distances in first]
    else:
        first = now.within(queries[:0], radius)  # type: ignore[arg-type]  # a wrong radius is told
        radii = [int(radius or 0)] * len(queries)
    found = Answers.merge(now.ask(candidates, queries, outputs, radii, k, exact), k)
    sure = first.exact if k is not None else True
    return replace(found, exact=found.exact & sure, missing=found.missing or first.missing)


def candidates(
    now: Snapshot,
    queries: Codes,
    outputs: npt.NDArray[np.floating[Any]],
    radii: Sequence[int],
    k: int | None,
    exact: bool,
) -> Answers:
    """The k first of all within its own radius of each query, in the order of `rerank`; None keeps all."""
    parts, distinct = [], now.distinct
    for query, output, radius in zip(queries, outputs, radii, strict=True):
        found = now.codes_within(query[None], radius, exact)
        certain = bool(found.complete[0] >= min(radius, now.bits))
        by_code = asymmetric_distances(output, distinct.codes[found.positions], now.bits)
        parts.append(_ordered(distinct, found.positions, by_code, found.distances, k, certain))
    return Answers.join(parts)


def nearest_by_outputs(index: CodeIndex | Parts, outputs: npt.NDArray[np.floating[Any]], k: int) -> Answers:
    """The k images of least (asymmetric distance, Hamming distance, id): all codes are compared, so it is exact.

    For outputs (n, K) that are not those of one image: where two images that are asked with together differ, or one is
    to be stayed away from, bits weigh little, and who is near the signs is not yet near.

    Raises:
        ArgumentError: outputs of another shape or not finite, or a k below 1.
    """
    now = index.now
    _check_outputs(outputs, len(outputs), now.bits)
    now.search(pack(outputs[:0]), k)  # a wrong k is told
    return Answers.merge(now.ask(by_outputs, outputs, k), k)


def by_outputs(now: Snapshot, outputs: npt.NDArray[np.floating[Any]], k: int) -> Answers:
    """`nearest_by_outputs` of a snapshot."""
    parts = []
    for output in outputs:
        scores, positions = asymmetric_distances(output, now.distinct.codes, now.bits), np.arange(len(now.distinct))
        if k < len(scores):
            positions = np.flatnonzero(scores <= np.partition(scores, k - 1)[k - 1])
        distances = hamming(pack(output[None]), now.distinct.codes[positions])[0].astype(np.int32)
        parts.append(_ordered(now.distinct, positions, scores[positions], distances, k, True))
    return Answers.join(parts)


def _check_outputs(outputs: npt.NDArray[np.floating[Any]], queries: int, bits: int) -> None:
    if outputs.shape != (queries, bits) or not np.isfinite(outputs).all():
        raise ArgumentError(
            f"outputs have shape {outputs.shape}: give {bits} finite outputs for each of {queries} queries"
        )


def _ordered(
    distinct: Distinct, positions: Int64, scores: npt.NDArray[np.float64], near: Int32, k: int | None, certain: bool
) -> Answers:
    """The images that have the codes at `positions`, by (score, distance, id), the first k."""
    counts = distinct.lengths(positions)
    starts = positions if distinct.starts is None else distinct.starts[positions]
    scores, distances = np.repeat(scores, counts), np.repeat(near, counts)
    ids = distinct.ids[ranges(starts, counts)]
    order = np.lexsort((ids, distances, scores))[:k]
    return Answers(np.array([0, len(order)]), ids[order], distances[order], np.array([certain]), scores[order])
