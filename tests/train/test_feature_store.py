"""Features of a fixed backbone, computed once: they are the encoder's, known by files, and so are codes from them."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hashfaiss.encoding.encoder import Encoder
from hashfaiss.encoding.items import as_items
from hashfaiss.encoding.pipeline import encode_stream
from hashfaiss.files import content_digest
from hashfaiss.images.finding import find_images
from hashfaiss.images.preprocessing import Preprocessing
from hashfaiss.train import feature_store, trainer
from hashfaiss.train.data import TrainingData
from hashfaiss.train.feature_store import FeatureStore
from hashfaiss.train.settings import TrainOptions
from hashfaiss.train.trainer import train


def quiet(what: str) -> Any:
    return nullcontext(lambda done, total: None)


def store_of(folder: Path, files: list[str]) -> FeatureStore:
    return FeatureStore(folder / "features", files, quiet)


@pytest.fixture
def files(photos: Path) -> list[str]:
    (photos / "no.jpg").write_bytes(b"no image")
    return [file.path for file in find_images(photos)]


@pytest.fixture(params=["openvino", "torch"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "openvino":
        pytest.importorskip("openvino")
    else:
        monkeypatch.setattr("hashfaiss.encoding.engine.find_spec", lambda name: None)
    return str(request.param)


def rows(store: FeatureStore, encoder: Encoder, digests: list[bytes]) -> torch.Tensor | None:
    network: Any = encoder.network
    return store.rows(network.backbone, "resnet-small", encoder.preprocessing, digests)


def test_features_are_the_encoders(encoder: Encoder, files: list[str], tmp_path: Path, engine: str) -> None:
    good = [file for file in files if not file.endswith("no.jpg")]
    digests = [content_digest(Path(file).read_bytes()) for file in good]
    found = rows(store_of(tmp_path, files), encoder, digests[::-1])
    (batch,) = encode_stream(encoder, as_items(good), features=True)
    assert found is not None
    assert batch.features is not None
    torch.testing.assert_close(found, torch.from_numpy(batch.features[::-1].copy()), rtol=1e-4, atol=1e-5)
    assert rows(store_of(tmp_path, files), encoder, [*digests, b"x" * 16]) is None


def test_codes_are_the_encoders_where_they_are_clear(
    encoder: Encoder, files: list[str], tmp_path: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = [file for file in files if not file.endswith("no.jpg")]
    expected = dict(
        zip([content_digest(Path(file).read_bytes()) for file in good], encoder.encode(good).tolist(), strict=True)
    )
    known = store_of(tmp_path, files).codes(encoder)
    assert dict(zip(known.digests, known.codes.tolist(), strict=True)) == expected
    monkeypatch.setattr(feature_store, "CLOSE", 0.3)
    fewer = store_of(tmp_path, files).codes(encoder)
    assert 0 < len(fewer.digests) < len(expected)
    assert all(expected[digest] == code for digest, code in zip(fewer.digests, fewer.codes.tolist(), strict=True))


def test_nothing_is_computed_twice(
    encoder: Encoder, files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    real = feature_store.encode_stream

    def counted(by: Any, items: Any, **how: Any) -> Any:
        asked.append(1)
        return real(by, items, **how)

    monkeypatch.setattr(feature_store, "encode_stream", counted)
    digests = [content_digest(Path(files[1]).read_bytes())]
    first = rows(store_of(tmp_path, files), encoder, digests)
    assert first is not None
    again = rows(store_of(tmp_path, files), encoder, digests)
    assert again is not None
    assert torch.equal(first, again)
    assert len(asked) == 1
    (features,) = (tmp_path / "features").glob("*.npy")
    whole = features.read_bytes()
    for damaged in (whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1]), b""):
        features.write_bytes(damaged)
        found = rows(store_of(tmp_path, files), encoder, digests)
        assert found is not None
        assert torch.equal(found, first)
    assert len(asked) == 4
    rows(store_of(tmp_path, files[1:]), encoder, [])  # other files
    network: Any = encoder.network
    store_of(tmp_path, files).rows(network.backbone, "resnet-small", Preprocessing(16), [])  # seen otherwise
    assert len(asked) == 6


def test_no_file_can_be_read(encoder: Encoder, tmp_path: Path) -> None:
    (tmp_path / "no.jpg").write_bytes(b"no image")
    store = store_of(tmp_path, [str(tmp_path / "no.jpg")])
    assert rows(store, encoder, [b"x" * 16]) is None
    assert store.codes(encoder).codes.shape == (0, 3)
    assert len(np.load(next((tmp_path / "features").glob("*.npy")))) == 0


def test_trainings_read_the_same_images_once(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    real = trainer.load_training_data

    def counted(*how: Any) -> TrainingData:
        asked.append(1)
        return real(*how)

    monkeypatch.setattr(trainer, "load_training_data", counted)
    store = store_of(tmp_path, [file.path for file in find_images(photos)])
    options = TrainOptions(
        images=photos, out=tmp_path / "a.pt", backbone="resnet-small", weights="none", size=32, bits=8, epochs=1
    )
    options = replace(options, validation=0, batch=4, freeze=True, finetune=0, augment="none", device="cpu")
    layers = []
    for rate in (1e-3, 1e-2, 1e-3):
        train(replace(options, learning_rate=rate), store=store)
        layers.append(torch.load(tmp_path / "a.pt", weights_only=True)["state_dict"]["hash_layer.weight"])
    assert len(asked) == 1
    assert torch.equal(layers[0], layers[2])
    assert not torch.equal(layers[0], layers[1])
    train(replace(options, learning_rate=1e-3))
    alone = torch.load(tmp_path / "a.pt", weights_only=True)["state_dict"]["hash_layer.weight"]
    torch.testing.assert_close(alone, layers[0], rtol=1e-4, atol=1e-5)
    train(replace(options, seed=1), store=store)
    (photos / "dog" / "3.png").unlink()
    train(options, store=store)
    assert len(asked) == 4
