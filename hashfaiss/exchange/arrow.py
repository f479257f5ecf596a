"""Rows as Arrow has them, which Parquet, DuckDB and Lance take."""

from __future__ import annotations

from typing import Any

import numpy as np

from hashfaiss.exchange.batches import KEY, About, Batch


def schema(about: About, code: str = "code", numbers: bool = False) -> Any:
    """The columns id, code, path, labels and, where codes are distinct, ids; `about` is their metadata.

    Args:
        code: what the codes' column is called.
        numbers: a code is a list of uint8, as Lance has vectors, and not bytes.
    """
    import pyarrow as pa

    fields = [
        pa.field("id", pa.int64(), nullable=False),
        pa.field(code, pa.list_(pa.uint8(), about.width) if numbers else pa.binary(about.width), nullable=False),
        pa.field("path", pa.string()),
        pa.field("labels", pa.list_(pa.string())),
    ]
    if about.distinct:
        fields.append(pa.field("ids", pa.list_(pa.int64())))
    return pa.schema(fields, metadata={KEY: about.text()})


def record_batch(batch: Batch, schema: Any) -> Any:
    """The rows of a batch."""
    import pyarrow as pa

    code, data = schema.field(1).type, pa.py_buffer(batch.codes)
    if pa.types.is_fixed_size_list(code):
        numbers = pa.Array.from_buffers(pa.uint8(), batch.codes.size, [None, data])
        codes = pa.FixedSizeListArray.from_arrays(numbers, type=code)
    else:
        codes = pa.Array.from_buffers(code, len(batch.ids), [None, data])
    columns = [
        pa.array(batch.ids),
        codes,
        pa.array(batch.paths, pa.string()),
        pa.array(batch.labels, pa.list_(pa.string())),
    ]
    if batch.shared is not None:
        ends = np.cumsum([0, *map(len, batch.shared)], dtype=np.int32)
        shared = np.concatenate([batch.ids[:0], *batch.shared])
        columns.append(pa.ListArray.from_arrays(pa.array(ends), pa.array(shared)))
    return pa.RecordBatch.from_arrays(columns, schema=schema)
