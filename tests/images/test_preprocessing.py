"""How an image becomes a network's input: resizing, cropping, normalising, and how that travels in a model file."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import Pixels
from PIL import Image
from torch.nn import functional

from hashfaiss.errors import ArgumentError, ModelError
from hashfaiss.images.preprocessing import Preprocessing


def image_of(pixels: Pixels) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1)


@pytest.mark.parametrize("size", [8, 32, 61])
@pytest.mark.parametrize("shape", [(24, 32), (90, 41), (33, 200), (100, 100), (9, 9)])
@pytest.mark.parametrize("margin", [False, True])
@pytest.mark.parametrize("fit", ["crop", "stretch"])
def test_resizing_is_what_pillow_does(size: int, shape: tuple[int, int], margin: bool, fit: Any) -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (*shape, 3)).astype(np.uint8)
    found = Preprocessing(size, fit).resize(image_of(pixels), margin)
    side = round(size * 256 / 224) if margin else size
    picture = Image.fromarray(pixels)
    if fit == "crop":
        kept = min(shape) if margin else round(min(shape) * 224 / 256)
        top, left = (shape[0] - kept) // 2, (shape[1] - kept) // 2
        picture = picture.crop((left, top, left + kept, top + kept))
    expected = np.array(picture.resize((side, side), Image.Resampling.BILINEAR)).astype(int)
    assert found.dtype == torch.uint8
    assert found.shape == (3, side, side)
    assert abs(found.permute(1, 2, 0).numpy() - expected).max() <= 1


@pytest.mark.parametrize(("size", "margin"), [(8, 9), (32, 37), (224, 256), (4096, 4681)])
def test_margin_size(size: int, margin: int) -> None:
    assert Preprocessing(size).margin_size == margin


def test_an_image_of_the_right_size_is_left_as_it_is() -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    found = Preprocessing(32, "stretch").resize(image_of(pixels))
    assert found.is_contiguous()
    assert (found.permute(1, 2, 0).numpy() == pixels).all()


@pytest.mark.parametrize("fit", ["crop", "stretch"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (1, 1_000_000), (1_000_000, 1), (2, 500_000)])
def test_thin_images_ask_for_little_memory(shape: tuple[int, int], fit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    largest = 0
    interpolate = functional.interpolate

    def seen(image: torch.Tensor, **arguments: Any) -> torch.Tensor:
        nonlocal largest
        result = interpolate(image, **arguments)
        largest = max(largest, result.numel())
        if fit == "crop":
            assert image.shape[-1] == image.shape[-2] <= min(shape)
        return result

    monkeypatch.setattr(functional, "interpolate", seen)
    grey = torch.full((3, *shape), 77, dtype=torch.uint8)
    for margin in (False, True):
        side = 37 if margin else 32
        found = Preprocessing(32, fit).resize(grey, margin)
        assert found.shape == (3, side, side)
        assert (found == 77).all()
    assert largest == 3 * 37 * 37


def test_normalise() -> None:
    pixels = np.random.default_rng(4).integers(0, 256, (2, 3, 8, 8)).astype(np.uint8)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    found = Preprocessing(8, "crop", mean, std).normalise(torch.from_numpy(pixels))
    assert found.dtype == torch.float32
    expected = (pixels / 255 - np.reshape(mean, (1, 3, 1, 1))) / np.reshape(std, (1, 3, 1, 1))
    assert np.allclose(found.numpy(), expected, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(8, 4096), st.sampled_from(["crop", "stretch"]), st.tuples(*[st.floats(0.01, 1)] * 3))
def test_preprocessing_travels_as_plain_values(size: int, fit: Any, values: tuple[float, float, float]) -> None:
    preprocessing = Preprocessing(size, fit, values, values[::-1])
    plain = preprocessing.to_dict()
    assert {type(value) for value in plain.values()} <= {int, str, list}
    assert Preprocessing.from_dict(plain) == preprocessing


@pytest.mark.parametrize("size", [7, 4097, 0, -1, 32.0, "32", None, True])
def test_preprocessing_refuses_a_size(size: Any) -> None:
    with pytest.raises(ArgumentError, match="whole number of pixels from 8 to 4096"):
        Preprocessing(size)


def test_preprocessing_refuses_a_fit() -> None:
    with pytest.raises(ArgumentError, match="fit is 'squash': give 'crop' or 'stretch'"):
        Preprocessing(32, "squash")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        {"size": 0},
        {"size": None},
        {"fit": "other"},
        {"fit": []},
        {"mean": [0.5, 0.5]},
        {"mean": None},
        {"mean": ["a", "b", "c"]},
        {"std": [1, 1, 1, 1]},
        {"std": [0.0, 1, 1]},
        {"std": 3},
        {"mean": [float("nan"), 0, 0]},
        {"std": [float("inf"), 1, 1]},
        {"std": [10**400, 1, 1]},
    ],
)
def test_preprocessing_of_a_file_that_cannot_be_used(change: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="the model file's preprocessing cannot be used"):
        Preprocessing.from_dict(Preprocessing().to_dict() | change)


@pytest.mark.parametrize("values", [None, 5, "text", [], {}, {"size": 32}, torch.zeros(3)])
def test_preprocessing_that_is_none(values: Any) -> None:
    with pytest.raises(ModelError, match="preprocessing cannot be used"):
        Preprocessing.from_dict(values)


def test_what_is_younger_than_the_model_file_changes_no_older_model() -> None:
    older = {"size": 224, "fit": "crop", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    assert Preprocessing().to_dict() == older
    assert Preprocessing.from_dict(older) == Preprocessing()
    younger = Preprocessing(crop=0.95, interpolation="bicubic", reduced=True)
    assert younger.to_dict() == {**older, "crop": 0.95, "interpolation": "bicubic", "reduced": True}
    assert Preprocessing.from_dict(younger.to_dict()) == younger


def test_the_crop_is_the_one_asked_for() -> None:
    image = torch.zeros(3, 100, 100, dtype=torch.uint8)
    image[:, 25:75, 25:75] = 255
    assert int(Preprocessing(50, crop=0.5).resize(image).min()) == 255
    assert int(Preprocessing(50, crop=1.0).resize(image).min()) == 0


@pytest.mark.parametrize("wrong", [{"crop": 0}, {"crop": 1.5}, {"interpolation": "nearest"}, {"reduced": 1}])
def test_a_crop_or_interpolation_that_is_none_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError):
        Preprocessing(**wrong)
    with pytest.raises(ModelError):
        Preprocessing.from_dict({**Preprocessing().to_dict(), **wrong})
