"""NUS-WIDE in its published layout, written here in small: read whole, and refused where it is not."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from layouts import relative, small, touch

from hashfaiss.datasets.layouts import NUSWIDE21, read_dataset, split_dataset
from hashfaiss.errors import ArgumentError, LabelError

CONCEPTS = sorted({*NUSWIDE21, *(f"concept{number:02}" for number in range(60))})


def nuswide(folder: Path, images: dict[str, set[str]], end: str = "\n") -> Path:
    """Image names with backslashes, as published, and their concepts."""
    touch(folder / "ImageList/Imagelist.txt", "".join(f"{path}{end}" for path in images))
    touch(folder / "ConceptsList/Concepts81.txt", "".join(f"{concept}{end}" for concept in CONCEPTS))
    for concept in CONCEPTS:
        flags = "".join(f"{int(concept in labels)}{end}" for labels in images.values())
        touch(folder / f"Groundtruth/AllLabels/Labels_{concept}.txt", flags)
    for path in images:
        touch(folder / "Flickr" / path.replace("\\", "/"))
    return folder


def some_images(count: int = 400, seed: int = 0) -> dict[str, set[str]]:
    draw = random.Random(seed)
    return {
        f"{draw.choice(CONCEPTS)}\\{n:04}_{draw.randrange(10**9)}.jpg": set(draw.sample(CONCEPTS, draw.randrange(4)))
        for n in range(count)
    }


@pytest.mark.parametrize("name", ["nuswide21", "nuswide81"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_nuswide(name: str, end: str, tmp_path: Path) -> None:
    images = some_images()
    known = set(NUSWIDE21) if name == "nuswide21" else set(CONCEPTS)
    found = read_dataset(name, nuswide(tmp_path, images, end))
    expected = {
        "Flickr/" + path.replace("\\", "/"): tuple(sorted(labels & known))
        for path, labels in images.items()
        if labels & known
    }
    assert relative(found) == sorted(expected.items())
    without = len(images) - len(expected)
    assert found.facts["left_out"] == {f"none of the {len(known)} labels": without}
    assert without > 50
    assert found.facts["classes"] == len(known)


def test_nuswide21_is_the_21_concepts() -> None:
    assert len(set(NUSWIDE21)) == 21


def test_nuswide_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nuswide(tmp_path / "data", some_images(2000))
    small(monkeypatch, "nuswide21", query=2, train=5)
    found = read_dataset("nuswide21", tmp_path / "data")
    split = split_dataset(found, None, 0, tmp_path / "21")
    assert split.facts["counts"] == {"query": 42, "train": 105, "database": len(found.images) - 42}
    assert split.facts["leaks"] == {"queries_in_database": 0, "queries_in_train": 0, "train_outside_database": 0}
    assert split.facts["cutoff"] == 5000
    assert split.facts["source"] == found.facts
    small(monkeypatch, "nuswide81", query=50, train=100)
    found = read_dataset("nuswide81", tmp_path / "data")
    split = split_dataset(found, None, 0, tmp_path / "81")
    assert split.facts["counts"] == {"query": 50, "train": 100, "database": len(found.images) - 50}
    with pytest.raises(ArgumentError, match="'nuswide21' is not of nuswide81: give nuswide81 or random:query="):
        split_dataset(found, "nuswide21", 0, tmp_path / "no")
    assert split_dataset(found, "random:query=3", 0, tmp_path / "own").facts["counts"]["query"] == 3


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("ImageList/Imagelist.txt", None, "has no ImageList/Imagelist.txt: nuswide81 is ImageList/"),
        ("ConceptsList/Concepts81.txt", None, "has no ConceptsList/Concepts81.txt"),
        ("ConceptsList/Concepts81.txt", "one\ntwo\n", "does not list 81 concepts"),
        ("ConceptsList/Concepts81.txt", "\n".join(["../../x", *CONCEPTS[1:]]), "does not list 81 concepts"),
        ("Groundtruth/AllLabels/Labels_sky.txt", None, "has no Groundtruth/AllLabels/Labels_sky.txt"),
        ("Groundtruth/AllLabels/Labels_sky.txt", "1\n0\n", "is not 3 lines of 0 or 1"),
        ("Groundtruth/AllLabels/Labels_sky.txt", "1\n0\n2\n", "is not 3 lines of 0 or 1"),
        ("Groundtruth/AllLabels/Labels_sky.txt", "10\n\n1\n", "is not 3 lines of 0 or 1"),
        ("Groundtruth/AllLabels/Labels_sky.txt", "10\n0\n1\n", "is not 3 lines of 0 or 1"),
        ("Flickr/a/1.jpg", None, "1 of 3 images that 'ImageList/Imagelist.txt' lists are not in .* 'Flickr/a/1.jpg'"),
        ("ImageList/Imagelist.txt", "a\\1.jpg\na\\1.jpg\na\\2.jpg\n", "lists an image twice"),
        ("ImageList/Imagelist.txt", "a\\1.jpg\na\\2.jpg\n..\\..\\etc\\passwd\n", "line 3 .* leads out of the folder"),
        ("ImageList/Imagelist.txt", "a/1.jpg\na/2.jpg\n/etc/passwd\n", "line 3 .* leads out of the folder"),
        ("ImageList/Imagelist.txt", "a/1.jpg\na/2.jpg\nC:\\x.jpg\n", "line 3 .* leads out of the folder"),
        ("ImageList/Imagelist.txt", b"a/1.jpg\na/2.jpg\na/\xff\0.jpg\n", "line 3 .* leads out of the folder"),
    ],
)
def test_nuswide_pieces(file: str, content: str | bytes | None, told: str, tmp_path: Path) -> None:
    nuswide(tmp_path, {f"a\\{n}.jpg": {"sky"} for n in range(3)})
    (tmp_path / file).unlink()
    if content is not None:
        touch(tmp_path / file, content)
    with pytest.raises(LabelError, match=told) as caught:
        read_dataset("nuswide81", tmp_path)
    assert "\n" not in str(caught.value)


def test_links_that_lead_out_of_a_listing(tmp_path: Path) -> None:
    folder = nuswide(tmp_path / "data", {f"a\\{n}.jpg": {"sky"} for n in range(3)})
    secret = touch(tmp_path / "secret.jpg")
    inside = touch(folder / "Flickr/b/there.jpg")
    image = folder / "Flickr/a/1.jpg"
    image.unlink()
    image.symlink_to(inside)
    assert len(read_dataset("nuswide21", folder).images) == 3
    image.unlink()
    image.symlink_to(secret)
    with pytest.raises(LabelError, match=r"'Flickr/a/1.jpg' of 'ImageList/Imagelist.txt' leads out of .*secret.jpg"):
        read_dataset("nuswide21", folder)
    image.unlink()
    touch(image)
    (folder / "Flickr/a").rename(tmp_path / "a")
    (folder / "Flickr/a").symlink_to(tmp_path / "a")
    with pytest.raises(LabelError, match=r"'Flickr/a' of 'ImageList/Imagelist.txt' leads out of"):
        read_dataset("nuswide21", folder)
    (folder / "Flickr/a").unlink()
    (tmp_path / "a").rename(folder / "Flickr/a")
    (folder / "Flickr").rename(tmp_path / "other disk")
    (folder / "Flickr").symlink_to(tmp_path / "other disk")  # the whole folder elsewhere: its owner's choice
    assert len(read_dataset("nuswide21", folder).images) == 3
