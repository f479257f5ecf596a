"""Listing folders: which files are images, in which order, and what cannot be listed."""

from __future__ import annotations

import os
import random
import stat
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from pictures import NOISE, encoded, posix, reason
from PIL import Image

from hashfaiss.errors import ArgumentError, ImageError
from hashfaiss.images import finding
from hashfaiss.images.decoding import read_image
from hashfaiss.images.finding import find_images
from hashfaiss.images.names import below
from hashfaiss.images.sniffing import looks_like_image


def names(folder: Path, **arguments: Any) -> list[str]:
    return [os.path.relpath(file.path, folder) for file in find_images(folder, **arguments)]


def test_a_place_to_leave_out_may_be_named_as_the_shell_completes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("p/a/1.png", "p/b/2.png", "p/a/b/3.png", "o/b/4.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"image")
    monkeypatch.chdir(tmp_path)
    for pattern in ("p/b", "p/b/", "./p/b", str(tmp_path / "p/b"), "/b", "o/../p/b"):
        assert names(tmp_path / "p", exclude=below(str(tmp_path / "p"), [pattern])) == ["a/1.png", "a/b/3.png"]
    assert names(tmp_path / "p", exclude=below(str(tmp_path / "p"), ["b"])) == ["a/1.png"]
    assert below(str(tmp_path / "p"), ["*.gif", "o/b"]) == ["*.gif", "o/b"]


def test_images_are_found_in_one_order(tmp_path: Path) -> None:
    made = ["b.png", "a.JPG", "Z.jpeg", "c/1.webp", "c/0.gif", "a/z/deep.tiff", "a/b.bmp", "é.png"]
    dice = random.Random(1)
    for name in dice.sample(made, len(made)):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    for name in ("notes.txt", "jpg", "x.jpg.part", "a/b.h5"):
        (tmp_path / name).touch()
    expected = ["Z.jpeg", "a.JPG", "b.png", "é.png", "a/b.bmp", "a/z/deep.tiff", "c/0.gif", "c/1.webp"]
    assert names(tmp_path) == [name.replace("/", os.sep) for name in expected]
    first = next(iter(find_images(tmp_path)))
    assert os.path.isabs(first.path)
    assert first.size == len("Z.jpeg")
    assert first.mtime_ns == os.stat(first.path).st_mtime_ns


def test_hidden_files_and_folders_are_passed_over(photos: Path) -> None:
    before = names(photos)
    for name in (".hidden.jpg", "cat/._0.jpg", ".git/x.jpg", ".jpg"):
        (photos / name).parent.mkdir(exist_ok=True)
        (photos / name).write_bytes(b"x")
    assert names(photos) == before
    assert len(before) == 12


def test_a_folder_named_like_an_image_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").mkdir()
    (tmp_path / "x.jpg" / "y.png").write_bytes(b"y")
    assert names(tmp_path) == [os.path.join("x.jpg", "y.png")]


@posix
def test_listing_looks_at_each_image_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(30):
        (tmp_path / f"{number:02}.jpg").touch()
        (tmp_path / f"{number:02}.txt").touch()
    (tmp_path / "in").mkdir()
    looked: list[str] = []
    look = os.stat
    monkeypatch.setattr(os, "stat", lambda path, **options: looked.append(str(path)) or look(path, **options))
    monkeypatch.setattr(os.path, "isdir", lambda path: stat.S_ISDIR(os.stat(path).st_mode))
    assert len(list(find_images(tmp_path))) == 30
    once = [str(tmp_path / f"{number:02}.jpg") for number in range(30)]
    assert [path for path in looked if path.endswith(".jpg")] == once


@posix
def test_broken_links_and_links_to_themselves_are_no_folders(tmp_path: Path) -> None:
    (tmp_path / "gone.jpg").symlink_to("nowhere")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "z").mkdir()
    (tmp_path / "z" / "a.jpg").touch()
    told: list[str] = []
    found = list(find_images(tmp_path, lambda path, why: told.append(path)))
    assert [os.path.relpath(file.path, tmp_path) for file in found] == ["gone.jpg", "loop.jpg", "z/a.jpg"]
    assert [(file.size, file.mtime_ns) for file in found[:2]] == [(0, 0)] * 2
    assert told == []


def test_of_a_large_folder_only_names_are_kept(tmp_path: Path) -> None:
    for number in range(2000):
        (tmp_path / f"{number:04}.jpg").touch()
    tracemalloc.start()
    try:
        files = find_images(tmp_path)
        next(files)
        assert tracemalloc.get_traced_memory()[1] < 2000 * 130  # a name takes 57 bytes, its place in the list 9
    finally:
        tracemalloc.stop()


def test_folders_that_are_none(tmp_path: Path) -> None:
    assert list(find_images(tmp_path)) == []
    with pytest.raises(ArgumentError, match="missing' does not exist: give a folder of images"):
        find_images(tmp_path / "missing")
    (tmp_path / "a.jpg").touch()
    with pytest.raises(ArgumentError, match=r"a\.jpg' is a file: give a folder of images"):
        find_images(tmp_path / "a.jpg")
    with pytest.raises(ArgumentError, match="does not exist"):
        find_images("x" * 5000)


def test_a_folder_given_relative_to_the_working_folder(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos)
    assert [file.path for file in find_images("cat")] == [
        str(photos / "cat" / name) for name in ("0.jpg", "1.png", "2.jpg", "3.png")
    ]


@posix
def test_linked_folders_are_followed_but_not_into_themselves(tmp_path: Path) -> None:
    (tmp_path / "real" / "in").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "real" / "in" / "a.jpg").write_bytes(b"a")
    (tmp_path / "real" / "in" / "up").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "self").symlink_to(".")
    (tmp_path / "other" / "there").symlink_to(tmp_path / "real" / "in")
    assert names(tmp_path) == ["real/in/a.jpg"]  # which other names lead to
    assert names(tmp_path / "other") == ["there/a.jpg"]


@posix
def test_links_that_lead_nowhere_are_told_when_read(tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").symlink_to(tmp_path / "gone.jpg")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "target").write_bytes(encoded(NOISE, "PNG"))
    (tmp_path / "good.png").symlink_to("target")
    files = list(find_images(tmp_path))
    assert [(Path(file.path).name, file.size > 0) for file in files] == [
        ("broken.jpg", False),
        ("loop.jpg", False),
        ("target", True),  # good.png
    ]
    assert reason(lambda: read_image(files[0].path)) == "no such file"
    assert "symbolic links" in reason(lambda: read_image(files[1].path))
    assert read_image(files[2].path).shape == (3, 24, 32)


@posix
def test_names_that_are_not_text(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path)
    raw = [b"line\nbreak.png", b"\xff\xfe not utf-8.png", b" space .png", b"-rf.png"]
    for name in raw:
        with open(os.path.join(folder, name), "wb") as file:
            file.write(encoded(NOISE, "PNG"))
    files = list(find_images(tmp_path))
    assert sorted(os.fsencode(os.path.basename(file.path)) for file in files) == sorted(raw)
    for file in files:
        assert read_image(file.path).shape == (3, 24, 32)
        os.unlink(file.path)
        with pytest.raises(ImageError) as caught:
            read_image(file.path)
        str(caught.value).encode()  # the message can be printed
        assert "\n" not in str(caught.value)


def test_a_folder_that_cannot_be_listed_is_told(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locked = str(photos / "cat")
    if os.name == "posix" and os.geteuid() != 0:
        os.chmod(locked, 0)
    else:  # root reads anything
        scandir = os.scandir

        def refusing(path: str) -> Any:
            if path == locked:
                raise PermissionError(13, "Permission denied", path)
            return scandir(path)

        monkeypatch.setattr(finding.os, "scandir", refusing)
    told: list[tuple[str, str]] = []
    try:
        found = names(photos, on_skip=lambda path, why: told.append((path, why)))
        assert len(names(photos)) == 8  # and nobody need listen
    finally:
        os.chmod(locked, 0o755)
    assert len(found) == 8
    assert told == [(locked, "folder cannot be listed: Permission denied")]


def test_a_folder_removed_during_the_walk_is_told(photos: Path) -> None:
    told: list[str] = []
    walk = find_images(photos, lambda path, why: told.append(f"{os.path.basename(path)}: {why}"))
    assert os.path.basename(os.path.dirname(next(walk).path)) == "bird"
    os.rename(photos / "dog", photos.parent / "elsewhere")
    assert len(list(walk)) == 3 + 4
    assert told == ["dog: folder cannot be listed: No such file or directory"]


@posix
def test_a_file_of_many_names_is_one_image(tmp_path: Path) -> None:
    inside, away = tmp_path / "photos", tmp_path / "disk"
    for folder in (inside / "a", inside / "b", away / "x"):
        folder.mkdir(parents=True)
    for file in (inside / "a" / "1.jpg", inside / "a" / "2.jpg", away / "x" / "3.jpg"):
        file.write_bytes(b"x")
    os.link(inside / "a" / "1.jpg", inside / "b" / "hard.jpg")
    (inside / "b" / "soft.jpg").symlink_to("../a/2.jpg")
    (inside / "b" / "away.jpg").symlink_to(away / "x" / "3.jpg")
    (inside / "c").symlink_to("a")
    (inside / "d").symlink_to(away)
    (inside / "e").symlink_to(away / "x")
    assert names(inside) == ["a/1.jpg", "a/2.jpg", "b/away.jpg"]
    (inside / "b" / "away.jpg").unlink()
    assert names(inside) == ["a/1.jpg", "a/2.jpg", "d/x/3.jpg"]
    (inside / ".kept").mkdir()
    os.rename(inside / "a", inside / ".kept" / "a")  # a link to what is not looked through itself is followed
    for link in (inside / "c", inside / "b" / "soft.jpg"):
        link.unlink()
    (inside / "c").symlink_to(".kept/a")
    assert names(inside) == ["b/hard.jpg", "c/2.jpg", "d/x/3.jpg"]


def test_names_that_are_no_part_of_a_collection_are_left_out(photos: Path) -> None:
    before = names(photos)
    for name in (
        "@eaDir/0.jpg/THUMB.jpg",
        "#recycle/x.jpg",
        "$Recycle.Bin/x.jpg",
        "cat/@EADIR/y.jpg",
        "__MACOSX/0.jpg",
    ):
        (photos / name).parent.mkdir(parents=True)
        (photos / name).write_bytes(b"x")
    assert names(photos) == before
    assert names(photos, exclude=["CAT", "[13].png"]) == ["bird/0.jpg", "bird/2.jpg", "dog/0.jpg", "dog/2.jpg"]
    assert names(photos, exclude=["cat/*", "*/3.png", "./dog/"]) == ["bird/0.jpg", "bird/1.png", "bird/2.jpg"]
    (photos / "cafe\u0301").mkdir()
    (photos / "cafe\u0301" / "a.jpg").write_bytes(b"x")
    assert len(names(photos)) == 13
    assert names(photos, exclude=["caf\u00e9"]) == before


def test_files_whose_names_say_nothing_are_told_by_their_bytes(tmp_path: Path) -> None:
    picture = Image.fromarray(NOISE)
    kinds = {
        "plain": "PNG",
        "x.jpg_large": "JPEG",
        "y.orig": "GIF",
        "z": "WEBP",
        "t.x": "TIFF",
        "b.x": "BMP",
        "j": "JPEG2000",
    }
    for name, kind in kinds.items():
        (tmp_path / name).write_bytes(encoded(picture.convert("P") if kind == "GIF" else picture, kind))
    others = {
        "notes.txt": b"BM is no picture",
        "film.mp4": b"\0\0\0\x18ftypisom",
        "raw.xyz": b"FUJIFILMCCD-RAW ",
        "empty": b"",
        "more.txt": b"a",
    }
    for name, data in others.items():
        (tmp_path / name).write_bytes(data)
    passed = finding.PassedOver()
    assert names(tmp_path, passed=passed) == sorted(kinds)
    assert (passed.count, str(passed)) == (5, "2 .txt, 1 .mp4, 1 .xyz, 1 without a suffix")


@posix
def test_a_pipe_without_a_suffix_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(tmp_path / "pipe.png")
    assert names(tmp_path) == ["pipe.png"]  # reading tells why not


def test_index_folders_are_no_images(photos: Path) -> None:
    before = names(photos)
    (photos / "x.index" / "codes").mkdir(parents=True)
    for name in ("manifest.json", "hits.jpg"):
        (photos / "x.index" / name).write_bytes(b"x")
    (photos / "m.training").mkdir()
    for name in ("metrics.csv", "loss.jpg"):
        (photos / "m.training" / name).write_bytes(b"x")
    assert names(photos) == before


def test_times_and_sizes_are_held_to_64_bits(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(photos / "cat" / "0.jpg")

    class Odd:
        st_size, st_mtime_ns, st_ctime_ns, st_ino = 5, 10**19, -(10**19), 2**64 - 1

    monkeypatch.setattr(finding.os, "stat", lambda _: Odd)
    assert finding.image_file(path) == finding.ImageFile(path, 5, 2**63 - 1, -(2**63), 2**63 - 1)


def test_a_ppm_is_told_by_its_first_bytes() -> None:
    for head in (b"P6\n640 480\n255\n", b"P1 # drawn\n# by hand\n 3 4 0 1", b"P5 1 1 255 "):
        assert looks_like_image(head)
    for head in (b"P6", b"P7\n1 1\n", b"P5 is a page\n", b"P2P 12 13 ", b"P1\n" + b"#\n" * 127):
        assert not looks_like_image(head)
