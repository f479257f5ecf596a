"""What users run instead, as its own documentation says: usearch and LanceDB, where they are installed."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from hashfaiss.codes import Codes

K = 10
PACKAGES = ("usearch", "lancedb")
GRAPH_UP_TO = 1_000_000  # codes of which usearch builds a graph in minutes

Distances = list[Any]


@dataclass(frozen=True)
class Peer:
    """A product to compare with.

    Attributes:
        name: with how it is run.
        build: codes and an empty folder → a function from queries to the distances of the k nearest of each.
        queries: asked at once.
    """

    name: str
    build: Callable[[Codes, str], Callable[[Codes], Distances]]
    queries: int


def missing() -> list[str]:
    """Packages that are not installed."""
    return [name for name in PACKAGES if importlib.util.find_spec(name) is None]


def peers(n: int) -> list[Peer]:
    """Those that can be run on n codes in reasonable time."""
    there = [
        Peer("usearch, exact", _usearch_exact, 20),
        *([Peer("usearch, graph", _usearch_graph, 1000)] if n <= GRAPH_UP_TO else []),
        Peer("LanceDB, IVF_FLAT", _lancedb, 50),
    ]
    absent = missing()
    return [peer for peer in there if peer.name.partition(",")[0].lower() not in absent]


def _usearch(codes: Codes) -> Any:
    from usearch.index import Index

    return Index(ndim=8 * codes.shape[1], metric="hamming", dtype="b1")


def _usearch_exact(codes: Codes, _: str) -> Callable[[Codes], Distances]:
    from usearch.index import search

    def ask(queries: Codes) -> Distances:
        found = search(codes, queries, K, metric="hamming", dtype="b1", exact=True, threads=1)
        return list(np.atleast_2d(found.distances))

    return ask


def _usearch_graph(codes: Codes, _: str) -> Callable[[Codes], Distances]:
    index = _usearch(codes)
    index.add(np.arange(len(codes)), codes)

    def ask(queries: Codes) -> Distances:
        return list(np.atleast_2d(index.search(queries, K, threads=1).distances))

    return ask


def _lancedb(codes: Codes, folder: str) -> Callable[[Codes], Distances]:
    os.environ.setdefault("LANCE_CPU_THREADS", "1")
    import lancedb
    import pyarrow as pa
    from lancedb.index import IvfFlat

    values = pa.FixedSizeListArray.from_arrays(pa.array(codes.ravel()), codes.shape[1])
    table = lancedb.connect(folder).create_table("codes", pa.table({"vector": values}))
    table.create_index("vector", config=IvfFlat(distance_type="hamming"))

    def ask(queries: Codes) -> Distances:
        return [
            np.array([row["_distance"] for row in table.search(query).distance_type("hamming").limit(K).to_list()])
            for query in queries
        ]

    return ask
