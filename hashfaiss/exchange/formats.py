"""The formats that codes are written in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from hashfaiss.exchange import duckdb, lance, npz, parquet, pgvector, qdrant, sqlite_vec, usearch


class Format(NamedTuple):
    """One of them.

    Attributes:
        write: its module's, given where to (a path, or what a database is reached by), `About`, batches, and a table.
        modules: that it needs.
        install: what pip installs them by.
        graph: searched by a graph, which loses its way among codes that are equal.
        address: how something begins that is no path but a database.
        suffix: that its path must have.
    """

    write: Callable[[Any, Any, Any, str], None]
    modules: tuple[str, ...] = ()
    install: str = ""
    graph: bool = False
    address: tuple[str, ...] = ()
    suffix: str = ""


FORMATS = {
    "parquet": Format(parquet.write, ("pyarrow",), "pyarrow"),
    "npz": Format(npz.write),
    "duckdb": Format(duckdb.write, ("duckdb", "pyarrow"), "duckdb pyarrow"),
    "lance": Format(lance.write, ("lancedb", "pyarrow"), "lancedb pyarrow", suffix=".lance"),
    "pgvector": Format(
        pgvector.write,
        ("psycopg",),
        "'psycopg[binary]'",
        graph=True,
        address=("postgresql://", "postgres://"),
    ),
    "sqlite-vec": Format(sqlite_vec.write, ("apsw", "sqlite_vec"), "apsw sqlite-vec"),
    "usearch": Format(usearch.write, ("usearch",), "usearch", graph=True),
    "qdrant": Format(qdrant.write, ("qdrant_client",), "qdrant-client", graph=True, address=("http://", "https://")),
}
