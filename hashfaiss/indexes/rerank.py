"""Candidates in another order: by the query network's real outputs against the stored bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from hashfaiss.codes import Codes, asymmetric_distances
from hashfaiss.errors import ArgumentError
from hashfaiss.indexes.answers import Answers
from hashfaiss.indexes.code_index import CodeIndex
from hashfaiss.indexes.kind import ranges
from hashfaiss.indexes.snapshot import Snapshot


def rerank(
    index: CodeIndex,
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
    if outputs.shape != (len(queries), index.bits) or not np.isfinite(outputs).all():
        raise ArgumentError(
            f"outputs have shape {outputs.shape}: give {index.bits} finite outputs for each of {len(queries)} queries"
        )
    if (k is None) == (radius is None):
        raise ArgumentError("give either k or radius")
    now = index.now  # all of one answer is of the same codes
    if k is not None:
        first = now.search(queries, k, exact)
        radii, sure = [int(distances.max(initial=0)) for _, distances in first], first.exact
    else:
        now.within(queries[:0], radius)  # type: ignore[arg-type]  # a wrong radius is told
        radii, sure = [int(radius or 0)] * len(queries), np.ones(len(queries), np.bool_)
    rows = zip(queries, outputs, radii, sure.tolist(), strict=True)
    parts = [_one(now, query[None], output, within, k, exact, certain) for query, output, within, certain in rows]
    return Answers.join(parts) if parts else now.search(queries, 1)


def _one(
    index: Snapshot,
    query: Codes,
    output: npt.NDArray[np.floating[Any]],
    radius: int,
    k: int | None,
    exact: bool,
    certain: bool,
) -> Answers:
    found, distinct = index.codes_within(query, radius, exact), index.distinct
    by_code = asymmetric_distances(output, distinct.codes[found.positions], index.bits)
    counts = distinct.lengths(found.positions)
    starts = found.positions if distinct.starts is None else distinct.starts[found.positions]
    scores, distances = np.repeat(by_code, counts), np.repeat(found.distances, counts)
    ids = distinct.ids[ranges(starts, counts)]
    order = np.lexsort((ids, distances, scores))[:k]
    certain &= bool(found.complete[0] >= min(radius, index.bits))
    return Answers(np.array([0, len(order)]), ids[order], distances[order], np.array([certain]), scores[order])
