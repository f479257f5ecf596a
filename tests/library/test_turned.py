"""Near images that are turned or mirrored."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import run
from PIL import Image

from hashfaiss.encoding.encoder import Encoder
from hashfaiss.errors import ArgumentError
from hashfaiss.images.decoding import read_image
from hashfaiss.library.image_index import ImageIndex
from hashfaiss.library.turned import views_of

TURNS = list(Image.Transpose)


@pytest.fixture
def turned(photos: Path) -> Path:
    """Twelve photos; cat/0.jpg in all its views, dog/1.png mirrored, as files that lose nothing."""
    with Image.open(photos / "cat/0.jpg") as cat, Image.open(photos / "dog/1.png") as dog:
        side = min(cat.size)
        cat = cat.crop((0, 0, side, side))
        cat.save(photos / "cat/0.png")
        (photos / "cat/0.jpg").unlink()
        for turn in TURNS:
            cat.transpose(turn).save(photos / f"bird/{turn.name}.png")
        dog.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(photos / "cat/mirrored.png")
    return photos


def names(groups: object) -> list[set[str]]:
    return [{Path(hit.path).name for hit in group} for group in groups]  # type: ignore[attr-defined]


def by_hand(encoder: Encoder, index: ImageIndex, radius: int) -> set[frozenset[int]]:
    """Groups by comparing all views of all images with all codes, one after the other."""
    stored, ids = index.store.codes()
    near = np.zeros((len(ids), len(ids)), bool)
    for row, number in enumerate(ids.tolist()):
        image = encoder.preprocessing.resize(read_image(str(index.store.full_path(index.store.row(number)))))
        for view in views_of(image):
            code = encoder.encode_resized(view[None].contiguous())
            near[row] |= np.bitwise_count(stored ^ code).sum(axis=1) <= radius
    near |= near.T
    groups, left = set(), set(range(len(ids)))
    while left:
        reached = {left.pop()}
        while more := {int(j) for i in reached for j in np.flatnonzero(near[i])} - reached:
            reached |= more
        left -= reached
        groups.add(frozenset(ids[list(reached)].tolist()))
    return {group for group in groups if len(group) > 1}


def test_views_are_all_there_are_and_the_first_is_the_image() -> None:
    image = torch.arange(27).reshape(3, 3, 3)
    views = views_of(image)
    assert torch.equal(views[0], image)
    expected = {np.asarray(Image.fromarray(image[0].numpy().astype(np.uint8)).transpose(t)).tobytes() for t in TURNS}
    assert {view[0].numpy().astype(np.uint8).tobytes() for view in views[1:]} == expected


@pytest.mark.parametrize("radius", [0, 1, 3])
def test_turned_and_mirrored_images_are_found(encoder: Encoder, turned: Path, tmp_path: Path, radius: int) -> None:
    index = encoder.to_index(turned, tmp_path / "x.index")
    seen: list[tuple[int, int]] = []
    groups = list(index.duplicates(radius, lambda *at: seen.append(at), rotations=True))
    assert {frozenset(hit.id for hit in group) for group in groups} == by_hand(encoder, index, radius)
    found = names(groups)
    assert any({"0.png", *(f"{turn.name}.png" for turn in TURNS)} <= group for group in found)
    assert any({"1.png", "mirrored.png"} <= group for group in found)
    assert seen[-1] == (len(index), len(index))
    assert all(hit.distance <= radius for group in groups if len(group) == 2 for hit in group)


def test_what_cannot_be_turned_counts_as_it_lies(encoder: Encoder, turned: Path, tmp_path: Path) -> None:
    shutil.copy(turned / "dog/1.png", turned / "dog/copy.png")
    index = encoder.to_index(turned, tmp_path / "x.index")
    (turned / "dog/1.png").unlink()
    (turned / "cat/mirrored.png").unlink()
    shutil.copy(turned / "cat/0.png", turned / "bird/ROTATE_90.png")
    told: list[tuple[str, str]] = []
    groups = names(index.duplicates(rotations=True, unread=lambda path, why: told.append((Path(path).name, why))))
    assert sorted(told) == [
        ("1.png", "no such file"),
        ("ROTATE_90.png", "altered since it was indexed"),
        ("mirrored.png", "no such file"),
    ]
    assert any({"1.png", "copy.png", "mirrored.png"} <= group for group in groups)


def test_rotations_go_with_chains_over_all(encoder: Encoder, turned: Path, tmp_path: Path) -> None:
    index = encoder.to_index(turned, tmp_path / "x.index")
    for more in ({"link": "complete"}, {"reference": turned / "cat"}, {"between": (turned / "cat", turned / "dog")}):
        with pytest.raises(ArgumentError, match="rotations go with all images"):
            list(index.duplicates(rotations=True, **more))  # type: ignore[arg-type]
    (turned / "dog/1.png").unlink()
    told = run("duplicates", "--index", str(tmp_path / "x.index"), "--rotations", "--radius", "1")
    assert "mirrored.png" in told
    assert "within distance 1" in told
    empty = encoder.to_index(torch.zeros(0, 3, 32, 32, dtype=torch.uint8))
    assert list(empty.duplicates(rotations=True)) == []
