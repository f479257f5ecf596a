"""What ranking on the processor and on a GPU have in common: arrays of counts, and queries cut to fit memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


def batches(queries: int, items: int, cells: int) -> Iterator[slice]:
    """Slices of the queries, such that queries times items stays near `cells`; at least one query each."""
    size = max(1, cells // max(items, 1))
    for start in range(0, queries, size):
        yield slice(start, min(start + size, queries))
