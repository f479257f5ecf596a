"""A damaged segment costs what it held, and nothing else: it is named, set aside, and what it took out stays out."""

from __future__ import annotations

import pytest
from test_store import fill

from hashfaiss.errors import CorruptIndexError
from hashfaiss.storage.store import CodeStore


def flip(file, at=0.5):
    """One bit of a file, in the middle."""
    data = bytearray(file.read_bytes())
    data[int(at * (len(data) - 1))] ^= 4
    file.unlink()
    file.write_bytes(data)


@pytest.fixture
def store(tmp_path):
    """Three segments of 5 rows; the second took out ids 0 and 1, the third ids 2 and 6."""
    store = CodeStore.create(tmp_path / "x", 20)
    fill(store, 5)
    for seed, removed in ((1, [0, 1]), (2, [2, 6])):
        with store.writing() as writer:
            writer.remove(removed)
            writer.commit()
        fill(store, 5, seed)
    return store


def held(store):
    """Code and row of every image, by id."""
    codes, _ = store.codes()
    return {image: (code.tobytes(), row) for (image, row), code in zip(store.rows(), codes, strict=True)}


def files_of(store):
    return [store.path / entry["file"] for entry in store.manifest["segments"]]


@pytest.mark.parametrize("how", ["flipped", "gone", "cut", "another"])
@pytest.mark.parametrize("which", range(5))
def test_what_is_damaged_is_set_aside_and_nothing_comes_back(store, which, how):
    wanted, files = held(store), files_of(store)
    file, lost = files[which], set(store._segments[which].ids.tolist())
    if how == "flipped":
        flip(file)
    elif how == "gone":
        file.unlink()
    elif how == "cut":
        file.write_bytes(file.read_bytes()[:-100])
    else:
        data = files[which - 1].read_bytes()
        file.unlink()
        file.write_bytes(data)
    for use in (lambda: CodeStore.open(store.path), store.writing().__enter__):
        with pytest.raises(CorruptIndexError, match="hashfaiss build"):
            use()
    opened = CodeStore.open(store.path, damaged=True)
    assert [(one.file, one.rows) for one in opened.damaged] == [(f"codes/{file.name}", len(lost))]
    assert [name for name, trouble in opened.verify() if trouble] == [f"codes/{file.name}"]
    with pytest.raises(CorruptIndexError):
        opened.codes()
    with opened.writing(heal=True) as writer:
        assert [one.rows for one in writer.healed] == [len(lost)]
        writer.commit()
    healed = CodeStore.open(store.path)
    assert held(healed) == {key: row for key, row in wanted.items() if key not in lost}
    assert not any(trouble for _, trouble in healed.verify())
    assert (store.path / "damaged" / file.name).exists() == (how != "gone")
    fill(healed, 1, 3)
    assert max(held(healed)) == 15  # no id is given twice


def test_several_that_are_damaged_are_all_named(store):
    for file in files_of(store)[:3]:
        flip(file)
    with pytest.raises(CorruptIndexError, match=r"\(2 more of its files are damaged"):
        CodeStore.open(store.path)
    opened = CodeStore.open(store.path, damaged=True)
    assert [name for name, trouble in opened.verify() if trouble] == [f"codes/{f.name}" for f in files_of(store)[:3]]


def test_what_was_taken_out_is_known_after_rows_are_gathered(store):
    with store.writing() as writer:
        writer._rewrite(3)
    wanted = held(store)
    fill(store, 2, 5)
    flip(files_of(store)[-1])
    with CodeStore.open(store.path, damaged=True).writing(heal=True) as writer:
        assert held(writer.store) == wanted
