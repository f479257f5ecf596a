"""Centroids of codes, by k-means in Hamming space: the mean of codes is what the majority of them has, bit by bit."""

from __future__ import annotations

import faiss
import numpy as np

from hashfaiss.codes import Codes
from hashfaiss.indexes import kernels
from hashfaiss.indexes.kind import Int32, Int64

TRAINED_ON = 64  # codes for each centroid
ROUNDS = 10
SEED = 1234
WORK_PER_CALL = 1 << 28  # comparisons in one call, which cannot be interrupted
BITS_AT_ONCE = 1 << 24  # bits that are counted in one step, a byte each


def centroids_of(codes: Codes, count: int) -> Codes:
    """`count` centroids of `codes` (n, bytes), the same whoever computes them: uint8 (count, bytes); count <= n."""
    random = np.random.default_rng(SEED)
    if len(codes) > TRAINED_ON * count:
        codes = codes[np.sort(random.choice(len(codes), TRAINED_ON * count, replace=False))]
    found = codes[np.sort(random.choice(len(codes), count, replace=False))]
    before = np.full(len(codes), -1)
    for _ in range(ROUNDS):
        _, numbers = nearest_centroids(codes, found)
        if np.array_equal(numbers, before):
            break
        before = numbers
        sizes = np.bincount(numbers, minlength=count)
        found = _majorities(codes[np.argsort(numbers, kind="stable")], sizes)
        empty = np.flatnonzero(sizes == 0)
        found[empty] = codes[random.choice(len(codes), len(empty), replace=False)]
    return found


def nearest_centroids(codes: Codes, centroids: Codes) -> tuple[Int32, Int32]:
    """Each code's distance from its nearest centroid, and that one's number, the first of equals: int32 (n,)."""
    threads, step = faiss.omp_get_max_threads(), max(1, WORK_PER_CALL // len(centroids))
    flat = faiss.IndexBinaryFlat(8 * codes.shape[1])
    if not kernels.available():
        flat.add(centroids)
    distances, numbers = np.empty(len(codes), np.int32), np.empty(len(codes), np.int32)
    for start in range(0, len(codes), step):
        part = slice(start, start + step)
        if kernels.available():
            distances[part], numbers[part] = kernels.assign(codes[part], centroids, threads)
        else:
            near, positions = flat.search(codes[part], 1)
            distances[part], numbers[part] = near[:, 0], positions[:, 0]
    return distances, numbers


def _majorities(codes: Codes, sizes: Int64) -> Codes:
    """What most codes of each group have; the first sizes[0] of `codes` are group 0, and so on. A tie is no bit."""
    ends = sizes.cumsum()
    found = np.empty((len(sizes), codes.shape[1]), np.uint8)
    step = max(1, BITS_AT_ONCE * len(sizes) // (8 * codes.size))
    for start in range(0, len(sizes), step):
        part = sizes[start : start + step]
        first, last = ends[start] - sizes[start], ends[min(start + step, len(sizes)) - 1]
        bits = np.unpackbits(codes[first:last], axis=1, bitorder="little")
        there = np.flatnonzero(part)
        ones = np.zeros((len(part), bits.shape[1]), np.int64)
        ones[there] = np.add.reduceat(bits, (part.cumsum() - part)[there], axis=0, dtype=np.int64)
        found[start : start + step] = np.packbits(2 * ones > part[:, None], axis=1, bitorder="little")
    return found
