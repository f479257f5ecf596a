"""Acting on duplicates: what is kept, moved and linked, and what is never touched."""

from __future__ import annotations

import json
import os
import shutil

import pytest
from commands import run
from pictures import posix
from PIL import Image

from hashfaiss.errors import ArgumentError, HashfaissError
from hashfaiss.files import content_digest
from hashfaiss.library.hits import Hit
from hashfaiss.library.resolving import Dismissed, Other, hard_link, move, others


def group(*paths):
    return tuple(Hit(None if path is None else str(path), 0, (), number) for number, path in enumerate(paths))


@pytest.fixture
def files(tmp_path):
    made = {}
    for name, side, age in (("small", 20, 3), ("wide", 60, 2), ("old", 20, 9)):
        path = made[name] = tmp_path / f"{name}.png"
        Image.new("RGB", (side, 20), "red").save(path)
        os.utime(path, (10_000 - age, 10_000 - age))
    made["heavy"] = tmp_path / "heavy.bmp"
    Image.new("RGB", (30, 30)).save(made["heavy"])
    return made


@pytest.mark.parametrize(("keep", "kept"), [("best", "wide"), ("oldest", "old"), ("largest", "heavy")])
def test_which_is_kept(files, keep, kept):
    found = others(group(*files.values()), keep)
    assert {other.kept for other in found} == {str(files[kept])}
    assert {other.path for other in found} == {str(path) for name, path in files.items() if name != kept}
    identical = {other.path for other in found if other.identical}
    assert identical == ({str(files["small"])} if kept == "old" else set())
    with pytest.raises(ArgumentError, match="keep is 'newest': give best, oldest, largest"):
        others(group(*files.values()), "newest")


def test_the_images_of_a_reference_folder_are_kept(files):
    found = others(group(files["small"], files["wide"], files["old"]), None)
    assert {other.kept for other in found} == {str(files["small"])}
    assert len(found) == 2
    files["small"].unlink()
    assert others(group(files["small"], files["wide"], files["old"]), None) == []


@posix
def test_links_and_what_is_gone_are_left_alone(files, tmp_path):
    (tmp_path / "soft.png").symlink_to(files["small"])
    (tmp_path / "folder").mkdir()
    (tmp_path / "there").symlink_to("folder")
    shutil.copy(files["small"], tmp_path / "folder/x.png")
    alone = (tmp_path / "soft.png", tmp_path / "there/x.png", tmp_path / "gone.png", None)
    assert others(group(files["small"], *alone), "best") == []
    assert len(others(group(files["small"], files["old"], *alone), "best")) == 1


def test_what_changed_since_it_was_indexed_is_left_alone(files):
    asked = (files["small"], files["wide"], files["old"])
    digests = [content_digest(path.read_bytes()) for path in asked]
    Image.new("RGB", (90, 90), "blue").save(files["wide"])  # the best of them, but another picture
    left = []
    found = others(group(*asked), "best", digests.__getitem__, left=lambda *why: left.append(why))
    assert {other.path for other in found} | {other.kept for other in found} == {str(asked[0]), str(asked[2])}
    assert left == [(str(files["wide"]), "it has changed since it was indexed: build its folder again")]


def test_what_was_moved_away_is_not_kept(files, tmp_path):
    """It would be the last copy, in a folder that is going to be thrown away."""
    (tmp_path / "away").mkdir()
    shutil.move(files["old"], tmp_path / "away/old.png")
    asked = (tmp_path / "away/old.png", files["small"])
    assert [other.kept for other in others(group(*asked), "oldest")] == [str(asked[0])]
    assert others(group(*asked), "oldest", folder=tmp_path / "away") == []
    found = others(group(*asked, files["wide"]), "oldest", folder=tmp_path / "away")
    assert [(other.path, other.kept) for other in found] == [(str(files["wide"]), str(files["small"]))]


def test_moving_keeps_what_is_there_and_the_last_copy(files, tmp_path):
    other = Other(str(files["small"]), str(files["old"]), True)
    (tmp_path / "away").mkdir()
    (tmp_path / "away/small.png").write_bytes(b"there already")
    assert move(other, tmp_path / "away", str(tmp_path)) == tmp_path / "away/small (2).png"
    assert (tmp_path / "away/small.png").read_bytes() == b"there already"
    assert not files["small"].exists()
    files["old"].unlink()
    lost = Other(str(files["wide"]), str(files["old"]), False)
    for act in (lambda: move(lost, tmp_path / "away", None), lambda: hard_link(lost)):
        with pytest.raises(HashfaissError, match="which was to be kept"):
            act()
    assert files["wide"].exists()


@posix
def test_only_identical_files_are_linked(files):
    hard_link(Other(str(files["small"]), str(files["old"]), True))
    assert os.path.samefile(files["small"], files["old"])
    with pytest.raises(HashfaissError, match="has other bytes"):
        hard_link(Other(str(files["wide"]), str(files["old"]), True))
    with pytest.raises(HashfaissError, match="not a file of its own"):  # they are one already
        hard_link(Other(str(files["small"]), str(files["old"]), True))


def test_from_the_command_line(encoder, photos, monkeypatch):
    monkeypatch.chdir(photos.parent)
    shutil.copy(photos / "cat/0.jpg", photos / "dog/copy.jpg")
    encoder.to_index(photos, "hashfaiss.index")
    listed = run("duplicates", "--json", "--move-to", "away", "--keep", "oldest")
    assert (photos / "dog/copy.jpg").exists()  # a dry run
    assert not (photos.parent / "away").exists()
    (photos.parent / "dismissed.jsonl").write_text(listed)
    assert run("duplicates", "--json", "--ignore-file", "dismissed.jsonl") == ""
    run("duplicates", "--move-to", "away", "--keep", "oldest", "--no-dry-run")
    kept = [path.exists() for path in (photos / "cat/0.jpg", photos / "dog/copy.jpg")]
    assert sorted(kept) == [False, True]
    assert len(list((photos.parent / "away").rglob("*.jpg"))) == 1
    assert "give one of them" in run("duplicates", "--move-to", "x", "--hard-link", code=2)
    assert "give best, oldest, largest" in run("duplicates", "--keep", "x", code=2)


def test_stale_files_from_the_command_line(encoder, photos, monkeypatch):
    monkeypatch.chdir(photos.parent)
    shutil.copy(photos / "cat/0.jpg", photos / "dog/copy.jpg")
    encoder.to_index(photos, "hashfaiss.index")
    next((photos / "dog").glob("[0-9]*.jpg")).replace(photos / "dog/copy.jpg")  # another picture now
    run("duplicates", "--move-to", "away", "--no-dry-run")
    assert (photos / "dog/copy.jpg").exists()
    assert (photos / "cat/0.jpg").exists()
    run("duplicates", "--move-to", ".", "--no-dry-run")  # all lie there already
    assert (photos / "dog/copy.jpg").exists()


def test_a_reference_folder_keeps_its_own(encoder, photos, monkeypatch):
    monkeypatch.chdir(photos.parent)
    shutil.copy(photos / "cat/0.jpg", photos / "dog/copy.jpg")
    encoder.to_index(photos, "hashfaiss.index")
    reference = ("duplicates", "--reference", str(photos / "dog"))
    assert "images are kept" in run(*reference, "--keep", "best", code=2)
    before = set((photos / "dog").iterdir())
    run(*reference, "--move-to", "away", "--no-dry-run")
    assert set((photos / "dog").iterdir()) == before
    assert (photos.parent / "away/photos/cat/0.jpg").exists()


def test_dismissed_groups(tmp_path):
    file = tmp_path / "dismissed.jsonl"
    file.write_text(json.dumps({"images": [{"path": "/a"}, {"path": "/b"}, {"path": "/c"}]}) + "\n\n")
    groups = [group("/a", "/b"), group("/a", "/d"), group("/b", "/c", "/a")]
    assert list(Dismissed(file).without(groups)) == [groups[1]]
    for bad in ("[1]", "x", '{"images": [1]}'):
        file.write_text(bad)
        with pytest.raises(HashfaissError, match=r"line 1 of .* is no group"):
            Dismissed(file)
    with pytest.raises(HashfaissError, match="cannot read"):
        Dismissed(tmp_path / "gone")
