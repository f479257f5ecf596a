"""While the images exist, damage costs no more than encoding again what was damaged."""

from __future__ import annotations

import shutil

import pytest
from builds import content, counts, flip, flip_bit, later
from commands import run, runner

from hashfaiss.cli.app import app
from hashfaiss.errors import ArgumentError, CorruptIndexError
from hashfaiss.library import verifying
from hashfaiss.library.image_index import ImageIndex
from hashfaiss.library.removing import remove
from hashfaiss.library.verifying import verify_folder


@pytest.fixture
def changed(index, photos):
    """12 images; one was replaced and one added since, and one taken out: three segments."""
    flip(photos / "cat/0.jpg", photos / "cat/0.jpg")
    later(photos / "cat/0.jpg")
    index.build(photos)
    shutil.copy(photos / "cat/0.jpg", photos / "dog/new.jpg")
    flip(photos / "dog/0.jpg", photos / "dog/new.jpg")
    index.build(photos)
    assert len(index.store.manifest["segments"]) == 3
    return index


def test_any_file_may_be_damaged_and_the_next_build_makes_it_good(changed, encoder, photos):
    wanted, folder = content(changed), changed.path
    segments = [entry["file"] for entry in changed.store.manifest["segments"]]
    for which in (*range(3), "index", "manifest.json", "manifest.copy.json", "encoder.pt"):
        manifest = ImageIndex.open(folder).store.manifest
        file = {**dict(enumerate(segments)), "index": manifest["index"]["file"]}.get(which, which)
        flip_bit(folder / file)
        named = [name for name, trouble in verify_folder(folder) if trouble]
        assert named == [file]
        report = ImageIndex.create(encoder, folder).build(photos)
        assert [one.file for one in report.damaged] == [file] * (which in range(3))
        healed = ImageIndex.open(folder)
        assert content(healed) == wanted
        assert not any(trouble for _, trouble in healed.verify())
        assert len(healed.query(photos / "cat/0.jpg", 50)) == 13
        assert counts(healed.build(photos)) == (0, 13, 0, 0)


def test_an_image_that_was_taken_out_stays_out(changed, encoder, photos):
    changed.add([photos / "cat/0.jpg"])
    changed.remove(photos / "cat/2.jpg")
    wanted = content(changed)
    flip_bit(changed.path / changed.store.manifest["segments"][-1]["file"])  # which says so
    with pytest.raises(CorruptIndexError, match="run `hashfaiss build` on its images again"):
        ImageIndex.open(changed.path)
    healing = ImageIndex.create(encoder, changed.path)
    with pytest.raises(CorruptIndexError, match="hashfaiss build"):
        healing.query(photos / "cat/0.jpg")  # never answers as if nothing were amiss
    healing.add([photos / "dog/0.jpg"])
    assert content(ImageIndex.open(changed.path)) == wanted


def test_verify_heals_what_needs_no_images(changed, photos, capsys):
    folder = changed.path
    for name in (
        "manifest.copy.json",
        changed.store.manifest["index"]["file"],
        changed.store.manifest["segments"][1]["file"],
    ):
        flip_bit(folder / name)
    where = ("--index", str(folder))
    told = runner.invoke(app, ["verify", *where])
    assert told.exit_code == 1
    assert told.stdout.count(": sound") == 6
    told = runner.invoke(app, ["verify", *where, "--heal"])
    assert told.exit_code == 1
    assert "is set aside, and 1 image with it: `hashfaiss build` on their folder brings them back" in told.stderr
    assert run("verify", *where).count(": sound") == 8
    assert counts(ImageIndex.open(folder).build(photos)) == (1, 12, 0, 0)


def test_a_build_meanwhile_is_no_damage(changed, photos, monkeypatch):
    """The first check reads what a build has replaced by then; the second finds all sound."""
    real, builds = verifying.images_trouble, iter([lambda: changed.remove(photos / "dog")])

    def building(store):
        next(builds, lambda: None)()
        return real(store)

    monkeypatch.setattr(verifying, "images_trouble", building)
    assert not any(trouble for _, trouble in verify_folder(changed.path))


def test_a_removal_that_was_cut_off_can_be_asked_for_again(index, photos, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("hashfaiss.library.sync.commit_faiss", lambda writer, _: writer.commit())  # killed right after
        assert index.remove([photos / "cat/0.jpg", photos / "dog"]) == 5
    again = ImageIndex.open(index.path)
    assert again.remove([photos / "cat/0.jpg", photos / "dog"]) == 0
    assert len(again.query(photos / "bird/0.jpg", 50)) == 7
    assert remove(again.store, [photos / "cat"]) == 3
    with pytest.raises(ArgumentError, match="no image at"):
        again.remove(photos / "cat/9.jpg")
    assert "0 removed" in run("remove", str(photos / "dog"), "--index", str(index.path))


def test_a_report_of_skipped_images_that_is_no_text_is_written_anew(index, photos):
    (index.path / "skipped.jsonl").write_bytes(b"\xff\xfe\x00" * 5)
    (photos / "cat/broken.jpg").write_bytes(b"no image")
    assert counts(index.build(photos)) == (0, 12, 0, 1)
    assert len((index.path / "skipped.jsonl").read_text().splitlines()) == 1
