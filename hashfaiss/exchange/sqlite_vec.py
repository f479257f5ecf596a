"""SQLite with sqlite-vec: a code is a bit vector; the table TABLE_about has what is said of all rows, as JSON.

Through apsw, because Python's own sqlite3 may be built without loading extensions.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hashfaiss.exchange.batches import About, Batch


def write(out: Path, about: About, batches: Iterator[Batch], table: str) -> None:
    """Write a database of one vec0 table; labels, and ids of distinct codes, are JSON."""
    import apsw
    import sqlite_vec

    connection = apsw.Connection(str(out))
    try:
        connection.enable_load_extension(True)
        connection.load_extension(sqlite_vec.loadable_path())
        columns = f"id integer primary key, code bit[{8 * about.width}], +path text, +labels text"
        connection.execute(f'create virtual table "{table}" using vec0({columns}{", +ids text" * about.distinct})')
        connection.execute(f'create table "{table}_about" (about text)')
        connection.execute(f'insert into "{table}_about" values (?)', (about.text(),))
        places = "?, vec_bit(?), ?, ?" + ", ?" * about.distinct
        with connection:
            for batch in batches:
                connection.executemany(f'insert into "{table}" values ({places})', _rows(batch))
    finally:
        connection.close()


def _rows(batch: Batch) -> Iterator[tuple[Any, ...]]:
    columns = zip(batch.ids.tolist(), batch.codes, batch.paths, batch.labels, batch.extra(), strict=True)
    for number, code, path, labels, extra in columns:
        yield number, code.tobytes(), path, json.dumps(labels), *map(json.dumps, extra)
