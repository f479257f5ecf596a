"""Labels from folders, CSV files and list files."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hashfaiss.errors import ArgumentError, LabelError
from hashfaiss.images.labels import labelled_files, labelled_images, read_label_file

posix = pytest.mark.skipif(os.name != "posix", reason="file names are text on this system")


def write(folder: Path, text: str | bytes) -> Path:
    file = folder / "labels.txt"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def read(folder: Path, text: str | bytes) -> dict[str, tuple[str, ...]]:
    return read_label_file(write(folder, text))


# Class folders


def test_the_folder_is_the_class(photos: Path) -> None:
    (photos / "cat" / "indoor").mkdir()
    for name in ("0.jpg", "cat/indoor/9.jpg"):
        (photos / name).write_bytes(b"x")
    found = {os.path.relpath(file.path, photos): labels for file, labels in labelled_files(photos)}
    assert len(found) == 14
    assert found["0.jpg"] == ()
    assert found[os.path.join("cat", "3.png")] == ("cat",)
    assert found[os.path.join("cat", "indoor", "9.jpg")] == ("indoor",)


def test_every_training_image_needs_a_label(photos: Path, tmp_path: Path) -> None:
    images = labelled_images(photos)
    assert [labels for _, labels in images] == [("bird",)] * 4 + [("cat",)] * 4 + [("dog",)] * 4
    assert images[0][0] == str(photos / "bird" / "0.jpg")
    (photos / "0.jpg").write_bytes(b"x")
    with pytest.raises(LabelError, match=r"1 of 13 images have no label, such as '.*0\.jpg': put each into"):
        labelled_images(photos)
    (tmp_path / "none").mkdir()
    with pytest.raises(LabelError, match="holds no images: give a folder with one folder of images per class"):
        labelled_images(tmp_path / "none")
    with pytest.raises(ArgumentError, match="does not exist"):
        labelled_images(tmp_path / "missing")


# CSV


@pytest.mark.parametrize("header", ["", "path,label\n", "path,labels\n", "Path, Label\n", "\n\npath,label\n"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_csv_with_and_without_header(tmp_path: Path, header: str, newline: str) -> None:
    text = header + "a.jpg,cat\n\nfolder/b c.jpg,dog\nno label.png,\n"
    found = read(tmp_path, text.replace("\n", newline))
    assert found == {"a.jpg": ("cat",), "folder/b c.jpg": ("dog",), "no label.png": ()}
    assert list(found) == ["a.jpg", "folder/b c.jpg", "no label.png"]


@pytest.mark.parametrize("header", ["filename,label", "Image,Class", "id,category", "file_path,tags"])
def test_a_header_of_any_words_is_no_image(tmp_path: Path, header: str) -> None:
    assert read(tmp_path, f"{header}\na.jpg,cat\nb,dog\n") == {"a.jpg": ("cat",), "b": ("dog",)}
    assert len(read(tmp_path, f"{header}\na,cat\nb,dog\n")) == 3  # nothing says which are images
    (tmp_path / header.split(",")[0]).touch()
    found = read_label_file(write(tmp_path, f"{header}\na.jpg,cat\n"), tmp_path)
    assert list(found) == [header.split(",")[0], "a.jpg"]
    (tmp_path / "a").touch()
    found = read_label_file(write(tmp_path, "name,of\na,cat\n"), tmp_path)
    assert found == {"a": ("cat",)}


def test_csv_with_several_labels(tmp_path: Path) -> None:
    found = read(tmp_path, "a.jpg,sky;sea\nb.jpg, sky ; sea; sky;;\nc.jpg,new york;x\n")
    assert found == {"a.jpg": ("sky", "sea"), "b.jpg": ("sky", "sea"), "c.jpg": ("new york", "x")}


def test_csv_quoting(tmp_path: Path) -> None:
    found = read(tmp_path, 'path,label\n"a,b.jpg",cat\n"say ""hi"".jpg","x;y"\n"two\nlines.jpg",dog\n')
    assert found == {"a,b.jpg": ("cat",), 'say "hi".jpg': ("x", "y"), "two\nlines.jpg": ("dog",)}


def test_a_file_called_path_is_a_file_after_the_first_line(tmp_path: Path) -> None:
    assert read(tmp_path, "a.jpg,cat\npath,label\n") == {"a.jpg": ("cat",), "path": ("label",)}


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    assert read(tmp_path, b"\xef\xbb\xbfpath,label\na.jpg,cat\n") == {"a.jpg": ("cat",)}
    assert read(tmp_path, b"\xef\xbb\xbfa.jpg 0 1\n") == {"a.jpg": ("1",)}


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1e"])
def test_what_unicode_calls_a_line_separator_is_part_of_a_name(tmp_path: Path, separator: str) -> None:
    assert read(tmp_path, f"a{separator}b.jpg,cat\nc.jpg,dog\n") == {f"a{separator}b.jpg": ("cat",), "c.jpg": ("dog",)}
    assert read(tmp_path, f"a{separator}b.jpg 0 1\nc.jpg 1 0\n") == {f"a{separator}b.jpg": ("1",), "c.jpg": ("0",)}


NAMES = st.text(st.characters(exclude_characters="\0\r", exclude_categories=["Cs"]), min_size=1, max_size=12)
LABELS = st.text("abz é/-_.09", min_size=1, max_size=6).map(str.strip).filter(bool)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(NAMES, st.lists(LABELS, max_size=3, unique=True), min_size=1, max_size=5), st.booleans())
def test_csv_that_python_wrote_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, listed: dict[str, list[str]], header: bool
) -> None:
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)
    writer.writerow(["path", "label"] if header else ["first.jpg", "first"])
    for path, labels in listed.items():
        writer.writerow([path, ";".join(labels)])
    expected = {} if header else {"first.jpg": ("first",)}
    for path, labels in listed.items():
        short = os.path.normpath(path)
        expected[short] = tuple(dict.fromkeys((*expected.get(short, ()), *labels)))
    assert read(tmp_path_factory.mktemp("csv"), buffer.getvalue()) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.jpg,cat\nb.jpg\n", "line 2 of '.*' has 1 columns: expected path,label"),
        ("a.jpg,cat\n\nb.jpg,dog,1\n", "line 3 of '.*' has 3 columns"),
        ("path,label\n,cat\n", "line 2 of '.*' has 2 columns"),
        ("just some words\n", "line 1 of '.*' has 1 columns"),
        ('a.jpg,cat\n"b.jpg,dog\n', "line 2 of '.*' is not CSV: unexpected end of data"),
        ('a.jpg,cat\n"b"x,dog\n', "line 2 of '.*' is not CSV"),
        ("a.jpg," + "x" * 200_000, "line 1 of '.*' is not CSV: field larger"),
        ("path,label\n", "lists no images"),
        ("", "lists no images"),
        ("\n\n  \n".replace("  ", ""), "lists no images"),
    ],
)
def test_bad_csv_names_the_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(LabelError, match=message):
        read(tmp_path, text)


def test_a_path_that_stands_twice_has_the_labels_of_both_lines(tmp_path: Path) -> None:
    found = read(tmp_path, "a.jpg,sky;sea\nb.jpg,x\na.jpg,sun;sky\nb.jpg,\n")
    assert found == {"a.jpg": ("sky", "sea", "sun"), "b.jpg": ("x",)}
    assert list(found) == ["a.jpg", "b.jpg"]
    assert read(tmp_path, "a.jpg 0 1 0\nb.jpg 1 0 0\n./a.jpg 1 1 0\n") == {"a.jpg": ("1", "0"), "b.jpg": ("0",)}


def test_one_file_written_in_several_ways_is_one(tmp_path: Path) -> None:
    text = "./a.png,1\nx//a.png,2\nx/../a.png,3\na.png,1\nx/./a.png,4\n"
    assert read(tmp_path, text) == {
        "a.png": ("1", "3"),
        os.path.join("x", "a.png"): ("2", "4"),
    }


@pytest.mark.parametrize(
    ("line", "path", "labels"),
    [
        ("c0/0.png,class 0", "c0/0.png", ("class 0",)),
        ("c0/0.png,class 1", "c0/0.png", ("class 1",)),
        ("c0/0.png,class 0 1", "c0/0.png", ("class 0 1",)),
        ('"a,b.png",class 0', "a,b.png", ("class 0",)),
        ("red,blue.png 0 1", "red,blue.png", ("1",)),
        ("red,blue.JPG 1", "red,blue.JPG", ("1",)),
        ("red,blue.JPG 12", "red,blue.JPG", ("12",)),
        ("a,b 12", "a", ("b 12",)),
        ("a,b,c 0 1", "a,b,c", ("1",)),
        ("no suffix 0 1", "no suffix", ("1",)),
        ('say "hi" 0 1', 'say "hi"', ("1",)),
        ('"x"y 0 1', '"x"y', ("1",)),
    ],
)
def test_csv_or_list_is_told_by_the_first_line(tmp_path: Path, line: str, path: str, labels: tuple[str, ...]) -> None:
    assert read(tmp_path, f"\n{line}\n") == {path: labels}


# List files


def test_list_file(tmp_path: Path) -> None:
    found = read(tmp_path, "a.jpg 0 1 0\nmy photos/b 1.jpg 1 0 1\n\n  c.jpg\t0 0 0\r\n")
    assert found == {"a.jpg": ("1",), "my photos/b 1.jpg": ("0", "2"), "c.jpg": ()}


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.data())
def test_list_file_is_that_of_the_loop(
    tmp_path_factory: pytest.TempPathFactory, classes: int, data: st.DataObject
) -> None:
    flags = data.draw(st.lists(st.lists(st.sampled_from("01"), min_size=classes, max_size=classes), min_size=1))
    lines, expected = [], {}
    for number, row in enumerate(flags):
        lines.append(f"image {number}.jpg {' '.join(row)}\n")
        flagged = [c for c in range(classes) if row[c] == "1"] if classes > 1 else row
        expected[f"image {number}.jpg"] = tuple(map(str, flagged))
    assert read(tmp_path_factory.mktemp("list"), "".join(lines)) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.jpg 0 1\nb.jpg 0 1 1\n", "line 2 of '.*' is 'b.jpg 0 1 1': expected a path, then 2 values of 0 or 1"),
        ("a.jpg 0 1\n\nb.jpg 0\n", "line 3 of"),
        ("a.jpg 0 1\nb.jpg 2 1\n", "line 2 of"),
        ("a.jpg 0 1\nb.jpg\n", "line 2 of"),
        ("a.jpg 0 1\n0 1\n", "line 2 of"),
        ("a.jpg 3\nb.jpg 1 0\n", "line 2 of '.*' is 'b.jpg 1 0': expected a path, then the number of its class"),
        ("a.jpg 3\nb.jpg cat\n", "line 2 of"),
        ("a.jpg 3\nb.jpg -1\n", "line 2 of"),
        ("a.jpg 0 1\n" + "b" * 5000 + "\n", "line 2 of '.*' is 'b{80}':"),
    ],
)
def test_bad_list_files_name_the_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(LabelError, match=message):
        read(tmp_path, text)


def test_a_list_of_class_numbers(tmp_path: Path) -> None:
    assert read(tmp_path, "a.jpg 0\nmy b.jpg 1\n") == {"a.jpg": ("0",), "my b.jpg": ("1",)}
    assert read(tmp_path, "a.jpg 7\nb.jpg 1\nc.jpg 012\n") == {"a.jpg": ("7",), "b.jpg": ("1",), "c.jpg": ("12",)}
    assert read(tmp_path, "a.jpg 1\nb.jpg 1\na.jpg 4\n") == {"a.jpg": ("1", "4"), "b.jpg": ("1",)}


# Files that are none


def test_label_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"cannot read the label file '.*gone\.csv': No such file or directory"):
        read_label_file(tmp_path / "gone.csv")
    with pytest.raises(LabelError, match="cannot read the label file"):
        read_label_file(tmp_path)
    for data in (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "a.jpg,cat\n".encode("utf-16-le")):
        with pytest.raises(LabelError, match="is not a text file: give a CSV of path,label or a list file"):
            read(tmp_path, data)


# With the images


def test_only_listed_images_are_used_in_the_order_of_the_file(photos: Path, tmp_path: Path) -> None:
    file = write(tmp_path, "dog/0.jpg,x\ncat/1.png,y;z\nmissing.jpg,x\n")
    found = list(labelled_files(photos, file))
    assert [(item.path, labels) for item, labels in found] == [
        (str(photos / "dog/0.jpg"), ("x",)),
        (str(photos / "cat/1.png"), ("y", "z")),
        (str(photos / "missing.jpg"), ("x",)),
    ]
    assert found[0][0].size == os.path.getsize(photos / "dog/0.jpg")
    assert found[2][0].size == 0  # named as skipped when it is read
    assert labelled_images(photos, file)[1] == (str(photos / "cat/1.png"), ("y", "z"))


def test_an_absolute_path_and_a_relative_one_are_the_same_image(photos: Path, tmp_path: Path) -> None:
    file = write(tmp_path, f"dog/0.jpg,x\n{photos / 'dog/0.jpg'},y\n")
    assert labelled_images(photos, file) == [(str(photos / "dog/0.jpg"), ("x", "y"))]


def test_a_listed_image_without_label_cannot_be_trained_on(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="1 of 2 images have no label"):
        labelled_images(photos, write(tmp_path, "dog/0.jpg 0 1\ncat/0.jpg 0 0\n"))


def test_none_of_the_listed_images_is_there(photos: Path, tmp_path: Path) -> None:
    message = r"lists 1,001 images, such as '0\.jpg', and none of them is in '.*photos': give the folder its paths"
    lines = [f"{number}.jpg,cat\n" for number in range(1000)] + ["x" * 3000 + ",cat\n"]
    with pytest.raises(LabelError, match=message):
        labelled_files(photos, write(tmp_path, "".join(lines)))
    with pytest.raises(ArgumentError, match="does not exist"):
        labelled_files(tmp_path / "missing", write(tmp_path, "a.jpg,cat\n"))


@posix
def test_names_that_are_not_text_are_found(photos: Path, tmp_path: Path) -> None:
    name = b"caf\xe9.jpg"
    os.rename(photos / "cat" / "0.jpg", os.path.join(os.fsencode(photos), name))
    for line in (name + b",cat\n", name + b" 1 0\n"):
        ((item, _),) = labelled_files(photos, write(tmp_path, line))
        assert os.fsencode(item.path).endswith(name)
        assert item.size > 0


@posix
def test_names_are_taken_in_one_normal_form(tmp_path: Path) -> None:
    composed, apart = "caf\u00e9", "cafe\u0301"
    folder = tmp_path / "photos"
    (folder / apart).mkdir(parents=True)
    for name in ("a.jpg", "b.jpg"):
        (folder / apart / name).touch()
    ((_, first), (_, second)) = labelled_files(folder)
    assert first == second == (composed,)
    file = write(tmp_path, f"{composed}/a.jpg,{apart}\n{apart}/b.jpg,{composed}\n")
    found = list(labelled_files(folder, file))
    assert [item.path for item, _ in found] == [str(folder / apart / name) for name in ("a.jpg", "b.jpg")]
    assert [labels for _, labels in found] == [(composed,)] * 2


@posix
def test_a_listed_file_is_one_image_by_whatever_link(photos: Path, tmp_path: Path) -> None:
    (photos / "again").symlink_to("cat")
    (photos / "one.jpg").symlink_to("cat/0.jpg")
    (tmp_path / "away").mkdir()
    os.rename(photos / "dog", tmp_path / "away" / "dog")
    (photos / "dog").symlink_to(tmp_path / "away" / "dog")
    file = write(tmp_path, "again/0.jpg,x\none.jpg,y\ncat/0.jpg,z\ndog/1.png,w\n")
    found = [(os.path.relpath(item.path, photos), labels) for item, labels in labelled_files(photos, file)]
    assert found == [("cat/0.jpg", ("x", "y", "z")), ("dog/1.png", ("w",))]


def test_listed_images_that_are_missing_are_named(photos: Path, tmp_path: Path) -> None:
    file = write(tmp_path, "dog/0.jpg,x\ndog/9.jpg,x\n")
    missing: list[str] = []
    assert labelled_images(photos, file, missing=missing) == [(str(photos / "dog/0.jpg"), ("x",))]
    assert missing == [str(photos / "dog/9.jpg")]


@posix
def test_an_image_has_the_labels_of_all_folders_that_name_it(tmp_path: Path) -> None:
    for name in ("cat/1.jpg", "cat/2.jpg", "cat/3.jpg", "dog/4.jpg", "pet/5.jpg", "6.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "pet/1.jpg").hardlink_to(tmp_path / "cat/1.jpg")
    (tmp_path / "pet/one.jpg").hardlink_to(tmp_path / "cat/1.jpg")
    (tmp_path / "pet/2.jpg").symlink_to("../cat/2.jpg")
    (tmp_path / "6 too.jpg").hardlink_to(tmp_path / "6.jpg")
    (tmp_path / "alias").symlink_to("dog")
    labelled = {os.path.relpath(file.path, tmp_path): labels for file, labels in labelled_files(tmp_path)}
    assert labelled == {
        "cat/1.jpg": ("cat", "pet"),
        "cat/2.jpg": ("cat", "pet"),
        "cat/3.jpg": ("cat",),
        "dog/4.jpg": ("dog",),
        "pet/5.jpg": ("pet",),
        "6 too.jpg": (),
    }
    (tmp_path / "labels.csv").write_text("cat/1.jpg,cat\npet/1.jpg,pet\npet/2.jpg,pet\ncat/3.jpg,cat\n")
    listed = labelled_files(tmp_path, tmp_path / "labels.csv")
    assert [(os.path.relpath(file.path, tmp_path), labels) for file, labels in listed] == [
        ("cat/1.jpg", ("cat", "pet")),
        ("cat/2.jpg", ("pet",)),
        ("cat/3.jpg", ("cat",)),
    ]


@pytest.mark.parametrize("mark", ["\t", ";", ","])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_tables_as_spreadsheets_write_them(tmp_path: Path, mark: str, encoding: str, end: str) -> None:
    rows = [["Datei", "Étiquette"], ["größe.jpg", "Käfer"], ["b.jpg", '"x;y"'], ["c.jpg", ""]]
    text = end.join(mark.join(row) for row in rows) + end
    assert read_label_file(write(tmp_path, text.encode(encoding))) == {
        "größe.jpg": ("Käfer",),
        "b.jpg": ("x", "y"),
        "c.jpg": (),
    }
    with pytest.raises(LabelError, match="is not a text file"):
        read_label_file(write(tmp_path, b"\xff\xfea\0b"))
