"""Photographs without labels: an encoder fitted to a folder, and what it promises."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import run
from PIL import Image

from hashfaiss.encoding.encoder import Encoder
from hashfaiss.errors import ArgumentError, TrainingError
from hashfaiss.images.finding import find_images
from hashfaiss.images.typical import typical_size
from hashfaiss.library.image_index import ImageIndex
from hashfaiss.networks.features import FeatureHash
from hashfaiss.train import unlabelled
from hashfaiss.train.unlabelled import fit_to_folders


@pytest.fixture
def flat(photos: Path, tmp_path: Path) -> Path:
    """The twelve photos in one folder, and a file that is no image."""
    folder = tmp_path / "flat"
    folder.mkdir()
    for number, file in enumerate(sorted(photos.rglob("*.*"))):
        shutil.copy(file, folder / f"{number:02}{file.suffix}")
    (folder / "99.jpg").write_bytes(b"no image")
    return folder


def test_an_index_of_the_folder_has_the_codes_the_saved_encoder_gives(flat: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    encoder = fit_to_folders([flat], bits=8, device="cpu", progress=lambda *at: seen.append(at))
    assert (encoder.bits, encoder.method, encoder.labels, encoder.preprocessing.size) == (8, "itq", [], 128)
    assert (encoder.facts["training_images"], encoder.facts["skipped_images"]) == (12, 1)
    assert seen[-1] == (13, 13)
    index = encoder.to_index(flat, tmp_path / "x.index")
    loaded = Encoder.load(tmp_path / "x.index/encoder.pt", "cpu")
    assert loaded.identity == encoder.identity
    assert loaded.remembered is None
    files = [index.store.full_path(row) for _, row in index.store.rows()]
    assert np.array_equal(index.store.codes()[0], loaded.encode([str(file) for file in files]))
    assert index.query(flat / "03.png", k=1)[0].distance == 0


def test_features_are_computed_once(flat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    through = []
    vectors = FeatureHash.vectors
    monkeypatch.setattr(FeatureHash, "vectors", lambda net, x: through.append(len(x)) or vectors(net, x))
    encoder = fit_to_folders([flat], bits=8, device="cpu")
    encoder.to_index(flat, tmp_path / "x.index")
    # again only what lies too near zero, and a few of those twice: once in float32, once in float64
    again = 12 - len(encoder.remembered.digests if encoder.remembered else [])
    assert 12 <= sum(through) <= 12 + 2 * again
    assert again < 12


def test_a_sample_is_seeded_and_the_rest_encoded(flat: Path, tmp_path: Path) -> None:
    (flat / "99.jpg").unlink()
    encoder = fit_to_folders([flat], bits=8, sample=10, seed=3, device="cpu")
    assert encoder.facts["training_images"] == 10
    assert fit_to_folders([flat], bits=8, sample=10, seed=3, device="cpu").identity == encoder.identity
    assert fit_to_folders([flat], bits=8, sample=10, seed=4, device="cpu").identity != encoder.identity
    index = encoder.to_index(flat, tmp_path / "x.index")
    assert len(index) == 12
    encoder.remembered = None
    assert np.array_equal(index.store.codes()[0], encoder.encode(flat))


def test_fewer_images_get_fewer_bits(flat: Path) -> None:
    assert fit_to_folders([flat], device="cpu").bits == 8


def test_several_folders_count_and_what_is_excluded_does_not(flat: Path, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    for file in flat.glob("0[0-5].*"):
        file.rename(tmp_path / f"more/{file.stem}_x{file.suffix}")
    both = flat, tmp_path / "more"
    assert fit_to_folders(both, bits=8, device="cpu").facts["training_images"] == 12
    assert fit_to_folders([*both, flat], bits=8, device="cpu").facts["training_images"] == 12
    assert fit_to_folders(both, bits=8, device="cpu", exclude=["0[01]_x*"]).facts["training_images"] == 10
    run("build", "--images", str(flat), "--images", str(both[1]), "--exclude", "00_x*", "--index", str(tmp_path / "i"))
    assert Encoder.load(tmp_path / "i/encoder.pt").facts["training_images"] == 11


def test_what_no_model_can_be_fitted_to_is_told(tmp_path: Path, flat: Path) -> None:
    few, alike = tmp_path / "few", tmp_path / "alike"
    few.mkdir()
    alike.mkdir()
    for name in ("00.jpg", "01.png", "02.jpg"):
        shutil.copy(flat / name, few)
    for number in range(12):
        Image.new("RGB", (20, 20), "red").save(alike / f"{number}.png")
    with pytest.raises(TrainingError, match=r"few': 3 images that can be read: .* takes 9 or more"):
        fit_to_folders([few], device="cpu")
    with pytest.raises(TrainingError, match="all look alike"):
        fit_to_folders([alike], device="cpu")
    with pytest.raises(ArgumentError, match="does not exist"):
        fit_to_folders([tmp_path / "gone"])
    with pytest.raises(ArgumentError, match="bits"):
        fit_to_folders([flat], bits=0)


def test_build_without_a_model_then_query(flat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "12 encoded, 0 unchanged, 0 removed, 1 skipped" in run("build", "--images", "flat")
    first = ImageIndex.open("hashfaiss.index").store.manifest["encoder"]["identity"]
    assert "00.jpg" in run("query", "flat/00.jpg", "-k", "1")
    shutil.copy(flat / "00.jpg", flat / "20.jpg")
    monkeypatch.setattr(unlabelled, "fit_to_folders", pytest.fail)  # the index keeps its model
    assert "0 encoded, 1 recognised by their contents, 12 unchanged" in run("build", "--images", "flat")
    assert ImageIndex.open("hashfaiss.index").store.manifest["encoder"]["identity"] == first
    told = run("evaluate", "--depth", "5")
    assert "recall@10" in told
    Path("few").mkdir()
    shutil.copy(flat / "00.jpg", "few")
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert "takes 9 or more" in run("build", "--images", "few", "--index", "y", code=1)
    assert not Path("y").exists()


@pytest.mark.parametrize("method", ["itq", "lsh"])
def test_methods_without_labels_take_a_flat_folder(method: str, flat: Path, tmp_path: Path) -> None:
    told = run("train", "--images", str(flat), "--method", method, "--bits", "6", "--out", str(tmp_path / "m.pt"))
    assert "recall@10" not in told  # of two images held out it would say nothing
    encoder = Encoder.load(tmp_path / "m.pt")
    assert encoder.labels == []
    assert encoder.facts["training_images"] + encoder.facts["validation_images"] == 12


def test_labels_are_of_no_use_to_them(photos: Path, tmp_path: Path) -> None:
    run("train", "--images", str(photos), "--method", "itq", "--bits", "6", "--out", str(tmp_path / "m.pt"))
    assert Encoder.load(tmp_path / "m.pt").labels == []
    assert "images have no label" in run("train", "--images", str(photos / "cat"), code=1)


def test_small_pictures_are_seen_small(tmp_path: Path) -> None:
    for number, size in enumerate([(100, 300), (150, 150), (600, 400)]):
        Image.new("RGB", size).save(tmp_path / f"{number}.png")
    (tmp_path / "4.png").write_bytes(b"")
    assert typical_size(find_images(tmp_path)) == 128
    Image.new("RGB", (900, 900)).save(tmp_path / "5.png")
    Image.new("RGB", (900, 900)).save(tmp_path / "6.png")
    assert typical_size(find_images(tmp_path)) == 224
    assert typical_size([]) == 224


def test_remembered_codes_are_given_without_decoding(encoder: Encoder, flat: Path, monkeypatch: Any) -> None:
    from hashfaiss.encoding import pipeline
    from hashfaiss.encoding.items import as_items
    from hashfaiss.encoding.learned import LearnedCodes

    (flat / "99.jpg").unlink()
    batches = list(pipeline.encode_stream(encoder, as_items(flat)))
    digests = [digest for batch in batches for digest in batch.digests]
    expected = np.concatenate([batch.codes for batch in batches])
    decoded: list[str] = []
    real = pipeline.decode_image
    monkeypatch.setattr(pipeline, "decode_image", lambda *given: decoded.append(given[1]) or real(*given))
    try:
        encoder.remembered = LearnedCodes(digests[::2], expected[::2] ^ 255)
        found = np.concatenate([batch.codes for batch in pipeline.encode_stream(encoder, as_items(flat))])
        assert np.array_equal(found[::2], expected[::2] ^ 255)
        assert np.array_equal(found[1::2], expected[1::2])
        assert len(decoded) == 6
        outputs = [batch.outputs for batch in pipeline.encode_stream(encoder, as_items(flat), outputs=True)]
        assert sum(len(part) for part in outputs if part is not None) == 12
        encoder.remembered = LearnedCodes(digests, expected)
        assert np.array_equal(encoder.encode(flat), expected)
    finally:
        encoder.remembered = None
