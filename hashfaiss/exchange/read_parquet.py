"""Codes in Parquet: the columns code, and id, path and labels where there are such; others are passed over."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hashfaiss.codes import Codes
from hashfaiss.errors import HashfaissError
from hashfaiss.exchange.batches import KEY
from hashfaiss.exchange.source import ROWS, Found, Part, label_names, metadata

COLUMNS = ("code", "id", "path", "labels")
LONGEST = 1 << 15  # bytes of a text


def read(path: Path, stack: contextlib.ExitStack) -> Found:
    """Open a file; it is closed with `stack`.

    Raises:
        HashfaissError: pyarrow is missing.
        ValueError: no such columns, or others of these names; pyarrow's own errors where it is damaged.
    """
    try:
        import pyarrow.parquet
    except ImportError:
        raise HashfaissError("to read Parquet, pyarrow is missing: pip install pyarrow") from None
    file = stack.enter_context(pyarrow.parquet.ParquetFile(path))
    schema = file.schema_arrow
    if "code" not in schema.names:
        raise ValueError(f"it has no column code, but {', '.join(schema.names)[:80]}: name that of the codes so")
    columns = [name for name in COLUMNS if name in schema.names]
    if len({*schema.names}) != len(schema.names):
        raise ValueError("it has several columns of one name")
    said = (schema.metadata or {}).get(KEY.encode())
    width = _width(schema.field("code").type, file)
    return Found(width, file.metadata.num_rows, metadata(said) if said else {}, _parts(file, columns, width))


def _width(kind: Any, file: Any) -> int:
    """Bytes of a code: what its type says, or the first one."""
    import pyarrow as pa

    if pa.types.is_fixed_size_binary(kind):
        return int(kind.byte_width)
    numbers = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or (numbers and kind.value_type == pa.uint8())):
        raise ValueError(f"its codes are {kind}: give bytes, or lists of uint8")
    first = next(file.iter_batches(1, columns=["code"]), None)
    return len(first[0][0].as_py() or b"") if first is not None and len(first) else 1


def _parts(file: Any, columns: list[str], width: int) -> Iterator[Part]:
    import pyarrow as pa

    for batch in file.iter_batches(ROWS, columns=columns):
        found = dict(zip(batch.schema.names, batch.columns, strict=True))
        ids = found.get("id")
        if ids is not None:
            if ids.null_count or not pa.types.is_integer(ids.type):
                raise ValueError(
                    f"its ids are {ids.type}, {ids.null_count} of them null: give a whole number for each row"
                )
            ids = ids.cast(pa.int64()).to_numpy()
        paths, labels = found.get("path"), found.get("labels")
        yield Part(
            _codes(found["code"], width),
            ids,
            None if paths is None else _texts(paths),
            None if labels is None else [label_names(names) for names in _labels(labels)],
        )


def _codes(column: Any, width: int) -> Codes:
    """uint8 (n, width); ValueError where a code is null or has another length."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if column.null_count:
        raise ValueError("it has a row without a code")
    kind = column.type
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        lengths = pc.binary_length(column)
    elif pa.types.is_fixed_size_binary(kind):
        lengths = None
    else:
        lengths = pc.list_value_length(column)
    if lengths is not None and not pc.all(pc.equal(lengths, width), min_count=0).as_py():
        raise ValueError(f"its codes are not all of {width} bytes")
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        column = column.cast(pa.binary(width))
    if not pa.types.is_fixed_size_binary(column.type):
        numbers = column.flatten()
        if numbers.null_count:
            raise ValueError("its codes hold null")
        return np.array(numbers, np.uint8).reshape(-1, width)
    data = np.frombuffer(column.buffers()[1] or b"", np.uint8)
    start = column.offset * width
    return data[start : start + len(column) * width].reshape(-1, width)


def _labels(column: Any) -> list[Any]:
    import pyarrow as pa

    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        _texts(column.flatten())
        values: list[Any] = column.to_pylist()
        return values
    return column.to_pylist() if pa.types.is_integer(column.type) else _texts(column)


def _texts(column: Any) -> list[Any]:
    """A column of texts; ValueError where they are no texts, or too long: a file repeats a long one at no cost."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        raise ValueError(f"paths or labels are {column.type}: give texts")
    if (pc.max(pc.binary_length(column)).as_py() or 0) > LONGEST:
        raise ValueError(f"it has a path or label of more than {LONGEST:,} bytes")
    values: list[Any] = column.to_pylist()
    return values
