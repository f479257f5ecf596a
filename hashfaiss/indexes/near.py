"""Groups of near codes: which lie within a radius of each other, directly or through others."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from hashfaiss.codes import words
from hashfaiss.errors import ArgumentError
from hashfaiss.indexes.code_index import CodeIndex
from hashfaiss.indexes.kind import Int32, Int64
from hashfaiss.indexes.tuning import FLAT_UP_TO

SAMPLE = 64  # codes with which the quickest kind is found
PAIRS = 1 << 23  # pairs that may be found together, at most: about 1 GB where all codes are near, which is rare
LEAST_B = 8  # bits of a table below which its buckets hold too much


def near_groups(
    index: CodeIndex, radius: int, progress: Callable[[int, int], None] | None = None
) -> list[tuple[Int64, Int32]]:
    """Ids of images whose codes lie within `radius` of each other, directly or through other images (single linkage).

    Never n x n: each code asks for those within `radius` by the quickest exact way there is, and only who belongs
    together is kept.

    Args:
        progress: called with (distinct codes asked, distinct codes).

    Returns:
        groups of two images and more, in order of their smallest id: ids, ascending, and the distance of each code from
        the first.
    """
    if isinstance(radius, bool) or not isinstance(radius, (int, np.integer)) or not 0 <= radius <= index.bits:
        raise ArgumentError(f"radius is {radius!r}: give a whole number from 0 to {index.bits}")
    distinct = index.distinct
    n = len(distinct)
    parent = np.arange(n)
    if radius and n > 1:
        searcher = _quickest(index, radius)
        step = max(1, PAIRS // n)
        for start in range(0, n, step):
            found = searcher.codes_within(distinct.codes[start : start + step], radius, exact=True)
            rows = start + np.repeat(np.arange(len(found.complete)), np.diff(found.offsets))
            _unite(parent, rows, found.positions)
            if progress:
                progress(start + len(found.complete), n)
    code = distinct.of_code()
    root = _roots(parent, np.arange(n))[code]
    order = np.lexsort((distinct.ids, root))
    begins = np.flatnonzero(np.concatenate([np.ones(min(1, len(order)), np.bool_), np.diff(root[order]) > 0]))
    sizes = np.diff(np.append(begins, len(order)))
    bits = words(distinct.codes)[code[order]]
    distances = np.bitwise_count(bits ^ np.repeat(bits[begins], sizes, axis=0)).sum(axis=1, dtype=np.int32)
    ids = distinct.ids[order]
    several = np.flatnonzero(sizes > 1)
    parts = [slice(begins[group], begins[group] + sizes[group]) for group in several[np.argsort(ids[begins[several]])]]
    return [(ids[part], distances[part]) for part in parts]


def _quickest(index: CodeIndex, radius: int) -> CodeIndex:
    """The index itself, or the same codes in a kind that takes less for all of them."""
    distinct, bits = index.distinct, index.bits
    if len(distinct) <= FLAT_UP_TO:
        return index
    tables = radius + 1  # two codes that differ in `radius` bits agree in one of these tables (pigeonhole)
    kinds = ["ivf"]
    if bits // tables >= LEAST_B:
        kinds.append(f"multihash:tables={tables},b={min(32, bits // tables)},flips=0")
    count = max(1, min(SAMPLE, PAIRS // len(distinct)))
    sample = distinct.codes[:: len(distinct) // count][:count]
    positions = np.arange(len(distinct))
    best, least = index, _seconds(index, sample, radius)
    for kind in kinds:
        made = CodeIndex(distinct.codes, positions, bits, kind)
        seconds = _seconds(made, sample, radius)
        if seconds < least:
            best, least = made, seconds
    return best


def _seconds(index: CodeIndex, sample: np.ndarray, radius: int) -> float:
    started = time.perf_counter()
    index.codes_within(sample, radius, exact=True)
    return time.perf_counter() - started


def _roots(parent: Int64, nodes: Int64) -> Int64:
    found = parent[nodes]
    while (parent[found] != found).any():
        found = parent[found]
    parent[nodes] = found  # shorter ways the next time
    return found


def _unite(parent: Int64, one: Int64, other: Int64) -> None:
    """Make pairs of nodes members of one tree; its root is its least node."""
    from scipy.sparse import coo_array  # takes 0.3 s, which no search needs
    from scipy.sparse.csgraph import connected_components

    a, b = _roots(parent, one), _roots(parent, other)
    apart = a != b
    if not apart.any():
        return
    nodes, numbers = np.unique(np.concatenate([a[apart], b[apart]]), return_inverse=True)
    rows, columns = np.split(numbers, 2)
    graph = coo_array((np.ones(len(rows), np.bool_), (rows, columns)), shape=(len(nodes), len(nodes)))
    _, component = connected_components(graph, directed=False)
    _, first = np.unique(component, return_index=True)  # nodes ascend: the first of a component is its least
    parent[nodes] = nodes[first][component]
