"""CodeStore: what is committed is read back, whatever happens to the process, the disk or a byte."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hashfaiss.codes import pack
from hashfaiss.errors import ArgumentError, CorruptIndexError, IndexFolderError, IndexLockedError
from hashfaiss.storage import store as store_module
from hashfaiss.storage.paths import full_path, stored_path
from hashfaiss.storage.segments import Row, Segment, encode_segment
from hashfaiss.storage.store import CodeStore

AWKWARD = [
    b"a/b.jpg",
    b"two\nlines.png",
    b"\xff\xfe not text.jpg",
    "ж/猫.png".encode(),
    b"",
    b" ",
    b"x" * 4000,
    b"/abs/c.gif",
]
NAMES = ((), ("cat",), ("cat", "dog"), ("", "ё", "sur\udcffrogate"), tuple(f"label {i}" for i in range(300)))


def some(n, seed=0, bits=20):
    random = np.random.default_rng(seed)
    rows = [
        Row(
            (AWKWARD[i] if i < len(AWKWARD) else b"%d/%d.jpg" % (seed, i)),
            int(random.integers(0, 2**62)),
            int(random.integers(-(2**62), 2**62)),
            random.bytes(16),
            NAMES[i % len(NAMES)],
        )
        for i in range(n)
    ]
    return pack(random.standard_normal((n, bits))), rows


def fill(store, n, seed=0, remove=()):
    codes, rows = some(n, seed, store.bits)
    with store.writing() as writer:
        writer.append(codes, rows)
        writer.remove(remove)
        writer.commit()
    return codes, rows


def content(store):
    codes, ids = store.codes()
    return [(image, code.tobytes(), row) for (image, row), code in zip(store.rows(), codes, strict=True)], ids.tolist()


@pytest.mark.parametrize("where", ["folder", "memory"])
def test_every_column_comes_back(tmp_path, where):
    store = CodeStore.create(tmp_path / "x" if where == "folder" else None, 20, note="kept")
    assert (len(store), content(store)) == (0, ([], []))
    codes, rows = fill(store, 17)
    for seen in [store] + ([CodeStore.open(tmp_path / "x")] if where == "folder" else []):
        got_codes, ids = seen.codes()
        np.testing.assert_array_equal(got_codes, codes)
        assert ids.tolist() == list(range(17))
        assert list(seen.rows()) == list(enumerate(rows))
        assert [seen.row(i) for i in range(17)] == rows
        assert (len(seen), seen.manifest["note"], seen.manifest["generation"]) == (17, "kept", 1)
        assert all(trouble is None for _, trouble in seen.verify())
        with pytest.raises(KeyError):
            seen.row(17)


rows_given = st.builds(
    Row,
    st.binary(max_size=20),
    st.integers(0, 2**63 - 1),
    st.integers(-(2**63), 2**63 - 1),
    st.binary(min_size=16, max_size=16),
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=4), max_size=3).map(tuple),
)


@given(st.lists(rows_given, max_size=6), st.lists(st.integers(0, 2**62), max_size=3))
@settings(deadline=None, max_examples=60)
def test_a_segment_is_read_as_it_was_written(rows, removed):
    codes = pack(np.random.default_rng(len(rows)).standard_normal((len(rows), 12)))
    ids = np.arange(5, 5 + len(rows))
    data = encode_segment(codes, ids, rows, np.array(removed, np.int64), 12, {"encoder": "e"})
    segment = Segment(data, 12)
    assert [segment.row(row) for row in range(len(segment))] == rows
    assert segment.codes.tolist() == codes.tolist()
    assert (segment.ids.tolist(), segment.removed.tolist()) == (ids.tolist(), removed)
    with pytest.raises(CorruptIndexError, match="no segment of 13-bit"):
        Segment(data, 13)


def test_commits_and_removals_add_up(tmp_path):
    store = CodeStore.create(tmp_path / "x", 20)
    first, second = fill(store, 10, 1), fill(store, 9, 2, remove=[0, 3, 9])
    third = fill(store, 0, 3, remove=[12])
    wanted = {i: row for i, row in enumerate(first[1] + second[1] + third[1]) if i not in (0, 3, 9, 12)}
    for seen in (store, CodeStore.open(tmp_path / "x")):
        codes, ids = seen.codes()
        assert dict(seen.rows()) == wanted
        assert ids.tolist() == list(wanted)
        np.testing.assert_array_equal(codes, np.concatenate([first[0], second[0]])[list(wanted)])
        assert len(seen) == len(wanted)
    with store.writing() as writer:  # ids are never used twice
        assert not writer.waiting
        writer.append(*some(1))
        assert (writer.waiting, writer.pending) == (True, 1)
        writer.commit()
    assert store.codes()[1].tolist()[-1] == 19
    with store.writing() as writer:
        writer.append(*some(3))  # not committed: gone
    assert len(CodeStore.open(tmp_path / "x")) == len(wanted) + 1


def test_many_segments_are_gathered_and_readers_keep_their_generation(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "MANY_SEGMENTS", 4)
    store = CodeStore.create(tmp_path / "x", 20)
    for seed in range(8):
        fill(store, 5, seed, remove=[seed * 5 - 2] if seed else [])
    reader, before = CodeStore.open(tmp_path / "x"), content(store)
    with store.writing() as writer:
        writer.gather()
        assert len(store.manifest["segments"]) == 1
    files = sorted(file.name for file in (tmp_path / "x" / "codes").iterdir())
    assert files == [Path(store.manifest["segments"][0]["file"]).name]
    assert content(store) == content(CodeStore.open(tmp_path / "x")) == before
    assert content(reader) == before
    fill(store, 3, 50, remove=[0])
    assert content(reader) == before  # from files that are gone since
    assert (reader.manifest["generation"], len(store)) == (8, len(reader) + 2)
    assert store.codes()[1].tolist()[-3:] == [40, 41, 42]


def test_gathering_cuts_large_stores_and_leaves_few_segments_alone(tmp_path, monkeypatch):
    store = CodeStore.create(tmp_path / "x", 20)
    for seed in range(6):
        fill(store, 5, seed)
    with store.writing() as writer:
        writer.gather()
    assert len(store.manifest["segments"]) == 6
    before = content(store)
    monkeypatch.setattr(store_module, "MANY_SEGMENTS", 0)
    monkeypatch.setattr(store_module, "SEGMENT_ROWS", 7)
    with store.writing() as writer:
        writer.gather()
        assert [entry["rows"] for entry in store.manifest["segments"]] == [7, 7, 7, 7, 2]
        generation = store.manifest["generation"]
        monkeypatch.setattr(store_module, "MANY_SEGMENTS", 1)
        writer.gather()  # cannot be fewer: not written again and again
        assert store.manifest["generation"] == generation
    assert content(CodeStore.open(tmp_path / "x")) == before


def test_mostly_dead_rows_are_gathered(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "SEGMENT_ROWS", 160)  # 10 rows of slack
    store = CodeStore.create(tmp_path / "x", 20)
    fill(store, 100)
    fill(store, 0, remove=range(2, 90))
    before = content(store)
    with store.writing() as writer:
        writer.gather()
    assert [(entry["rows"], entry["removed"]) for entry in store.manifest["segments"]] == [(12, 0)]
    assert content(CodeStore.open(tmp_path / "x")) == before


def test_a_segment_that_is_missing_truncated_or_altered_is_told(tmp_path):
    store = CodeStore.create(tmp_path / "x", 20)
    fill(store, 12)
    before = content(store)
    file = tmp_path / "x" / store.manifest["segments"][0]["file"]
    data = file.read_bytes()
    random = np.random.default_rng(0)
    places = {0, 1, 8, len(data) - 1} | set(range(9, len(data), 211)) | set(random.integers(0, len(data), 100).tolist())
    damaged = [data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :] for place in sorted(places)]
    damaged += [data[:100], data[:-1], b"", data + b"\0", b"\0" * len(data), data[: len(data) // 2]]
    for altered in damaged:
        file.write_bytes(altered)
        with pytest.raises(CorruptIndexError, match=file.name):
            CodeStore.open(tmp_path / "x")
    file.unlink()
    with pytest.raises(CorruptIndexError, match="is gone"):
        CodeStore.open(tmp_path / "x")
    file.write_bytes(data)
    assert content(CodeStore.open(tmp_path / "x")) == before


def test_damage_after_opening_is_found_by_verify(tmp_path):
    store = CodeStore.create(tmp_path / "x", 20)
    fill(store, 12)
    fill(store, 12, 1)
    file = tmp_path / "x" / store.manifest["segments"][1]["file"]
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.with_suffix(".new").write_bytes(data)
    file.with_suffix(".new").replace(file)
    assert [name for name, trouble in store.verify() if trouble] == [store.manifest["segments"][1]["file"]]
    file.unlink()
    assert [name for name, trouble in store.verify() if trouble] == [store.manifest["segments"][1]["file"]]


def test_one_writer_at_a_time(tmp_path):
    store = CodeStore.create(tmp_path / "x", 20)
    with store.writing() as writer:
        with (
            pytest.raises(
                IndexLockedError, match=rf"another process is writing to .* \(process {os.getpid()} on '.+', since 2"
            ),
            CodeStore.open(tmp_path / "x").writing(),
        ):
            pass
        for told in (
            b"",
            b"\xff",
            b"[" * 2000,
            b'{"process": 1e999, "host": 1, "since": 2}',
            b'{"process": 1}',
            b"[1]",
        ):
            (tmp_path / "x" / "lock").write_bytes(told)
            with pytest.raises(IndexLockedError, match="x': wait"), CodeStore.open(tmp_path / "x").writing():
                pass
        writer.append(*some(2))
        writer.commit()
    other = CodeStore.open(tmp_path / "x")
    fill(other, 3, 1)
    assert len(store) == 2
    with store.writing():  # takes up what the other committed
        assert len(store) == 5


FULL = """
import resource, signal, sys
from hashfaiss.errors import IndexFolderError
sys.path.insert(0, {tests!r})
from test_store import fill
from hashfaiss.storage.store import CodeStore
store = CodeStore.open({folder!r})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
try:
    fill(store, 3000, 1)
except IndexFolderError as error:
    print("refused", error)
"""


@contextlib.contextmanager
def small_disk(folder):
    """A file system of 512 KiB at `folder`; skips where one cannot be made."""
    folder.mkdir()
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("only root can make a small disk; the limit on file size is tested instead")
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", folder], capture_output=True)
    if made.returncode:
        pytest.skip("no small disk can be made here; the limit on file size is tested instead")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_loses_nothing_committed(tmp_path):
    with small_disk(tmp_path / "disk"):
        folder = tmp_path / "disk" / "x"
        store = CodeStore.create(folder, 20)
        fill(store, 20)
        before = content(store)
        filler = tmp_path / "disk" / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(b"\0" * 4096)
        for n in (10, 1000):
            with pytest.raises(IndexFolderError, match=r"No space left.*make room"):
                fill(store, n, 1)
            assert content(store) == content(CodeStore.open(folder)) == before
        assert [file.name for file in folder.glob("codes/*")] == [Path(store.manifest["segments"][0]["file"]).name]
        filler.unlink()
        fill(store, 10, 1)
        assert content(CodeStore.open(folder))[0][:20] == before[0]
        assert len(CodeStore.open(folder)) == 30


@pytest.mark.skipif(sys.platform == "win32", reason="there is no limit on file size")
@pytest.mark.parametrize("limit", [0, 2000, 100_000])
def test_a_segment_that_cannot_be_written_whole_is_not_there_at_all(tmp_path, limit):
    store = CodeStore.create(tmp_path / "x", 20)
    fill(store, 20)
    before, names = content(store), sorted(file.name for file in (tmp_path / "x" / "codes").iterdir())
    script = FULL.format(tests=str(Path(__file__).parent), folder=str(tmp_path / "x"), limit=limit)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.startswith("refused cannot write to the index"), done
    assert content(CodeStore.open(tmp_path / "x")) == before
    assert sorted(file.name for file in (tmp_path / "x" / "codes").iterdir()) == names
    fill(store, 3000, 1)
    assert len(CodeStore.open(tmp_path / "x")) == 3020


def test_paths_below_the_base_are_stored_relative():
    for path, base, stored in (
        ("/a/b/c.jpg", "/a", b"b/c.jpg"),
        ("/a/b/c.jpg", "/", b"a/b/c.jpg"),
        ("/ab/c.jpg", "/a", b"/ab/c.jpg"),
        ("/a/c.jpg", None, b"/a/c.jpg"),
        ("/a/\udcff\n.jpg", "/a", b"\xff\n.jpg"),
    ):
        assert stored_path(path, base) == stored
        assert full_path(stored, base) == path
    assert full_path(b"", "/a") is None


def test_rows_must_answer_to_codes(tmp_path):
    store = CodeStore.create(tmp_path / "x", 20)
    with store.writing() as writer:
        for codes, rows in ((2, [Row(b"a", 1, 1, bytes(16), ())]), (1, [Row(b"a", 1, 1, b"short", ())])):
            with pytest.raises(ArgumentError, match="a row for each code"):
                writer.append(np.zeros((codes, 3), np.uint8), rows)
    assert len(CodeStore.open(tmp_path / "x")) == 0


def test_too_many_open_files_is_not_called_damage(tmp_path):
    fill(CodeStore.create(tmp_path / "x", 20), 3)
    script = (
        "import resource, sys; from hashfaiss.storage.store import CodeStore; import h5py, os;"
        "held = [os.open(os.devnull, os.O_RDONLY) for _ in range(60)];"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (held[-1] + 1, held[-1] + 1));"
        f"CodeStore.open({str(tmp_path / 'x')!r})"
    )
    tried = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    last = tried.stderr.strip().splitlines()[-1]
    assert "Too many open files" in last
    assert "damaged" not in last


def test_on_windows_slashes_and_backslashes_are_the_same(monkeypatch):
    store = CodeStore.create(None, 8)
    with store.writing() as writer:
        rows = [Row(path, 1, 1, bytes(16), ()) for path in (rb"D:\p\trip\a.jpg", b"D:/p/trip/b.jpg", b"D:/p/c.jpg")]
        writer.append(np.zeros((3, 1), np.uint8), rows)
        writer.commit()
    monkeypatch.setattr("os.sep", "\\")
    for pattern in ("trip/*", r"trip\*", r".\trip\?.jpg", r"D:\p\trip\*"):
        assert store.where(paths=[pattern]).tolist() == [0, 1]
    assert stored_path(r"D:\p\trip\é.jpg", r"D:\p") == "trip/é.jpg".encode()
    assert full_path(b"trip/x/a.jpg", None) == r"trip\x\a.jpg"
