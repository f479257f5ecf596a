"""FAISS's part of an index in which somebody changed bytes, digest and all: refused, or answered rightly."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from test_index_kinds import make

from hashfaiss.errors import CorruptIndexError
from hashfaiss.indexes import CodeIndex
from hashfaiss.indexes.saved import ALIGN, MAGIC, join_arrays, split_arrays

KINDS = ["flat", "hash:b=6,flips=1", "multihash:tables=2,b=6,flips=1", "ivf:lists=8,probes=2", "hnsw:m=4,ef=8"]
EXTREME = [-1, 0, 1, 7, 1 << 20, 1 << 31, 1 << 40, (1 << 63) - 1, -(1 << 63)]


def of_kind(kind):
    """Codes, some of them repeated, and what is kept of an index over them."""
    codes, ids, queries = make(3, 32, 90, 6, "clustered")
    codes[60:] = codes[:30]
    return codes, ids, queries, CodeIndex(codes, ids, 32, kind)


def changed(data, random):
    """Bytes with one thing in them changed: a bit, a number, some bytes swapped, or their end."""
    data = bytearray(data)
    at, how = int(random.integers(len(data))), random.integers(8)
    if how < 3:
        data[at] ^= 1 << int(random.integers(8))
    elif how < 5:
        at -= at % 4
        data[at : at + 8] = int(random.choice(EXTREME)).to_bytes(8, "little", signed=True)
    elif how == 5:
        other = int(random.integers(len(data)))
        data[at : at + 8], data[other : other + 8] = data[other : other + 8], data[at : at + 8]
    elif how == 6:
        del data[at:]
    else:
        data[at:at] = bytes(8)
    return bytes(data)


def asked(index, queries):
    """Ids and distances, in order, of what is certified."""
    nearest, within = index.search(queries, 5, exact=True), index.within(queries, 6, exact=True)
    few = index.search(queries, 5)
    assert nearest.exact.all()
    assert within.exact.all()
    return (
        [(a.tolist(), b.tolist()) for a, b in nearest],
        [(a.tolist(), b.tolist()) for a, b in within],
        [(a.tolist(), b.tolist()) if sure else None for (a, b), sure in zip(few, few.exact, strict=True)],
    )


def try_changes(kind, which, count, seed=0):
    codes, ids, queries, made = of_kind(kind)
    exact = asked(CodeIndex(codes, ids, 32, "flat"), queries)
    data, random, told = made.dump(), np.random.default_rng(seed), Counter()
    for _ in range(count):
        if which == "whole":
            altered = changed(data, random)
        else:
            arrays = {name: value.copy() for name, value in split_arrays(np.frombuffer(data, np.uint8)).items()}
            name = str(random.choice([name for name in arrays if arrays[name].size])) if which == "arrays" else "faiss"
            value = arrays[name]
            given = changed(value.tobytes(), random)
            given = given[: len(given) // value.itemsize * value.itemsize]
            arrays[name] = np.frombuffer(given, value.dtype)
            if arrays[name].size == value.size:
                arrays[name] = arrays[name].reshape(value.shape)
            altered = join_arrays(arrays)
        if altered == data:
            continue
        try:
            index = CodeIndex.restore(altered, codes, ids, 32, str(made.kind))
        except CorruptIndexError:
            told["refused"] += 1
            continue
        found = asked(index, queries)
        assert found[:2] == exact[:2]
        assert all(one is None or one == right for one, right in zip(found[2], exact[2], strict=True))
        told["answered"] += 1
    return told


@pytest.mark.parametrize("which", ["faiss", "arrays", "whole"])
@pytest.mark.parametrize("kind", KINDS)
def test_changed_bytes_are_refused_or_do_not_matter(kind, which):
    told = try_changes(kind, which, 400)
    assert told["refused"] > 150


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_changed_bytes_are_refused_or_do_not_matter(kind):
    told = sum((try_changes(kind, which, 3_000, 1) for which in ("faiss", "arrays", "whole")), Counter())
    print(f"{kind}: {told.total():,} changed files, {told['refused']:,} refused")
    assert told["refused"] > 3_000


@pytest.mark.parametrize(
    "about", [b"[" * 100_000, b'[["ids", "<i8", [1e999]]]', b'[["ids", "O", [3]]]', b"[[1, 2, 3]]", b"7"]
)
def test_a_header_that_is_none_is_refused(about):
    data = np.frombuffer(MAGIC + len(about).to_bytes(8, "little") + about + bytes(ALIGN), np.uint8)
    with pytest.raises(CorruptIndexError, match="not one of hashfaiss"):
        split_arrays(data)


def test_a_file_that_says_it_is_of_more_ids_than_there_is_memory_for_is_refused():
    codes, _, _ = make(0, 16, 10, 1, "random")
    arrays = dict(split_arrays(np.frombuffer(CodeIndex(codes, np.arange(10), 16, "flat").dump(), np.uint8)))
    assert json.dumps(arrays["runs"].tolist()) == "[[0], [10]]"
    arrays["runs"] = np.array([[0], [1 << 40]])
    with pytest.raises(CorruptIndexError):
        CodeIndex.restore(join_arrays(arrays), codes, np.arange(10), 16, "flat")
