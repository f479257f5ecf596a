"""Groups of near codes, against the connected components of all pairs."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hashfaiss.codes import hamming, pack
from hashfaiss.errors import ArgumentError
from hashfaiss.indexes import CodeIndex, near, near_groups, near_reference


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


def complete(codes, ids, radius):
    """Of each component, who is left of the smallest id takes the nearest that fit, one after another."""
    order = np.argsort(ids)
    codes, ids, groups = codes[order], ids[order], []
    apart = hamming(codes, codes).astype(int)
    name = {number: row for row, number in enumerate(ids.tolist())}
    first = [min(name[int(i)] for i in ids[apart[row] == 0]) for row in range(len(ids))]  # of equal codes
    for group in components(codes, ids, radius):
        left = [name[number] for number in group]
        while left:
            taken = [left[0]]
            for row in sorted(left[1:], key=lambda row: (apart[taken[0], row], first[row])):
                if all(apart[row, other] <= radius for other in taken):
                    taken.append(row)
            left = [row for row in left if row not in taken]
            if len(taken) > 1:
                groups.append(sorted(int(ids[row]) for row in taken))
    return sorted(groups)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    bits=st.sampled_from((5, 16, 64)),
    n=st.sampled_from((0, 2, 50)),
    radius=st.integers(0, 5),
)
def test_complete_groups_by_a_plain_loop(seed, bits, n, radius):
    codes, ids = make(seed, bits, n)
    found = near_groups(CodeIndex(codes, ids, bits, "flat"), radius, link="complete")
    assert [group.tolist() for group, _ in found] == complete(codes, ids, radius)
    for group, _ in found:
        rows = [ids.tolist().index(number) for number in group]
        assert hamming(codes[rows], codes[rows]).max() <= radius


def test_a_chain_is_as_long_as_it_is_and_a_complete_group_is_not():
    codes = pack(np.where(np.arange(64) < np.arange(64)[:, None], 1.0, -1.0))  # each a bit further than the last
    index = CodeIndex(codes, kind="flat")
    ((chain, distances),) = near_groups(index, 1)
    assert (len(chain), distances.max()) == (64, 63)
    pairs = near_groups(index, 1, link="complete")
    assert [group.tolist() for group, _ in pairs] == [[row, row + 1] for row in range(0, 64, 2)]


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    n=st.sampled_from((2, 10, 60)),
    radius=st.integers(0, 5),
    kind=st.sampled_from(["flat", "ivf:lists=6,probes=1"]),
)
def test_between_two_sets_only_what_is_near_across_counts(seed, n, radius, kind):
    codes, ids = make(seed, 16, n)
    side = np.random.default_rng(seed).integers(0, 3, n)  # neither, one, the other
    found = near_groups(CodeIndex(codes, ids, 16, kind), radius, between=(ids[side == 1], ids[side == 2]))
    rows = np.flatnonzero(side)
    near = (hamming(codes, codes) <= radius) & (side[:, None] + side[None] == 3) & (side[:, None] != side[None])
    same = hamming(codes, codes) == 0
    left, groups = set(rows.tolist()), []
    while left:
        group, edge = set(), {min(left)}
        while edge:
            group |= edge
            linked = [np.flatnonzero(near[row] | (same[row] & (side > 0))).tolist() for row in edge]
            edge = {other for some in linked for other in some} - group
        left -= group
        if {side[row] for row in group} == {1, 2}:
            groups.append(sorted(int(ids[row]) for row in group))
    assert [group.tolist() for group, _ in found] == sorted(groups)
    for group, _ in near_groups(CodeIndex(codes, ids, 16, kind), radius, None, "complete", (ids[side == 1], ids)):
        rows = np.flatnonzero(np.isin(ids, group))
        assert hamming(codes[rows], codes[rows]).max() <= radius
        assert (side[rows] == 1).any()


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    n=st.sampled_from((1, 10, 60)),
    radius=st.integers(0, 6),
    kind=st.sampled_from(["flat", "hash:b=4,flips=0"]),
)
def test_each_image_is_with_its_nearest_reference(seed, n, radius, kind):
    codes, ids = make(seed, 16, n)
    known = np.random.default_rng(seed).random(n) < 0.4
    found = near_reference(CodeIndex(codes, ids, 16, kind), radius, ids[known])
    groups = {}
    for row in np.flatnonzero(~known).tolist():
        pairs = [(int(hamming(codes[[row]], codes[[r]])[0, 0]), int(ids[r])) for r in np.flatnonzero(known)]
        if pairs and min(pairs)[0] <= radius:
            groups.setdefault(min(pairs)[1], []).append((min(pairs)[0], int(ids[row])))
    expected = [([name, *(i for _, i in sorted(groups[name]))], [0, *(d for d, _ in sorted(groups[name]))])
                for name in sorted(groups)]  # fmt: skip
    assert [(group.tolist(), near.tolist()) for group, near in found] == expected


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
    index = CodeIndex(codes, ids, 20, "flat")
    with pytest.raises(ArgumentError, match=r"radius is .*: give a whole number from 0 to 20"):
        near_groups(index, radius)
    with pytest.raises(ArgumentError, match=r"radius is .*: give a whole number from 0 to 20"):
        near_reference(index, radius, ids[:3])
    with pytest.raises(ArgumentError, match="link is 'single': give chain or complete"):
        near_groups(index, 1, link="single")
    with pytest.raises(ArgumentError, match="no id 1000000"):
        near_groups(index, 1, between=(ids[:2], [10**6]))


def test_groups_of_images(encoder, photos):
    (photos / "dog/copy.jpg").write_bytes((photos / "cat/2.jpg").read_bytes())
    index = encoder.to_index(photos)
    groups = list(index.duplicates())
    codes, ids = index.store.codes()
    assert [[hit.id for hit in group] for group in groups] == components(codes, ids, 0)
    assert any({os.path.basename(hit.path) for hit in group} >= {"2.jpg", "copy.jpg"} for group in groups)
    assert {hit.distance for group in groups for hit in group} == {0}
    assert len(next(iter(index.duplicates(20)))) == 13
