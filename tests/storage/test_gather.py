"""Gathering rewrites what is small and changes nothing that is stored."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_store import content, fill

from hashfaiss.storage import store as store_module
from hashfaiss.storage.store import CodeStore


def test_what_came_last_is_gathered_and_large_segments_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "MANY_SEGMENTS", 4)
    monkeypatch.setattr(store_module, "SEGMENT_ROWS", 1600)  # below 100 rows a segment is small
    store = CodeStore.create(tmp_path / "x", 20)
    fill(store, 150, 0)
    large = store.manifest["segments"][0]
    for seed in range(1, 12):
        fill(store, 2, seed, remove=[seed, 149 + seed])  # of the large segment, and of those that come after it
        before = content(store)
        with store.writing() as writer:
            writer.gather()
        assert store.manifest["segments"][0] == large
        assert len(store.manifest["segments"]) <= 4
        assert content(store) == content(CodeStore.open(tmp_path / "x")) == before
    for seed in range(6):
        fill(store, 0, seed, remove=[20 + seed])
    before = content(store)
    with store.writing() as writer:
        writer.gather()
    assert [entry["removed"] for entry in store.manifest["segments"][1:]] == [17]
    assert content(store) == content(CodeStore.open(tmp_path / "x")) == before


steps = st.lists(st.tuples(st.integers(0, 5), st.lists(st.integers(0, 60), max_size=4)), max_size=12)


@given(steps, st.sampled_from([1, 2, 4]), st.sampled_from([3, 20, 64, 1600]))
@settings(deadline=None, max_examples=60)
def test_gathering_now_and_then_changes_nothing(steps, many, rows):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_module, "MANY_SEGMENTS", many)
        patch.setattr(store_module, "SEGMENT_ROWS", rows)
        gathered, plain, there = CodeStore.create(None, 20), CodeStore.create(None, 20), 0
        for seed, (n, remove) in enumerate(steps):
            gone = [image for image in remove if image < there]
            for store in (gathered, plain):
                fill(store, n, seed, gone)
            there += n
            with gathered.writing() as writer:
                writer.gather()
            assert content(gathered) == content(plain)
