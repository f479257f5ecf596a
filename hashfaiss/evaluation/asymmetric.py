"""Retrieval when ties are settled, or all is ordered, by the query network's real outputs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hashfaiss.codes import asymmetric_distances, pack
from hashfaiss.errors import ArgumentError
from hashfaiss.evaluation.metrics import Norm, average_precision
from hashfaiss.evaluation.ranking import Database, Labels


@dataclass(frozen=True)
class AsymmetricReport:
    """mAP@R of the same queries and codes under three orders; images that still tie count by expectation.

    Attributes:
        hamming: by Hamming distance.
        ties: by Hamming distance, then asymmetric distance: what `rerank` gives where candidates are many.
        asymmetric: by asymmetric distance over the whole database.
    """

    hamming: float
    ties: float
    asymmetric: float

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


def evaluate_asymmetric(
    outputs: npt.NDArray[np.floating[Any]],
    query_labels: Labels,
    database: Database,
    cutoff: int | None = None,
    norm: Norm = "found",
) -> AsymmetricReport:
    """Rank the database for every query by `codes.asymmetric_distances`.

    Args:
        outputs: the network's, (queries, K).
        query_labels: a tuple of label names for each.
        cutoff, norm: as in `average_precision`.
    """
    if outputs.shape != (len(query_labels), database.bits):
        raise ArgumentError(f"outputs have shape {outputs.shape}: give ({len(query_labels)}, {database.bits})")
    codes, sets, counts = database.groups()
    totals = np.zeros(3)
    for output, labels in zip(outputs, query_labels, strict=True):
        relevant = np.where(database.labels.relevance(labels)[sets], counts, 0)
        near = np.bitwise_count(codes ^ pack(output[None])).sum(axis=1, dtype=np.int64)
        score = asymmetric_distances(output, codes, database.bits)
        for place, levels in enumerate((near, near * (1e5 * database.bits) + score, score)):
            _, level = np.unique(levels, return_inverse=True)
            items = np.bincount(level, counts)[None].astype(np.int64)
            hits = np.bincount(level, relevant)[None].astype(np.int64)
            totals[place] += average_precision(items, hits, cutoff, norm)[0]
    return AsymmetricReport(*(totals / max(1, len(outputs))).tolist())
