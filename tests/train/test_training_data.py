"""Training data: the validation split, augmentation, images in memory or in a file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from trainings import no_room

from hashfaiss.errors import TrainingError
from hashfaiss.images.preprocessing import Preprocessing
from hashfaiss.train import data as training_data
from hashfaiss.train.data import augment_batch, load_training_data, split_validation


@given(
    counts=st.lists(st.integers(1, 30), min_size=2, max_size=5),
    share=st.floats(0.05, 0.5),
    seed=st.integers(0, 99),
)
@settings(deadline=None)
def test_validation_is_a_share_of_each_class(counts: list[int], share: float, seed: int) -> None:
    labels = [(str(name),) for name, count in enumerate(counts) for _ in range(count)]
    try:
        held_out = split_validation(labels, share, seed)
    except TrainingError:
        assert all(round(share * count) == 0 or count < 4 for count in counts)
        return
    assert held_out == split_validation(labels, share, seed)
    for name, count in enumerate(counts):
        held = sum(out for out, label in zip(held_out, labels, strict=True) if label == (str(name),))
        assert held in (0, 2) or held == round(share * count)
        assert held != 1
        assert held <= max(2, count / 2 + 1)
        assert count - held >= min(count, 2)


def test_validation_of_several_labels_goes_by_the_rarest() -> None:
    labels = [("common", "rare")] * 20 + [("common",)] * 60
    held_out = split_validation(labels, 0.1, seed=0)
    assert sum(held_out[:20]) == 2
    assert sum(held_out[20:]) == 6


def numbered(n: int, side: int) -> torch.Tensor:
    return torch.arange(n * 3 * side * side).remainder(251).to(torch.uint8).view(n, 3, side, side)


def test_flip_flips_half() -> None:
    images = numbered(200, 6)
    found = augment_batch(images, "flip", 6, torch.Generator().manual_seed(0))
    flipped = [torch.equal(a, b.flip(2)) for a, b in zip(found, images, strict=True)]
    kept = [torch.equal(a, b) for a, b in zip(found, images, strict=True)]
    assert all(f != k for f, k in zip(flipped, kept, strict=True))
    assert 60 < sum(flipped) < 140


def test_crop_cuts_every_square() -> None:
    images = numbered(1, 7).expand(400, 3, 7, 7)
    found = augment_batch(images, "crop", 5, torch.Generator().manual_seed(0))
    squares = [images[0, :, top : top + 5, left : left + 5] for top in range(3) for left in range(3)]
    squares += [square.flip(2) for square in squares]
    hits = [[torch.equal(image, square) for square in squares].index(True) for image in found]
    assert set(hits) == set(range(18))


@pytest.mark.parametrize("kind", ["none", "flip", "crop"])
def test_augmentation_follows_its_generator(kind: Any) -> None:
    images = numbered(20, 6 if kind != "crop" else 8)
    one, two = (augment_batch(images, kind, 6, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(one, two)
    assert one.shape == (20, 3, 6, 6)
    assert one.dtype == torch.uint8


def test_data_in_a_file_is_the_data(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = [(str(path), (path.parent.name,)) for path in sorted(images.rglob("*.png"))]

    def load() -> training_data.TrainingData:
        return load_training_data(listed, Preprocessing(16, "stretch"), ("crop",), 0.25, 0, lambda _: None)

    in_memory = load()
    monkeypatch.setattr(training_data, "MEMORY_BYTES", 1000)
    monkeypatch.setattr(training_data, "HASHED_AT_ONCE", 1000)
    in_file = load()
    assert torch.equal(in_memory.training.images, in_file.training.images)
    assert torch.equal(in_memory.validation.images, in_file.validation.images)
    assert in_memory.fingerprint == in_file.fingerprint
    assert in_memory.training.images.shape == (27, 3, 18, 18)
    assert in_memory.validation.images.shape == (9, 3, 16, 16)
    for part in (in_memory.training, in_memory.validation):
        assert [in_memory.classes[row.argmax()] for row in part.labels] == [names[0] for names in part.names]
        assert part.labels.sum() == len(part)
    monkeypatch.setattr(os, "posix_fallocate", no_room, raising=False)
    with pytest.raises(TrainingError, match=r"GiB in .*No space left on device.*TMPDIR"):
        load()
