"""Groups of near codes, against the connected components of all pairs."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hashfaiss.codes import hamming, pack
from hashfaiss.errors import ArgumentError
from hashfaiss.indexes import CodeIndex, near, near_groups


def components(codes, ids, radius):
    """Groups by flooding, from each image in turn."""
    close = hamming(codes, codes) <= radius
    left, groups = set(range(len(codes))), []
    while left:
        group, edge = set(), {min(left)}
        while edge:
            group |= edge
            edge = {other for row in edge for other in np.flatnonzero(close[row]).tolist()} - group
        left -= group
        if len(group) > 1:
            groups.append(sorted(int(ids[row]) for row in group))
    return sorted(groups)


def make(seed, bits, n):
    random = np.random.default_rng(seed)
    centres = random.choice([-1.0, 1.0], (max(1, n // 6), bits))
    values = centres[random.integers(0, len(centres), n)]
    codes = pack(np.where(random.random((n, bits)) < 0.08, -values, values))
    return codes, random.permutation(4 * n)[:n]


@settings(max_examples=120, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    bits=st.sampled_from((5, 16, 64, 100)),
    n=st.sampled_from((0, 1, 2, 50)),
    radius=st.integers(0, 5),
    kind=st.sampled_from(["flat", "hash:b=4,flips=0", "ivf:lists=6,probes=1", "hnsw:m=4,ef=4"]),
    pairs=st.sampled_from((1, 100, 1 << 21)),
)
def test_groups_are_connected_components(seed, bits, n, radius, kind, pairs):
    codes, ids = make(seed, bits, n)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(near, "PAIRS", pairs)
        found = near_groups(CodeIndex(codes, ids, bits, kind), radius)
    groups = [group.tolist() for group, _ in found]
    assert groups == components(codes, ids, radius)
    for group, distances in found:
        rows = [ids.tolist().index(number) for number in group]
        assert distances.tolist() == hamming(codes[rows[:1]], codes[rows])[0].tolist()


@pytest.mark.parametrize("radius", [1, 3, 9])
def test_many_codes_are_compared_by_the_quickest_kind(monkeypatch, radius):
    monkeypatch.setattr(near, "FLAT_UP_TO", 100)
    codes, ids = make(5, 64, 400)
    told = []
    found = near_groups(CodeIndex(codes, ids, 64, "flat"), radius, lambda *at: told.append(at))
    assert [group.tolist() for group, _ in found] == components(codes, ids, radius)
    assert told[-1][0] == told[-1][1] == len(np.unique(codes, axis=0))
    assert [done for done, _ in told] == sorted(done for done, _ in told)


@pytest.mark.parametrize("pairs", [1, 999, 10_000])
def test_no_more_pairs_are_found_at_once_than_memory_is_for(monkeypatch, pairs):
    """All codes are near each other: the worst there is."""
    codes = np.unique(make(7, 12, 500)[0], axis=0)
    index = CodeIndex(codes, np.arange(len(codes)), 12, "flat")
    monkeypatch.setattr(near, "PAIRS", pairs)
    seen = []
    real = CodeIndex.codes_within
    monkeypatch.setattr(CodeIndex, "codes_within", lambda *a, **k: seen.append(real(*a, **k)) or seen[-1])
    ((group, _),) = near_groups(index, 12)
    assert len(group) == len(codes)
    assert max(len(found.positions) for found in seen) <= max(pairs, len(codes))


@pytest.mark.parametrize("radius", [-1, 21, True, "3", 1.5])
def test_a_radius_out_of_range_is_told(radius):
    codes, ids = make(6, 20, 10)
    with pytest.raises(ArgumentError, match=r"radius is .*: give a whole number from 0 to 20"):
        near_groups(CodeIndex(codes, ids, 20, "flat"), radius)


def test_groups_of_images(encoder, photos):
    (photos / "dog/copy.jpg").write_bytes((photos / "cat/2.jpg").read_bytes())
    index = encoder.to_index(photos)
    groups = list(index.duplicates())
    codes, ids = index.store.codes()
    assert [[hit.id for hit in group] for group in groups] == components(codes, ids, 0)
    assert any({os.path.basename(hit.path) for hit in group} >= {"2.jpg", "copy.jpg"} for group in groups)
    assert {hit.distance for group in groups for hit in group} == {0}
    assert len(next(iter(index.duplicates(20)))) == 13
