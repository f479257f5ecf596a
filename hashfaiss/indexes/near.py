"""Groups of near codes: within a radius of each other, of those of another set, or of a reference."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from hashfaiss.codes import words
from hashfaiss.errors import ArgumentError
from hashfaiss.indexes.code_index import CodeIndex
from hashfaiss.indexes.kind import Int32, Int64
from hashfaiss.indexes.snapshot import Snapshot
from hashfaiss.indexes.tuning import FLAT_UP_TO

SAMPLE = 512  # codes with which the quickest kind is found
PAIRS = 1 << 22  # pairs that are to be found together: each takes about 100 bytes for a moment
MOST = 4096  # codes that ask together
SLACK = 4  # a batch may find so many times the pairs that those before let expect
LEAST_B = 8  # bits of a table below which its buckets hold too much
SEED = 1234
LINKS = ("chain", "complete")

Progress = Callable[[int, int], None]
Group = tuple[Int64, Int32]
Mask = npt.NDArray[np.bool_]


def near_groups(
    index: CodeIndex,
    radius: int,
    progress: Progress | None = None,
    link: str = "chain",
    between: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
) -> list[Group]:
    """Ids of images whose codes lie within `radius` of each other.

    Never n x n: each code asks for those within `radius` by the quickest exact way there is, and only who belongs
    together is kept.

    Args:
        progress: called with (distinct codes asked, distinct codes).
        link: "chain" groups images that are near directly or through others (single linkage); "complete" only those of
            which every two are near: the image of the smallest id takes its near ones, the nearest first, as far as
            they are near each other, then the next that is left.
        between: ids of two sets of images: only who is near one of the other set counts, and each group has both.

    Returns:
        groups of two images and more, in order of their smallest id: ids, ascending, and the distance of each code from
        the first.

    Raises:
        ArgumentError: a radius outside 0 to K, an unknown link, ids that are not in the index.
    """
    check_radius(radius, index.bits)
    if link not in LINKS:
        raise ArgumentError(f"link is {link!r}: give {' or '.join(LINKS)}")
    sides = None
    if between is not None:
        one, other = (np.unique(np.asarray(ids, np.int64)) for ids in between)
        index = index.only(np.union1d(one, other))
        sides = tuple(np.isin(index.distinct.ids, ids) for ids in (one, other))
    now = index.now
    of_code = None if sides is None else tuple(np.logical_or.reduceat(side, _heads(now)) for side in sides)
    group = _chained(index, radius, of_code, progress)
    if link == "complete":
        group = _completed(words(now.distinct.codes), group, radius)
    found = _groups(now, group)
    if between is None:
        return found
    return [(ids, near) for ids, near in found if np.isin(ids, one).any() and np.isin(ids, other).any()]


def near_reference(
    index: CodeIndex, radius: int, reference: npt.ArrayLike, progress: Progress | None = None
) -> list[Group]:
    """Of the images beside those of `reference`, which are within `radius` of one of these; each with its nearest.

    Returns:
        groups in order of the reference image: its id, then those of the images near it by (distance, id), and the
        distance of each from it. Of several nearest, the one of smallest id has the image.

    Raises:
        ArgumentError: as `near_groups`.
    """
    check_radius(radius, index.bits)
    ids, wanted = np.sort(index.distinct.ids), np.unique(np.asarray(reference, np.int64))
    others = index.only(np.setdiff1d(ids, wanted, assume_unique=True)).distinct
    kind = "flat" if len(wanted) <= FLAT_UP_TO else "ivf"
    known = CodeIndex(index.reconstruct(wanted), wanted, index.bits, kind)
    nearest, distances = np.full(len(others), -1, np.int64), np.zeros(len(others), np.int32)
    for start in range(0, len(others) if len(wanted) else 0, MOST):
        part = slice(start, start + MOST)
        answers = known.search(others.codes[part], 1, exact=True)
        nearest[part] = np.where(answers.distances <= radius, answers.ids, -1)
        distances[part] = answers.distances
        if progress:
            progress(min(start + MOST, len(others)), len(others))
    code = others.of_code()
    of, near = nearest[code], distances[code]
    order = np.lexsort((others.ids, near, of))[np.count_nonzero(of < 0) :]
    begins = np.flatnonzero(np.diff(of[order], prepend=-1))
    parts = [order[begin:end] for begin, end in pairwise([*begins.tolist(), len(order)])]
    return [
        (np.concatenate([of[part[:1]], others.ids[part]]), np.concatenate([[0], near[part]]).astype(np.int32))
        for part in parts
    ]


def check_radius(radius: int, bits: int) -> None:
    """ArgumentError unless `radius` is a distance between codes of `bits` bits."""
    if isinstance(radius, bool) or not isinstance(radius, (int, np.integer)) or not 0 <= radius <= bits:
        raise ArgumentError(f"radius is {radius!r}: give a whole number from 0 to {bits}")


def _heads(now: Snapshot) -> Int64:
    """Where the ids of each distinct code begin."""
    return np.arange(len(now.distinct)) if now.distinct.starts is None else now.distinct.starts[:-1]


def _chained(index: CodeIndex, radius: int, sides: tuple[Mask, ...] | None, progress: Progress | None) -> Int64:
    """For each distinct code the first that is near it, directly or through others: int64 (distinct,).

    The codes ask in an order by chance, so that how many pairs some of them find tells how many the next will, and
    memory is bounded wherever in the index near ones lie close.
    """
    codes = index.distinct.codes
    n, parent = len(codes), np.arange(len(codes))
    if not radius or n < 2:
        return parent
    order = np.random.default_rng(SEED).permutation(n)
    searcher = _quickest(index, radius, order[:SAMPLE])
    start, step, pairs = 0, max(1, PAIRS // n), 0
    while start < n:
        asking = order[start : start + step]
        found = searcher.codes_within(codes[asking], radius, exact=True)
        rows, positions = np.repeat(asking, np.diff(found.offsets)), found.positions
        kept = positions > rows  # each pair is found from both its ends
        if sides is not None:
            one, other = sides
            kept &= (one[rows] & other[positions]) | (other[rows] & one[positions])
        _unite(parent, rows[kept], positions[kept])
        start, pairs = start + len(asking), pairs + len(positions)
        step = max(1, min(2 * step, MOST, PAIRS * start // (SLACK * pairs)))
        if progress:
            progress(start, n)
    return _roots(parent, np.arange(n))


def _completed(bits: npt.NDArray[np.uint64], group: Int64, radius: int) -> Int64:
    """Groups split into some of which every two are near: for each distinct code the first of its own."""
    split = np.arange(len(group))
    order = np.argsort(group, kind="stable")
    begins = np.flatnonzero(np.diff(group[order], prepend=-1))
    for members in np.split(order, begins[1:]) if len(order) else []:
        left = members
        while len(left) > 1:
            near = np.bitwise_count(bits[left] ^ bits[left[0]]).sum(axis=1, dtype=np.int32)
            close = np.flatnonzero(near <= radius)
            taken, waiting = [left[0]], left[close[np.lexsort((left[close], near[close]))]][1:]
            while len(waiting):
                taken.append(waiting[0])
                fits = np.bitwise_count(bits[waiting] ^ bits[waiting[0]]).sum(axis=1, dtype=np.int32) <= radius
                waiting = waiting[1:][fits[1:]]
            split[taken] = left[0]
            left = left[split[left] != left[0]]
    return split


def _groups(now: Snapshot, group: Int64) -> list[Group]:
    """Images by the group of their code, those of two and more."""
    distinct = now.distinct
    code = distinct.of_code()
    root = group[code]
    order = np.lexsort((distinct.ids, root))
    begins = np.flatnonzero(np.diff(root[order], prepend=-1))
    sizes = np.diff(np.append(begins, len(order)))
    bits = words(distinct.codes)[code[order]]
    distances = np.bitwise_count(bits ^ np.repeat(bits[begins], sizes, axis=0)).sum(axis=1, dtype=np.int32)
    ids = distinct.ids[order]
    several = np.flatnonzero(sizes > 1)
    parts = [slice(begins[group], begins[group] + sizes[group]) for group in several[np.argsort(ids[begins[several]])]]
    return [(ids[part], distances[part]) for part in parts]


def _quickest(index: CodeIndex, radius: int, sample: Int64) -> CodeIndex:
    """The index itself, or the same codes in a kind that takes less for all of them."""
    distinct, bits = index.distinct, index.bits
    if len(distinct) <= FLAT_UP_TO:
        return index
    tables = radius + 1  # two codes that differ in `radius` bits agree in one of these tables (pigeonhole)
    kinds = ["ivf"]
    if bits // tables >= LEAST_B:
        kinds.append(f"multihash:tables={tables},b={min(32, bits // tables)},flips=0")
    few = index.codes_within(distinct.codes[sample[: max(1, PAIRS // len(distinct))]], radius, exact=True)
    most = PAIRS * len(few.complete) // (SLACK * max(1, len(few.positions)))  # codes that find so many pairs
    asked = distinct.codes[sample[: max(1, most)]]
    positions = np.arange(len(distinct))
    best, least = index, _seconds(index, asked, radius)
    for kind in kinds:
        made = CodeIndex(distinct.codes, positions, bits, kind)
        seconds = _seconds(made, asked, radius)
        if seconds < least:
            best, least = made, seconds
    return best


def _seconds(index: CodeIndex, asked: np.ndarray, radius: int) -> float:
    """What the codes take to ask, once the index has measured what it does when it is first asked."""
    index.codes_within(asked[:1], radius, exact=True)
    started = time.perf_counter()
    index.codes_within(asked, radius, exact=True)
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
