"""Codes to search: drawn round class centres, as trained hashes lie, at random, or learned ones of an index."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hashfaiss.codes import Codes
from hashfaiss.errors import ArgumentError
from hashfaiss.storage.store import CodeStore

CENTRES = 100
ROWS = 1 << 18  # codes drawn at once
QUERIES = 1000
K = 10  # nearest codes that are asked for


@dataclass(frozen=True)
class Case:
    """Codes and queries of one distribution.

    Attributes:
        name: for people.
        bits: K.
        codes, queries: uint8 (n, ceil(K/8)); no query is among the codes but by chance.
    """

    name: str
    bits: int
    codes: Codes
    queries: Codes


def drawn(n: int, flip: float, bits: int = 64, seed: int = 0) -> Case:
    """Codes round 100 centres, each bit flipped with probability `flip`; one half is no structure at all."""
    if not 0 <= flip <= 0.5:
        raise ArgumentError(f"flip is {flip}: give a probability from 0 to 0.5")
    if n < K:
        raise ArgumentError(f"size is {n}: give {K} or more codes, of which the nearest {K} are asked for")
    random = np.random.default_rng(seed)
    centres = random.integers(0, 2, (CENTRES, bits), dtype=np.uint8)
    codes = np.empty((n + QUERIES, (bits + 7) // 8), np.uint8)
    for start in range(0, len(codes), ROWS):
        count = min(ROWS, len(codes) - start)
        values = centres[random.integers(0, CENTRES, count)] ^ (random.random((count, bits), dtype=np.float32) < flip)
        codes[start : start + count] = np.packbits(values, axis=1, bitorder="little")
    name = "random" if flip == 0.5 else f"100 centres, p = {flip:g}"
    return Case(f"{name}, {n:,} codes", bits, codes[:n], codes[n:])


def learned(index: Path, seed: int = 0) -> Case:
    """The codes of an index; some of its images are taken out of it, to ask with."""
    store = CodeStore.open(index)
    codes, _ = store.codes()
    if len(codes) < 2 * QUERIES:
        raise ArgumentError(f"the index {str(index)!r} has {len(codes):,} codes: give one of {2 * QUERIES:,} or more")
    asked = np.zeros(len(codes), np.bool_)
    asked[np.random.default_rng(seed).choice(len(codes), QUERIES, replace=False)] = True
    name = f"learned ({store.bits} bits), {len(codes) - QUERIES:,} codes"
    return Case(name, store.bits, codes[~asked], codes[asked])
