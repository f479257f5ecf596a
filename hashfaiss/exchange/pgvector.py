"""PostgreSQL with pgvector: a code is bit(K), bit j its character j; the table's comment has what is said of all."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from hashfaiss.errors import ArgumentError
from hashfaiss.exchange.batches import About, Batch


def write(out: str, about: About, batches: Iterator[Batch], table: str) -> None:
    """Make a table in the database at `out`, all in one transaction.

    Raises:
        ArgumentError: there is such a table.
    """
    import psycopg
    from psycopg import sql

    name = sql.Identifier(table)
    columns = "id bigint primary key, code bit({bits}), path text, labels text[]" + ", ids bigint[]" * about.distinct
    with psycopg.connect(out) as connection, connection.cursor() as cursor:
        cursor.execute("create extension if not exists vector")
        try:
            cursor.execute(sql.SQL(f"create table {{name}} ({columns})").format(name=name, bits=about.bits))
        except psycopg.errors.DuplicateTable:
            raise ArgumentError(f"the database has a table {table!r} already: give another name, or drop it") from None
        cursor.execute(sql.SQL("comment on table {} is {}").format(name, about.text()))
        with cursor.copy(sql.SQL("copy {} from stdin").format(name)) as copy:
            for batch in batches:
                bits = np.unpackbits(batch.codes, axis=1, count=about.bits, bitorder="big") + ord("0")
                texts = (row.tobytes().decode() for row in bits)
                rows = zip(batch.ids.tolist(), texts, batch.paths, batch.labels, batch.extra(), strict=True)
                for *row, extra in rows:
                    copy.write_row((*row, *extra))
