"""The counts of `Database.level_counts` by torch, for a GPU: distances are a matrix product of codes as -1 and 1."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hashfaiss.evaluation.batches import Counts, Flags, batches

CELLS = 1 << 23  # query-item pairs at once: a few hundred MB on the device


def count_levels(
    device: str,
    queries: npt.NDArray[np.uint64],
    group_words: npt.NDArray[np.uint64],
    group_set: npt.NDArray[np.int32],
    weights: Counts | None,
    relevance: Sequence[Flags],
    bits: int,
) -> Counts:
    """Counts (queries, 2, K + 1) of items that are not relevant, and that are, by distance.

    Args:
        queries: words (queries, words).
        group_words, group_set, weights: items with the same code and label set: words (words, groups), the set's
            number, and how many there are (None: one each).
        relevance: for each query, which sets are relevant.
    """
    levels = bits + 1
    # products are whole numbers up to 1,024, which half precision has exactly; a CPU multiplies float32 faster
    kind = torch.float32 if torch.device(device).type == "cpu" else torch.float16
    items = _signs(np.ascontiguousarray(group_words.T), bits, kind, device)
    sets = torch.from_numpy(group_set.astype(np.int64)).to(device)
    amount = None if weights is None else torch.from_numpy(weights.astype(np.float64)).to(device)
    counts = np.empty((len(queries), 2, levels), dtype=np.int64)
    for batch in batches(len(queries), len(group_set), CELLS):
        asked = _signs(queries[batch], bits, kind, device)
        flags = torch.from_numpy(np.stack(relevance[batch])).to(device)
        keys = ((bits - asked @ items.T) / 2).to(torch.int64)
        keys += flags[:, sets] * levels
        rows = torch.arange(len(asked), device=device)[:, None]
        keys += rows * (2 * levels)
        each = None if amount is None else amount.expand(len(asked), -1).flatten()
        found = torch.bincount(keys.flatten(), each, minlength=len(asked) * 2 * levels)
        counts[batch] = found.round().to(torch.int64).cpu().numpy().reshape(-1, 2, levels)
    return counts


def _signs(code_words: npt.NDArray[np.uint64], bits: int, kind: torch.dtype, device: str) -> Tensor:
    """Words (n, words) as -1 and 1 (n, K)."""
    packed = torch.from_numpy(code_words.view(np.uint8)).to(device)
    ones = (packed[:, :, None] >> torch.arange(8, dtype=torch.uint8, device=device)) & 1
    return ones.flatten(1)[:, :bits].to(kind) * 2 - 1
