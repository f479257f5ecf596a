"""Parquet: a code is fixed_size_binary; the schema's metadata has what is said of all rows, as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from hashfaiss.exchange.arrow import record_batch, schema
from hashfaiss.exchange.batches import About, Batch


def write(out: Path, about: About, batches: Iterator[Batch], table: str) -> None:
    """Write a file, a row group a batch."""
    import pyarrow.parquet

    columns = schema(about)
    with pyarrow.parquet.ParquetWriter(out, columns, compression="zstd") as writer:
        for batch in batches:
            writer.write_batch(record_batch(batch, columns))
