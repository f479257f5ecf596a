"""Lance: a code is a vector of uint8, one number a byte, which LanceDB searches by Hamming distance."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hashfaiss.exchange.arrow import record_batch, schema
from hashfaiss.exchange.batches import About, Batch


def write(out: Path, about: About, batches: Iterator[Batch], table: str) -> None:
    """Write the folder of a table; LanceDB opens it by its name in the folder that it lies in."""
    import lancedb
    import pyarrow as pa

    columns = schema(about, code="vector", numbers=True)
    stopped: list[BaseException] = []

    def rows() -> Iterator[Any]:
        try:
            yield from (record_batch(batch, columns) for batch in batches)
        except BaseException as error:  # of which Lance would say that there was one
            stopped.append(error)
            raise

    try:
        lancedb.connect(str(out.parent)).create_table(out.stem, pa.RecordBatchReader.from_batches(columns, rows()))
    except Exception as error:
        raise stopped[0] if stopped else error from None
