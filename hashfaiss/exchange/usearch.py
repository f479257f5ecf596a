"""usearch: a graph of b1 vectors under Hamming distance, whose keys are ids; and the rows beside it, as .npz."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hashfaiss.exchange import npz
from hashfaiss.exchange.batches import About, Batch


def write(out: Path, about: About, batches: Iterator[Batch], table: str) -> None:
    """Write the index, which is made in memory, and `out`.npz, which says what its keys are."""
    from usearch.index import Index, MetricKind, ScalarKind

    index = Index(ndim=8 * about.width, metric=MetricKind.Hamming, dtype=ScalarKind.B1)

    def added() -> Iterator[Batch]:
        for batch in batches:
            index.add(batch.ids.astype(np.uint64), batch.codes)
            yield batch

    npz.write(out.with_name(f"{out.name}.npz"), about, added())
    index.save(str(out))
