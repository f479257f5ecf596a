"""DuckDB: a code is a BIT of all bits of its bytes; the table's comment has what is said of all rows, as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from hashfaiss.exchange.arrow import record_batch, schema
from hashfaiss.exchange.batches import About, Batch


def write(out: Path, about: About, batches: Iterator[Batch], table: str) -> None:
    """Write a database of one table."""
    import duckdb

    columns = schema(about)
    name = f'"{table}"'
    kinds = "id bigint primary key, code bit, path varchar, labels varchar[]" + ", ids bigint[]" * about.distinct
    with duckdb.connect(str(out)) as connection:
        connection.execute(f"create table {name} ({kinds})")
        said = about.text().replace("'", "''")
        connection.execute(f"comment on table {name} is '{said}'")
        for batch in batches:
            connection.register("batch", record_batch(batch, columns))
            connection.execute(f"insert into {name} select * replace (code::bit as code) from batch")
            connection.unregister("batch")
