"""Trainings in phases: the head on features that stay, then all; schedules; epochs that fit into minutes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from trainings import StopAt, options

from hashfaiss.encoding.encoder import Encoder
from hashfaiss.errors import ArgumentError, TrainingError
from hashfaiss.images.preprocessing import Preprocessing
from hashfaiss.networks import build_network
from hashfaiss.train import budget, defaults
from hashfaiss.train.budget import epochs_that_fit
from hashfaiss.train.data import augment_batch
from hashfaiss.train.defaults import PEOPLE, STEPS, defaults_for_people
from hashfaiss.train.frozen import frozen_features
from hashfaiss.train.methods import METHODS
from hashfaiss.train.phases import Phase, phases_of, rate_factor
from hashfaiss.train.prepare import prepare_training
from hashfaiss.train.settings import settle
from hashfaiss.train.trainer import train

FROZEN: dict[str, Any] = {"freeze": True, "epochs": 3, "finetune": 2, "learning_rate": 1e-3}


def settled(images: Path, **changes: Any) -> Any:
    return settle(options(images, Path("m.pt"), **changes))


def test_rates_follow_the_length_of_a_phase(images: Path) -> None:
    steps = settled(images, schedule="steps", epochs=9, lr_step=3, lr_factor=0.1)
    assert [rate_factor(steps, phases_of(steps)[0], epoch, 0.5) for epoch in (1, 3, 4, 7)] == [1, 1, 0.1, 0.1**2]
    cosine, second = settled(images, schedule="cosine", **FROZEN), Phase("whole", 4, 5)
    assert phases_of(cosine) == [Phase("head", 1, 3), second]
    for epoch, share, done in [(4, 0, 0), (4, 0.5, 0.25), (5, 0, 0.5), (5, 0.9, 0.95)]:
        assert rate_factor(cosine, second, epoch, share) == pytest.approx((1 + math.cos(math.pi * done)) / 2)
    one = settled(images, schedule="one-cycle", **FROZEN)
    assert rate_factor(one, second, 4, 0) == pytest.approx(1 / 25)
    assert rate_factor(one, second, 4, 0.25) == pytest.approx((1 / 25 + 1) / 2)
    assert rate_factor(one, second, 4, 0.5) == 1
    assert rate_factor(one, second, 5, 0.25) == pytest.approx(0.5)


@pytest.mark.parametrize("attention", ["none", "ida"])
def test_a_frozen_training_changes_the_head_alone(attention: str, images: Path, tmp_path: Path) -> None:
    asked = options(images, tmp_path / "m.pt", **{**FROZEN, "finetune": 0, "attention": attention})
    with torch.random.fork_rng():
        torch.manual_seed(asked.seed)
        before = build_network("hash", settle(asked).network_arguments).state_dict()
    result = train(asked)
    after = torch.load(result.out, weights_only=True)["state_dict"]
    changed = {key.split(".")[0] for key in after if not torch.equal(after[key], before[key])}
    assert changed == {"hash_layer"} | ({"attention"} if attention == "ida" else set())
    assert result.history[-1].loss < result.history[0].loss
    assert len(result.history) == 3


def test_the_head_is_trained_on_what_the_network_gives(images: Path, tmp_path: Path) -> None:
    result = train(options(images, tmp_path / "m.pt", **{**FROZEN, "finetune": 0, "attention": "none"}))
    encoder = Encoder.load(result.out, "cpu")
    network: Any = encoder.network
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (40, 3, 16, 16), np.uint8))
    with torch.no_grad():
        found = frozen_features(network.frozen, pixels, encoder.preprocessing, torch.device("cpu"))
        whole = network(encoder.preprocessing.normalise(pixels))
        assert torch.allclose(network.head(found), whole, atol=1e-5)
    assert torch.allclose(found, encoder.features(pixels), atol=1e-6)


def test_then_all_of_it(images: Path, tmp_path: Path) -> None:
    told = []
    result = train(options(images, tmp_path / "m.pt", **FROZEN), progress=told.append)
    assert [row.epoch for row in result.history] == [1, 2, 3, 4, 5]
    assert {at.epochs for at in told if at.epoch} == {5}
    head = train(options(images, tmp_path / "h.pt", **{**FROZEN, "finetune": 0}))
    assert [row.loss for row in result.history[:3]] == [row.loss for row in head.history]


@pytest.mark.parametrize("stop", [1, 3, 4])
def test_cut_off_in_any_phase_and_continued_is_the_same(stop: int, images: Path, tmp_path: Path) -> None:
    asked = {**FROZEN, "schedule": "one-cycle", "optimiser": "adamw", "augment": "flip"}
    whole = train(options(images, tmp_path / "whole.pt", **asked))
    cut = options(images, tmp_path / "cut.pt", **asked)
    with pytest.raises(KeyboardInterrupt):
        train(cut, progress=StopAt(stop))
    again = train(cut, resume=True)
    assert [row.loss for row in again.history] == [row.loss for row in whole.history]
    states = [torch.load(result.out, weights_only=True)["state_dict"] for result in (whole, again)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"finetune": 2}, "finetune is 2 without freeze"),
        ({"freeze": True, "network": "dual-stream", "attention": None}, "freeze is for the network 'hash'"),
        ({"freeze": "yes"}, "freeze is 'yes'"),
        ({"minutes": 5.0}, "minutes decide epochs, and both were given"),
        ({"minutes": 5.0, "freeze": True, "finetune": 3}, "minutes decide finetune"),
        ({"minutes": 0.0, "epochs": None}, "minutes is 0.0: give a number above 0"),
        ({"schedule": "linear"}, "unknown schedule 'linear'"),
        ({"method": "itq", "freeze": True}, "is a setting of networks that are trained"),
        ({"method": "gah", "freeze": True}, "is a setting of the trainer's optimiser"),
    ],
)
def test_what_does_not_go_together_is_told(wrong: dict[str, Any], message: str, images: Path) -> None:
    with pytest.raises(ArgumentError, match=message):
        settle(options(images, Path("m.pt"), **wrong))


def test_as_many_epochs_as_fit() -> None:
    assert epochs_that_fit(100, 1000, 0, 100) == 10
    assert epochs_that_fit(109, 1000, 0, 100) == 10
    assert epochs_that_fit(100, 1000, 300, 100) == 9  # validation costs a third an image
    assert epochs_that_fit(-5, 1000, 0, 100) == 0


def test_minutes_decide_once(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # three epochs in all the time, but for what is over already: little, also on a busy machine
    monkeypatch.setattr(budget, "training_rate", lambda *_: 27 * 3 / 6000)
    monkeypatch.setattr(budget, "features_rate", lambda *_: 1e9)
    monkeypatch.setattr(budget, "head_rate", lambda *_: 1e9)
    monkeypatch.setattr(budget, "INFERENCE", math.inf)
    asked = options(images, tmp_path / "m.pt", freeze=True, epochs=1, minutes=100.0)
    said: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        train(asked, progress=StopAt(2), say=said.append)
    (sentence,) = said
    assert sentence == (
        "1 epoch of the hash layer on features computed once, then 2 of the whole network: at 0 images/s they fit "
        "into 100 minutes"
    )
    monkeypatch.setattr(budget, "training_rate", pytest.fail)  # of a training that goes on, they are known
    assert len(train(asked, resume=True, say=said.append).history) == 3
    assert len(said) == 1


def test_batch_norms_keep_what_the_head_was_trained_on(images: Path, tmp_path: Path) -> None:
    head = train(options(images, tmp_path / "head.pt", freeze=True, epochs=1, validation=0.0))
    both = train(options(images, tmp_path / "both.pt", freeze=True, epochs=1, finetune=1, validation=0.0))
    states = [Encoder.load(result.out).network.state_dict() for result in (head, both)]
    running = [name for name in states[0] if "running_" in name]
    assert running
    assert all(torch.equal(states[0][name], states[1][name]) for name in running)
    assert any(not torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_an_epoch_at_least(images: Path, tmp_path: Path) -> None:
    said: list[str] = []
    result = train(options(images, tmp_path / "m.pt", epochs=None, minutes=1e-9), say=said.append)
    assert len(result.history) == 1
    assert said[0].startswith("1 epoch: at ")
    assert "that is the least there can be, and does not fit" in said[0]


def test_a_training_cut_off_in_its_second_phase_is_not_started_over(images: Path, tmp_path: Path) -> None:
    asked = options(images, tmp_path / "m.pt", **FROZEN)
    with pytest.raises(KeyboardInterrupt):
        train(asked, progress=StopAt(4))
    with pytest.raises(TrainingError, match="stopped after epoch 4 of 5"):
        train(asked)


@pytest.mark.parametrize("fit", ["crop", "stretch"])
def test_a_frozen_training_sees_what_the_encoder_sees(fit: Any) -> None:
    preprocessing = Preprocessing(64, fit)
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 90, 90), np.uint8))
    seen = preprocessing.within_margin(preprocessing.resize(image, margin=True)[None])[0]
    assert seen.shape == (3, 64, 64)
    assert (seen.float() - preprocessing.resize(image).float()).abs().mean() < 12  # scaled twice, or by another step
    assert torch.equal(preprocessing.within_margin(seen[None])[0], seen)


def test_every_method_can_be_trained_without_a_recipe(photos: Path) -> None:
    for method in METHODS:
        settle(prepare_training(images=photos, method=method, bits=8))


def test_half_precision_reaches_timms_layers() -> None:
    network: Any = build_network("hash", {"backbone": "timm/mobilenetv3_small_050", "bits": 8})
    seen = []
    hook = network.backbone.body.conv_stem.register_forward_hook(lambda _m, _i, out: seen.append(out.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        network(torch.zeros(2, 3, 64, 64))
    hook.remove()
    assert seen == [torch.bfloat16]


@pytest.mark.parametrize("kind", ["photo", "randaugment"])
def test_variations_of_photographs_are_seeded_and_of_the_size_asked_for(kind: Any) -> None:
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (6, 3, 37, 37), np.uint8))
    with torch.random.fork_rng():
        made = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            made.append(augment_batch(pixels, kind, 32, torch.Generator()))
    assert made[0].shape == (6, 3, 32, 32)
    assert made[0].dtype == torch.uint8
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])
    assert len({image.numpy().tobytes() for image in made[0]}) == 6


def test_without_a_recipe_a_training_is_for_people(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = prepare_training(images=photos, bits=16)
    assert (options.backbone, options.freeze, options.minutes, options.size) == ("efficientnet-lite0", True, 15, 128)
    assert (options.method, options.batch, options.validation) == ("hashnet", 32, 0)  # of few images
    assert options.epochs == STEPS  # a step each
    assert prepare_training(images=photos, method="itq").backbone == "efficientnet-lite0"
    assert prepare_training(images=photos, freeze=True).minutes is None  # the head alone
    head = prepare_training(images=photos, freeze=True, epochs=7)
    assert (head.backbone, head.epochs, head.minutes) == ("efficientnet-lite0", 7, None)
    assert prepare_training(images=photos, recipe="dhida", minutes=5.0).epochs is None
    fixed = prepare_training(images=photos, finetune=3)
    assert (fixed.finetune, fixed.minutes) == (3, None)
    assert prepare_training(images=photos, backbone="resnet18").size is None
    for knowing in ({"epochs": 5}, {"weights": "none"}, {"network": "dual-stream"}, {"method": "gah"}):
        assert defaults_for_people(photos, knowing) == {}
        assert prepare_training(images=photos, **knowing).freeze is None
    assert prepare_training(images=photos, recipe="dhida").minutes is None
    assert settle(options).schedule == PEOPLE["schedule"]
    assert settle(prepare_training(images=photos, method="dhida")).method_options["memory"] is False
    with_memory = prepare_training(images=photos, method="dhida", option=["memory=true"])
    assert settle(with_memory).method_options["memory"] is True
    monkeypatch.setattr(defaults, "FEW", 12)
    monkeypatch.setattr(defaults, "LEAST_VALIDATED", 12)
    many = prepare_training(images=photos)
    assert (many.batch, many.validation) == (64, None)
    assert prepare_training(images=photos, method="csq").method_options == {}
