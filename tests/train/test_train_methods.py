"""Methods through the trainer: from images to a model file, cut off and continued."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from trainings import COLOURS, StopAt, options

from hashfaiss.codes import unpack
from hashfaiss.encoding.encoder import Encoder
from hashfaiss.encoding.learned import LearnedCodes
from hashfaiss.errors import ArgumentError, DivergedError, ModelError, TrainingError
from hashfaiss.library.image_index import ImageIndex
from hashfaiss.networks.backbones import build_backbone
from hashfaiss.train.settings import settle
from hashfaiss.train.trainer import train


# of all methods, see test_conformance.py; here one with a memory, one with codes of its own, one that takes its own
# steps, and one of two views with parameters of its own
@pytest.mark.slow
@pytest.mark.parametrize("method", ["dpsh", "adsh", "gah", "dhd"])
def test_cut_off_and_continued_is_the_same_training(images: Path, tmp_path: Path, method: str) -> None:
    whole = train(options(images, tmp_path / "whole.pt", method))
    cut = options(images, tmp_path / "cut.pt", method)
    with pytest.raises(KeyboardInterrupt):
        train(cut, progress=StopAt(2))
    continued = train(cut, resume=True)
    assert [row.loss for row in continued.history] == [row.loss for row in whole.history]
    one, two = (Encoder.load(result.out, "cpu") for result in (whole, continued))
    assert one.identity == two.identity
    assert one.method == method
    states = [torch.load(result.folder / "state.pt", weights_only=True) for result in (whole, continued)]
    assert states[0]["method"].keys() == states[1]["method"].keys()
    for name, value in states[0]["network"].items():
        assert torch.equal(value, states[1]["network"][name])


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["none", "danet", "ida"])
@pytest.mark.parametrize("method", ["dpsh", "hashnet"])
def test_any_loss_trains_under_any_attention(images: Path, tmp_path: Path, method: str, attention: Any) -> None:
    result = train(options(images, tmp_path / "m.pt", method, attention=attention, epochs=1, learning_rate=1e-3))
    assert Encoder.load(result.out, "cpu").network_arguments["attention"] == attention


def test_dual_stream_is_daths_own_and_others_may_take_it(images: Path, tmp_path: Path) -> None:
    dath = Encoder.load(train(options(images, tmp_path / "a.pt", "dath", streams="position", epochs=1)).out, "cpu")
    assert (dath.network_name, dath.network_arguments["streams"]) == ("dual-stream", "position")
    asked = options(
        images, tmp_path / "b.pt", "dpsh", network="dual-stream", streams="shared", epochs=1, learning_rate=1e-3
    )
    assert Encoder.load(train(asked).out, "cpu").network_name == "dual-stream"
    plain = options(images, tmp_path / "c.pt", "dath", network="hash", attention="ida", epochs=1)
    assert Encoder.load(train(plain).out, "cpu").network_name == "hash"


def test_gah_trains_in_float32_only(images: Path, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="precision is 'bfloat16': gah trains in float32 only"):
        settle(options(images, tmp_path / "m.pt", "gah", precision="bfloat16"))


def test_outputs_without_end_are_told_as_a_training_that_diverged(images: Path, tmp_path: Path) -> None:
    """The weights are finite, what they give is not."""
    asked = options(images, tmp_path / "m.pt", "dpsh", optimiser="rmsprop", learning_rate=1e30, momentum=0.0, batch=27)
    with pytest.raises(DivergedError, match="lower the learning rate"):
        train(asked)


def test_the_backbone_may_learn_slower(images: Path, tmp_path: Path) -> None:
    asked = options(images, tmp_path / "m.pt", "dpsh", backbone_rate=0.0, optimiser="sgd", weight_decay=0.0, epochs=1)
    first = torch.load(train(asked).folder / "state.pt", weights_only=True)
    more = options(images, tmp_path / "n.pt", "dpsh", backbone_rate=0.0, optimiser="sgd", weight_decay=0.0, epochs=3)
    last = torch.load(train(more).folder / "state.pt", weights_only=True)
    moved = {
        name
        for name, value in first["network"].items()
        if not torch.equal(value, last["network"][name]) and "running" not in name and "num_batches" not in name
    }
    assert moved == {"hash_layer.weight", "hash_layer.bias"}


@pytest.mark.parametrize(("optimiser", "name"), [("rmsprop", "square_avg"), ("sgd", "momentum"), ("adam", "exp_avg")])
def test_optimisers_by_name(images: Path, tmp_path: Path, optimiser: Any, name: str) -> None:
    asked = options(images, tmp_path / "m.pt", "dhida", optimiser=optimiser, momentum=0.9, epochs=1)
    state = torch.load(train(asked).folder / "state.pt", weights_only=True)["optimiser"]
    assert any(name in key for key in state["state"][0])


def test_a_single_label_method_refuses_several(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import dataclasses

    from hashfaiss.errors import LabelError
    from hashfaiss.train.methods.dpsh import DPSH

    monkeypatch.setattr(DPSH, "about", dataclasses.replace(DPSH.about, multi_label=False))
    lines = [f"{name}/{n:03}.png,{name};{'odd' if n % 2 else 'even'}" for name in COLOURS for n in range(12)]
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    with pytest.raises(LabelError, match=r"36 of 36 images have several labels, such as .*, and DPSH takes one"):
        train(options(images, tmp_path / "m.pt", "dpsh", labels=tmp_path / "labels.csv"))


@pytest.mark.parametrize(
    ("method", "bits", "message"),
    [
        ("cca-itq", 3, "bits is 3.*2 independent"),
        ("itq", 27, "bits is 27, but features of 128 values of 27 images differ in 26 directions at most"),
    ],
)
def test_bits_that_a_method_cannot_have(images: Path, tmp_path: Path, method: str, bits: int, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        train(options(images, tmp_path / "m.pt", method, bits=bits))
    assert not (tmp_path / "m.pt").exists()


# ---- codes that a method learns itself


@pytest.fixture(scope="session")
def adsh(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("adsh") / "adsh.pt"
    return train(options(images, out, "adsh", epochs=3, learning_rate=1e-3)).out


def test_an_index_holds_the_learned_codes_of_training_images(adsh: Path, images: Path) -> None:
    encoder = Encoder.load(adsh, "cpu")
    assert encoder.learned is not None
    assert len(encoder.learned.digests) == 27
    # whatever was learned, codes that differ from image to image
    encoder.learned = LearnedCodes(encoder.learned.digests, np.arange(100, 127, dtype=np.uint8)[:, None])
    index = ImageIndex.create(encoder, None, "flat")
    index.build(images)
    learned = dict(zip(encoder.learned.digests, encoder.learned.codes, strict=True))
    seen = 0
    for path in sorted(images.rglob("*.png")):
        digest = hashlib.blake2b(path.read_bytes(), digest_size=16).digest()
        network = encoder.encode([path])[0]
        expected = learned.get(digest, network)
        seen += digest in learned
        distance = int(np.unpackbits(expected ^ network).sum())
        hits = index.query(path, k=36)
        assert next(hit.distance for hit in hits if hit.path == str(path)) == distance  # the query is the network's
    assert seen == 27


def test_learned_codes_are_part_of_the_identity(adsh: Path, tmp_path: Path) -> None:
    encoder = Encoder.load(adsh, "cpu")
    assert encoder.learned is not None
    before = encoder.identity
    encoder.learned = LearnedCodes(encoder.learned.digests, encoder.learned.codes ^ 1)
    encoder.save(tmp_path / "other.pt")
    assert Encoder.load(tmp_path / "other.pt", "cpu").identity != before
    values = torch.load(adsh, weights_only=True)
    values["learned"]["codes"] = values["learned"]["codes"] ^ 1
    torch.save(values, tmp_path / "forged.pt")
    with pytest.raises(ModelError, match="not those that were saved"):
        Encoder.load(tmp_path / "forged.pt", "cpu")
    values["learned"]["codes"] = values["learned"]["codes"][:5]
    torch.save(values, tmp_path / "short.pt")
    with pytest.raises(ModelError, match="damaged"):
        Encoder.load(tmp_path / "short.pt", "cpu")


def test_learned_codes_are_signs(adsh: Path) -> None:
    encoder = Encoder.load(adsh, "cpu")
    assert encoder.learned is not None
    bits = unpack(encoder.learned.codes, 8)
    assert bits.shape == (27, 8)


def test_no_model_without_learned_codes_is_the_best(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Epochs before ADSH's first codes are not compared with those after."""
    monkeypatch.setattr("hashfaiss.train.methods.adsh.ROUNDS", 1)  # of 3 epochs
    result = train(options(images, tmp_path / "m.pt", "adsh", epochs=4))
    assert [row.validation_score is None for row in result.history] == [True, True, False, False]
    assert result.best_epoch >= 3
    with pytest.raises(KeyboardInterrupt):
        train(options(images, tmp_path / "n.pt", "adsh", epochs=4), progress=StopAt(2))
    assert Encoder.load(tmp_path / "n.pt", "cpu").learned is None


def test_weights_may_move_between_sittings(images: Path, tmp_path: Path) -> None:
    backbone = build_backbone("resnet-small")
    first, moved = tmp_path / "a" / "w.pt", tmp_path / "b" / "w.pt"
    for path in (first, moved):
        path.parent.mkdir()
        torch.save(backbone.body.state_dict(), path)
    with pytest.raises(KeyboardInterrupt):
        train(options(images, tmp_path / "m.pt", "dhida", weights=first), progress=StopAt(1))
    first.unlink()
    assert len(train(options(images, tmp_path / "m.pt", "dhida", weights=moved), resume=True).history) == 4
    torch.save(build_backbone("resnet-small").body.state_dict(), moved)
    with pytest.raises(TrainingError, match=r"other settings: weights was 'w\.pt, sha256"):
        train(options(images, tmp_path / "m.pt", "dhida", weights=moved), resume=True)


def test_a_shallow_method_does_not_continue_a_deep_one(images: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(options(images, tmp_path / "m.pt", "dhida"), progress=StopAt(1))
    state = (tmp_path / "m.training" / "state.pt").read_bytes()
    with pytest.raises(TrainingError, match="holds a training of 'dhida', which itq cannot continue"):
        train(options(images, tmp_path / "m.pt", "itq"), resume=True)
    assert (tmp_path / "m.training" / "state.pt").read_bytes() == state
