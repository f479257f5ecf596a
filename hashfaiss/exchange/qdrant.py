"""Qdrant, which has no Hamming distance: a code is a vector of its bits, 0 or 1, whose Manhattan distances are these.

The collection's metadata has what is said of all rows; the payload has path, labels, and the packed code in
hexadecimal.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hashfaiss.errors import ArgumentError
from hashfaiss.exchange.batches import KEY, About, Batch

TOGETHER = 1024  # points of one request


def write(out: Path | str, about: About, batches: Iterator[Batch], table: str) -> None:
    """Make a collection in the folder `out`, or on the server at this address; "complete" in its metadata comes last.

    Raises:
        ArgumentError: there is such a collection.
    """
    from qdrant_client import QdrantClient, models

    client = QdrantClient(url=out) if isinstance(out, str) else QdrantClient(path=str(out))
    said: dict[str, Any] = json.loads(about.text())
    with contextlib.closing(client):
        if client.collection_exists(table):
            raise ArgumentError(f"there is a collection {table!r} already: give another name, or delete it")
        vectors = models.VectorParams(
            size=about.bits, distance=models.Distance.MANHATTAN, datatype=models.Datatype.UINT8
        )
        client.create_collection(table, vectors_config=vectors, metadata={KEY: {**said, "complete": False}})
        for batch in batches:
            bits = np.unpackbits(batch.codes, axis=1, count=about.bits, bitorder=about.bit_order)
            payloads = list(_payloads(batch))
            for start in range(0, len(bits), TOGETHER):
                part = slice(start, start + TOGETHER)
                points = models.Batch(
                    ids=batch.ids[part].tolist(), vectors=bits[part].astype(float).tolist(), payloads=payloads[part]
                )
                client.upsert(table, points)
        client.update_collection(table, metadata={KEY: {**said, "complete": True}})


def _payloads(batch: Batch) -> Iterator[dict[str, Any]]:
    for code, path, labels, extra in zip(batch.codes, batch.paths, batch.labels, batch.extra(), strict=True):
        shared = dict(zip(("ids",), extra, strict=False))
        yield {"path": path, "labels": labels, "code": code.tobytes().hex(), **shared}
