"""A file is its contents: what is moved, touched, relabelled, linked or swapped, and what is gone or away."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
from builds import content, counts, flip, later
from pictures import posix
from PIL import Image

from hashfaiss.encoding import pipeline
from hashfaiss.errors import ArgumentError
from hashfaiss.library import known
from hashfaiss.library.image_index import ImageIndex


@pytest.fixture
def nothing_decoded(monkeypatch):
    """Whatever is decoded from now on is an error."""

    def refuse(data, path, least, note):
        raise AssertionError(path)

    monkeypatch.setattr(pipeline, "decode_image", refuse)


def below(index):
    return {os.path.relpath(path, "photos"): code for path, (code, _) in content(index).items()}


def test_moved_touched_copied_and_relabelled_files_are_not_encoded(index, photos, nothing_decoded):
    before = below(index)
    os.rename(photos / "cat", photos / "lynx")
    for file in (photos / "dog").iterdir():
        later(file)
    shutil.copytree(photos / "bird", photos / "copies")
    report = index.build(photos)
    assert (counts(report), report.recognised, report.kept) == ((0, 4, 0, 0), 12, [])
    expected = {path.replace("cat/", "lynx/"): code for path, code in before.items()}
    expected |= {path.replace("bird/", "copies/"): code for path, code in before.items() if path.startswith("bird/")}
    assert below(index) == expected == below(ImageIndex.open(index.path))
    assert index.store.labels() == {"lynx", "dog", "bird", "copies"}
    assert counts(index.build(photos)) == (0, 16, 0, 0)


def test_a_folder_that_was_renamed_leaves_its_old_name(index, photos, nothing_decoded):
    before = below(index)
    os.rename(photos, photos.parent / "pictures")
    report = index.build(photos.parent / "pictures")
    assert (counts(report), report.recognised) == ((0, 0, 0, 0), 12)
    assert below(index) == {f"../pictures/{path}": code for path, code in before.items()}
    assert all(trouble is None for _, trouble in index.verify())


def test_a_copy_takes_nothing_away_while_the_original_may_be_away(index, photos, nothing_decoded):
    shutil.copytree(photos, photos.parent / "copy")  # other inodes
    shutil.rmtree(photos)
    assert index.build(photos.parent / "copy").recognised == 12
    assert len(index) == 24
    hits = index.query(Image.new("RGB", (40, 40)), 24)
    assert {hit.missing for hit in hits if hit.path.startswith(str(photos) + os.sep)} == {True}
    assert {hit.missing for hit in hits if not hit.path.startswith(str(photos) + os.sep)} == {False}
    assert dict(index.verify())["images"].startswith("12 of 24 files are gone or away, such as ")


def test_files_swapped_or_renumbered_with_equal_size_and_time(encoder, photos, nothing_decoded, monkeypatch):
    monkeypatch.undo()
    folder, random = photos.parent / "frames", np.random.default_rng(1)
    folder.mkdir()
    for number in range(6):
        coarse = random.integers(0, 256, (4, 4, 3)).astype(np.uint8)
        Image.fromarray(coarse.repeat(9, 0).repeat(9, 1)).save(folder / f"{number}.bmp")
        os.utime(folder / f"{number}.bmp", ns=(10**18, 10**18))
    index = encoder.to_index(folder, photos.parent / "y.index")
    code = {os.path.basename(path): code for path, (code, _) in content(index).items()}
    for number in range(6):  # 0 takes the place of 1, and so on; the last that of 0
        os.rename(folder / f"{number}.bmp", folder / f"{number}.old")
    for number in range(6):
        os.rename(folder / f"{number}.old", folder / f"{(number + 1) % 6}.bmp")
    report = index.build(folder)
    assert (counts(report), report.recognised) == ((0, 0, 0, 0), 6)
    expected = {f"{(number + 1) % 6}.bmp": code[f"{number}.bmp"] for number in range(6)}
    assert {os.path.basename(path): code for path, (code, _) in content(index).items()} == expected


@posix
def test_a_file_replaced_in_place_is_another(index, photos):
    path = photos / "cat/1.png"
    status = path.stat()
    Image.new("RGB", (45, 36)).save(photos / "new.bmp")
    data = (photos / "new.bmp").read_bytes()
    (photos / "new.bmp").unlink()
    path.write_bytes(data[:1] + data[1:])
    assert index.build(photos).encoded == 1
    before = content(index)["photos/cat/1.png"]
    with Image.open(photos / "dog/1.png") as other:
        other.save(path, "BMP")  # of the same size, in the same inode
    os.utime(path, ns=(status.st_mtime_ns, status.st_mtime_ns))
    assert index.build(photos).encoded == 1
    assert content(index)["photos/cat/1.png"] != before


def test_check_content_reads_what_looks_unchanged(index, photos, monkeypatch):
    path = photos / "cat/0.jpg"
    status = path.stat()
    flip(photos / "dog/0.jpg", path)
    places = type(index.store.places())
    monkeypatch.setattr(places, "unchanged", lambda self, numbers, *_: np.ones(len(numbers), np.bool_))
    assert counts(index.build(photos)) == (0, 12, 0, 0)
    generation = index.store.manifest["generation"]
    assert counts(index.build(photos, check_content=True)) == (1, 11, 0, 0)
    assert index.store.manifest["generation"] > generation
    assert status.st_size
    with pytest.raises(ArgumentError, match="'content' is nothing a build takes"):
        index.build(photos, content=True)


@posix
def test_one_file_under_many_names_is_one_image(index, photos, nothing_decoded):
    os.link(photos / "cat/0.jpg", photos / "dog/linked.jpg")
    (photos / "again").symlink_to("cat")
    (photos / "bird/same.png").symlink_to("1.png")
    away = photos.parent / "links"
    away.mkdir()
    (away / "cats").symlink_to(photos / "cat")
    os.link(photos / "dog/1.png", away / "hard.png")
    before = content(index)
    before["photos/cat/0.jpg"] = (before["photos/cat/0.jpg"][0], ("cat", "dog"))
    report = index.build(photos)
    assert (counts(report), report.recognised) == ((0, 10, 0, 0), 2)  # a file of one more name has another change time
    assert counts(index.build(away))[0] == 0
    assert counts(index.add([away / "cats/0.jpg", photos / "again/1.png", away / "hard.png"])) == (0, 3, 0, 0)
    assert content(index) == before
    os.unlink(photos / "dog/1.png")  # its other name is left
    assert len(index) == 12
    assert (counts(index.build(photos)), len(index)) == ((0, 11, 1, 0), 11)


@posix
def test_a_file_linked_into_the_place_of_another_is_one_image(index, photos, nothing_decoded):
    (photos / "dog/0.jpg").unlink()
    os.link(photos / "cat/0.jpg", photos / "dog/0.jpg")
    report = index.build(photos)
    assert (counts(report), report.recognised, len(index)) == ((0, 10, 1, 0), 1, 11)


@posix
def test_an_index_reached_by_another_path_is_the_same(index, photos, tmp_path, nothing_decoded):
    other = tmp_path / "elsewhere"
    other.symlink_to(photos.parent)
    for path in (other / "x.index", tmp_path / "link.index"):
        if not path.exists():
            path.symlink_to(index.path)
        again = ImageIndex.open(path, index.encoder)
        assert counts(again.build(other / "photos")) == (0, 12, 0, 0)
        assert content(again) == content(index)
        assert len(again.store.where(paths=[str(other / "photos/cat") + "/*", str(photos) + "/dog/0*"])) == 5
    assert again.remove([other / "photos/cat/0.jpg", other / "photos/dog"]) == 5


@posix
def test_a_folder_behind_a_link_that_leads_nowhere_is_kept(encoder, photos):
    disk = photos.parent / "disk"
    os.rename(photos / "cat", disk)
    (photos / "cat").symlink_to(disk)
    os.rename(photos / "dog/1.png", photos.parent / "1.png")
    (photos / "dog/1.png").symlink_to(photos.parent / "1.png")
    index = encoder.to_index(photos, photos.parent / "x.index")
    before = content(index)
    os.rename(disk, photos.parent / "away")
    os.rename(photos.parent / "1.png", photos.parent / "2.png")
    report = index.build(photos)
    assert (counts(report), len(index)) == ((0, 7, 0, 0), 12)
    assert dict(report.kept) == {str(photos / "cat"): known.NOWHERE, str(photos / "dog/1.png"): known.NOWHERE}
    assert "gone or away" in dict(index.verify())["images"]
    os.rename(photos.parent / "away", disk)
    os.rename(photos.parent / "2.png", photos.parent / "1.png")
    report = index.build(photos)
    assert (report.encoded, report.kept, content(index)) == (0, [], before)
    os.rename(disk, photos.parent / "away")
    assert counts(index.build(photos, allow_removals=True)) == (0, 8, 4, 0)


def test_an_emptied_folder_is_kept_unless_removals_are_allowed(index, photos):
    for file in (photos / "cat").iterdir():
        file.unlink()
    report = index.build(photos)
    assert (counts(report), report.kept) == ((0, 8, 0, 0), [(str(photos / "cat"), known.EMPTY)])
    assert counts(index.build(photos, allow_removals=True)) == (0, 8, 4, 0)
    shutil.rmtree(photos / "dog")  # a folder whose name is gone
    assert counts(index.build(photos)) == (0, 4, 4, 0)


def test_more_than_half_at_once_is_not_believed_to_be_deleted(index, photos):
    for number in range(20):
        shutil.copy(photos / "cat/0.jpg", photos / "bird" / f"copy{number}.jpg")
    index.build(photos)
    for file in (photos / "bird").glob("copy*.jpg"):
        file.unlink()
    report = index.build(photos)
    assert (counts(report), [path for path, _ in report.kept]) == ((0, 12, 0, 0), [str(photos)])
    assert "20 of its 32 images are gone at once" in report.kept[0][1]
    (photos / "away").mkdir()
    flip(photos / "cat/0.jpg", photos / "away" / "0.jpg")
    for number in range(1, 60):  # now it is less than half of all, and more than half of that folder
        shutil.copy(photos / "away/0.jpg", photos / "away" / f"{number}.jpg")
    report = index.build(photos)
    assert (report.encoded, [path for path, _ in report.kept]) == (60, [str(photos / "bird")])
    (photos / "away").rename(photos.parent / "away")  # with a disk, its mount's name may go
    report = index.build(photos)
    assert [path for path, _ in report.kept] == [str(photos)]
    (photos.parent / "away").rename(photos / "away")
    report = index.build(photos)
    assert (counts(report), [path for path, _ in report.kept]) == ((0, 72, 0, 0), [str(photos / "bird")])
    shutil.rmtree(photos / "away")
    assert counts(index.build(photos, allow_removals=True)) == (0, 12, 80, 0)
    for name in ("cat", "dog", "bird"):  # few may go, whatever their share
        (photos / name / "0.jpg").unlink()
        (photos / name / "1.png").unlink()
        (photos / name / "2.jpg").unlink()
    assert counts(index.build(photos)) == (0, 3, 9, 0)


def test_a_file_that_cannot_be_read_is_kept(index, photos, monkeypatch):
    path = str(photos / "cat/0.jpg")
    stat = os.stat

    def failing(name, *arguments, **options):
        if name == path:
            raise OSError(5, "Input/output error")
        return stat(name, *arguments, **options)

    monkeypatch.setattr(os, "stat", failing)
    report = index.build(photos)
    assert (counts(report), report.kept) == ((0, 11, 0, 0), [(path, "Input/output error")])
    assert len(index) == 12


def test_what_is_left_out_leaves_the_index(index, photos):
    report = index.build(photos, exclude=["cat", "dog/*.png"])
    assert (counts(report), report.kept) == ((0, 6, 6, 0), [])
    assert counts(index.build(photos)) == (6, 6, 0, 0)


def test_an_interrupted_build_of_moved_files_loses_none(index, photos, monkeypatch):
    os.rename(photos / "cat", photos / "lynx")
    monkeypatch.setattr("hashfaiss.library.sync.COMMIT_ROWS", 1)
    before = {code for code, _ in content(index).values()}
    seen = []

    def cut_off(done, todo):
        seen.append(done)
        if done >= 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index.build(photos, progress=cut_off)
    opened = ImageIndex.open(index.path, index.encoder)
    assert {code for code, _ in content(opened).values()} == before
    opened.build(photos)
    assert len(opened) == 12
