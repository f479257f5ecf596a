"""Paths found by digest, by folder and by pattern, many at once: as a loop over them would."""

from __future__ import annotations

import fnmatch
import io
import os
import re

import h5py
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hashfaiss.errors import CorruptIndexError
from hashfaiss.storage import paths as paths_module
from hashfaiss.storage import segments
from hashfaiss.storage.paths import Paths, full_path, path_index, stored_path
from hashfaiss.storage.patterns import Patterns
from hashfaiss.storage.segments import Row, Segment, encode_segment
from hashfaiss.storage.store import CodeStore

letters = st.text("ab/.[]!*?\n-é猫\udcff", max_size=7)
bases = st.sampled_from([None, "/", "/a", "/a/b", "/b/é", "/a b/猫"])


def together(stored):
    return Paths(np.frombuffer(b"".join(stored), np.uint8), np.cumsum([0, *map(len, stored)]))


def kept(names, base):
    """Absolute paths of these names, as they are stored; None is an image from memory."""
    return [b"" if name is None else stored_path("/" + name.lstrip("/"), base) for name in names]


def by_fnmatch(pattern, path):
    anywhere = "" if pattern.startswith("/") else "(?:.*/)?"
    expression = re.compile(anywhere + fnmatch.translate(pattern.removeprefix("./")), re.DOTALL)
    return path is not None and expression.fullmatch(path) is not None


@given(st.lists(letters, min_size=1, max_size=3), st.lists(st.none() | letters, max_size=8), bases)
@example(["a*", "[!a]*"], ["a", "b/a", None], "/a")
@example(["./[]]", "[", "[a", "[!]", "[b-a]"], ["]", "[", "[a", "[!]"], None)
@example(["*ab*ab"], ["abab", "aab", "ab", "abaab"], "/ab/ab")
@example([""], ["", "a/"], "/")
@example(["????*"], ["??"], None)
@settings(deadline=None, max_examples=500)
def test_patterns_match_what_fnmatch_matches(patterns, names, base):
    stored = kept(names, base)
    paths = [full_path(each, base) for each in stored]
    expected = [any(by_fnmatch(pattern, path) for pattern in patterns) for path in paths]
    assert Patterns(patterns, base).match(together(stored)).tolist() == expected


@given(st.lists(st.none() | letters, max_size=8), letters, bases)
@settings(deadline=None, max_examples=300)
def test_below_is_what_begins_with_the_folder(names, folder, base):
    stored, folder = kept(names, base), os.path.abspath("/" + folder.replace("\0", ""))
    paths = [full_path(each, base) for each in stored]
    expected = [path is not None and path.startswith(folder.rstrip("/") + "/") for path in paths]
    assert together(stored).below(folder, base).tolist() == expected


def store_of(parts, removed):
    """A store in memory of a segment for each list of paths; the ids in `removed` are taken out last."""
    store = CodeStore.create(None, 8)
    with store.writing() as writer:
        for part in parts:
            rows = [
                Row(path, at, -at, bytes([at % 2] * 16), ("x",) * (at % 3), at + 1, at + 2)
                for at, path in enumerate(part)
            ]
            writer.append(np.arange(len(part), dtype=np.uint8)[:, None], rows)
            writer.commit()
        writer.remove(sorted(removed))
        writer.commit()
    return store


few_paths = st.lists(st.sampled_from([b"", b"a", b"b", b"c/d", b"\xff", b"e", b"f", b"g"]), max_size=6)


@given(st.lists(few_paths, max_size=4), st.sets(st.integers(0, 8)), st.booleans(), st.sampled_from([1, 2, 65536]))
@settings(deadline=None, max_examples=150)
def test_places_are_those_of_a_loop(parts, removed, alike, chunk):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segments, "CHUNK_ROWS", chunk)
        if alike:  # all digests begin alike
            patch.setattr(paths_module, "path_key", lambda path: bytes(8) + path.ljust(8, b"."))
            patch.setattr("hashfaiss.storage.places.path_key", paths_module.path_key)
        store = store_of(parts, removed)
        places, rows = store.places(), dict(store.rows())
        assert places.ids.tolist() == list(rows)
        assert [store.row(image) for image in rows] == list(rows.values())
        asked = [b"a", b"b", b"c/d", b"\xff", b"e", b"f", b"g", b"h", b"zzz"]
        every = [[image for image, row in rows.items() if row.path == path] for path in asked]
        assert [places.ids[places.at(path)].tolist() for path in asked] == every
        first = places.first_at(asked)
        assert [places.ids[at] if at >= 0 else None for at in first] == [ids[0] if ids else None for ids in every]
        there = first[first >= 0]
        held = [rows[image] for image in places.ids[there].tolist()]
        assert [places.labels(at) for at in there.tolist()] == [row.labels for row in held]
        assert [places.row(at) for at in there.tolist()] == held
        assert [places.code(at).tolist() for at in there.tolist()] == [[row.size] for row in held]
        states, labels = np.array([row.state for row in held]).reshape(-1, 4), [row.labels for row in held]
        assert places.unchanged(there, states.tolist(), labels).all()
        assert not places.unchanged(there, states.tolist(), [(*each, "y") for each in labels]).any()
        for column in range(4):
            changed = states.copy()
            changed[:, column] += 1
            unknown = (states[:, column] == 0) & (column > 0)  # what is not stored is not compared
            assert places.unchanged(there, changed.tolist(), labels).tolist() == unknown.tolist()
        for digest in (bytes(16), bytes([1] * 16), bytes([2] * 16)):
            assert sorted(places.ids[places.with_digest(digest)]) == [
                i for i, row in rows.items() if row.digest == digest
            ]
        assert [size for size in range(9) if places.has_size(size)] == sorted({row.size for row in rows.values()})


def without_keys(data):
    """The bytes of a segment as earlier versions wrote it."""
    buffer = io.BytesIO(data)
    with h5py.File(buffer, "r+") as file:
        del file["path_key"], file["path_row"], file["ctime_ns"], file["inode"]
    return buffer.getvalue()


def test_segments_of_earlier_versions_are_found_in_too(monkeypatch):
    monkeypatch.setattr(segments, "CHUNK_ROWS", 4)
    rows = [Row(b"" if at % 5 == 0 else b"%d.jpg" % at, at, at, bytes(16), ()) for at in range(23)]
    data = encode_segment(np.zeros((23, 1), np.uint8), np.arange(23), rows, np.empty(0, np.int64), 8, {})
    new, old = Segment(data, 8), Segment(without_keys(data), 8)
    for keys, expected in zip(old.path_index(), new.path_index(), strict=True):
        assert (keys.tolist(), keys.dtype) == (expected.tolist(), expected.dtype)
    keys, where = new.path_index()
    assert [tuple(key) for key in keys.tolist()] == sorted(map(tuple, keys.tolist()))
    assert sorted(where.tolist()) == [at for at in range(23) if at % 5]
    chosen = np.arange(23) % 7 == 6
    assert list(old.rows(chosen)) == [(at, rows[at]) for at in (6, 13, 20)]
    assert [part for part, _ in old.paths(np.arange(23) == 9)] == [slice(8, 12)]


def test_rows_of_keys_that_cannot_be_are_told():
    data = encode_segment(
        np.zeros((2, 1), np.uint8), np.arange(2), [Row(b"a", 0, 0, bytes(16), ())] * 2, np.empty(0, np.int64), 8, {}
    )
    buffer = io.BytesIO(data)
    with h5py.File(buffer, "r+") as file:
        file["path_row"][1] = 2
    with pytest.raises(CorruptIndexError, match="keys of paths"):
        Segment(buffer.getvalue(), 8).path_index()


def test_many_rows_are_read_as_few_are(monkeypatch):
    rows = [Row(b"%d" % at, at, -at, at.to_bytes(16, "big"), (str(at % 4),) * (at % 3)) for at in range(20)]
    data = encode_segment(np.zeros((20, 1), np.uint8), np.arange(20), rows, np.empty(0, np.int64), 8, {})
    monkeypatch.setattr(segments, "FEW_ROWS", 5)
    segment = Segment(data, 8)
    assert [segment.row(at) for at in range(20)] == rows
    segment.forget()
    assert segment.row(7) == rows[7]
    assert path_index([])[0].shape == (0, 2)
