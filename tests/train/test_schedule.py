"""Settings laid over each other, and settings that would change nothing."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from hashfaiss.cli import app
from hashfaiss.errors import ArgumentError
from hashfaiss.experiments.plans import differences, lay_over
from hashfaiss.experiments.tables import Row, Table
from hashfaiss.train.options import TrainOptions
from hashfaiss.train.recipes import load_recipe, with_changes
from hashfaiss.train.settings import settle


def settled(**asked: Any) -> Any:
    return settle(TrainOptions(images="photos", out="m.pt", device="cpu", weights="none", **asked))


def test_drops_stay_at_the_same_shares() -> None:
    recipe = {"epochs": 150, "lr_step": 50, "lr_factor": 0.1}
    assert with_changes(recipe, {"epochs": 30}) == {"epochs": 30, "lr_step": 10, "lr_factor": 0.1}
    assert with_changes(recipe, {"epochs": 30, "lr_step": 7})["lr_step"] == 7
    assert with_changes(recipe, {"batch": 8}) == {**recipe, "batch": 8}
    assert with_changes({}, {"epochs": 300})["lr_step"] == 100  # of the common 50 in 150


def test_steps_below_an_epoch_become_deeper() -> None:
    """ADSH's rate falls each epoch, from 1e-4 to 1e-6, however many there are."""
    for epochs in (150, 20, 5):
        settings = settled(method="adsh", epochs=epochs)
        drops = (epochs - 1) // settings.lr_step
        last = settings.learning_rate * settings.lr_factor**drops
        assert last == pytest.approx(1e-6 * 10 ** (2 / epochs - 2 / 150), rel=0.02)


@pytest.mark.parametrize("dataset", [None, "cifar10"])
def test_drops_follow_a_tables_epochs(dataset: str | None) -> None:
    row = Row("A", "dhida")
    table = Table("t", "", "", (16,), (row,), settings={"epochs": 20})
    assert lay_over(table, row, dataset, {})["lr_step"] == 7
    assert lay_over(table, row, dataset, {"epochs": 40})["lr_step"] == 14
    row = Row("B", "dhida", {"lr_step": 5})
    assert lay_over(dataclasses.replace(table, rows=(row,)), row, dataset, {"epochs": 40})["lr_step"] == 10


def told(method: str, **settings: Any) -> dict[str, tuple[Any, Any]]:
    """What a row of a table with these settings is said to differ in from its paper."""
    row = Row("A", method)
    table = Table("t", "", "", (16,), (row,), settings=settings)
    fixed: dict[str, Any] = {"images": "photos", "out": "m.pt", "bits": 16, "device": "cpu"}
    settled = settle(TrainOptions(**lay_over(table, row, None, {}), **fixed))
    return differences(method, None, settled, fixed)


# As the recipes' files and the papers have them.
PAPERS: dict[str, dict[str, Any]] = {
    "dpsh": {"optimiser": "sgd", "learning_rate": 0.05, "weight_decay": 1e-5, "epochs": 150, "batch": 128},
    "dfh": {"optimiser": "sgd", "learning_rate": 1e-2, "momentum": 0.9, "weight_decay": 5e-4, "epochs": 150},
    "csq": {"optimiser": "adam", "learning_rate": 1e-4, "backbone_rate": 0.05, "weight_decay": 0.0, "epochs": 90},
    "dhida": {"optimiser": "rmsprop", "learning_rate": 5e-5, "momentum": 0.0, "weight_decay": 1e-5, "epochs": 150},
    "hashnet": {"optimiser": "sgd", "learning_rate": 5e-4, "momentum": 0.9, "nesterov": True, "batch": 72},
}


@pytest.mark.parametrize("method", PAPERS)
def test_every_setting_that_is_not_the_papers_is_told(method: str) -> None:
    table = {
        "optimiser": "rmsprop",
        "learning_rate": 1e-5,
        "momentum": 0.0,
        "nesterov": False,
        "weight_decay": 1e-5,
        "backbone_rate": 1.0,
        "epochs": 8,
        "batch": 128,
    }
    found = told(method, **table)
    for name, value in PAPERS[method].items():
        assert found.get(name) == (None if value == table[name] else (value, table[name])), name
    assert "lr_step" not in found  # it follows the epochs
    assert told(method) == {}


def test_drops_and_constants_that_are_not_the_papers_are_told() -> None:
    found = told("dbdh", lr_step=40, lr_factor=0.5, method_options={"ste": False, "alpha": 0.1}, size=64)
    assert found == {"lr_step": (50, 40), "lr_factor": (0.1, 0.5), "option ste": (True, False), "size": (224, 64)}
    assert told("dhn", epochs=150, lr_step=1000) == {"epochs": (90, 150)}  # never drops, here as there
    assert told("itq", size=64) == {"size": (224, 64)}


def test_a_table_gives_a_shallow_row_nothing_to_train_with() -> None:
    row = Row("ITQ", "itq")
    table = Table("t", "", "", (16,), (row,), settings={"learning_rate": 1e-4, "optimiser": "sgd", "size": 64})
    chosen = lay_over(table, row, "cifar10", {"epochs": 3})
    assert chosen["size"] == 64
    assert not {"learning_rate", "optimiser", "epochs"} & set(chosen)


def test_sets_with_photographs_are_cropped_to_the_middle() -> None:
    """resize 256, crops of 224; CIFAR-10 and DATH resize to 224."""
    for dataset in ("nuswide21", "nuswide81", "imagenet100", "coco"):
        settings = load_recipe(f"dhida-{dataset}").settings
        assert (settings["fit"], settings["augment"]) == ("crop", "crop")
        settings = load_recipe(f"dath-{dataset}").settings
        assert (settings["fit"], settings["augment"]) == ("stretch", "none")
    settings = load_recipe("dhida-cifar10").settings
    assert (settings["fit"], settings["augment"]) == ("stretch", "none")


def test_the_command_line_leaves_a_recipes_settings_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[TrainOptions] = []

    def remember(options: TrainOptions, *_: Any) -> Any:
        asked.append(options)
        raise ArgumentError("enough")

    monkeypatch.setattr("hashfaiss.train.trainer.train", remember)
    recipe = tmp_path / "r.toml"
    recipe.write_text(
        'method = "dhida"\nbits = 48\nweights = "none"\nseed = 7\ndevice = "cpu"\nprecision = "float32"\n'
        'stat_axis = "softmax"\npre_conv = "conv3x3bnrelu"\n'
    )
    found = CliRunner().invoke(app, ["train", "--images", str(tmp_path), "--recipe", str(recipe), "--seed", "8"])
    assert "enough" in found.stderr
    (options,) = asked
    assert (options.bits, options.weights, options.seed, options.device) == (48, "none", 8, "cpu")
    assert (options.precision, options.stat_axis, options.pre_conv) == ("float32", "softmax", "conv3x3bnrelu")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"method": "itq", "attention": "ida"}, "attention='ida' is a setting of networks that are trained"),
        ({"method": "sdh", "epochs": 3}, "epochs=3 is a setting of networks that are trained"),
        ({"method": "lsh", "network": "dual-stream"}, "network='dual-stream' is a setting of networks that are"),
        ({"method": "gah", "optimiser": "adam"}, "optimiser='adam' is a setting of the trainer's optimiser"),
        ({"method": "gah", "weight_decay": 0.5}, "weight_decay=0.5 is a setting of the trainer's optimiser"),
        ({"method": "dhida", "network": "features"}, "unknown network 'features': give one of hash, dual-stream"),
        ({"method": "adsh", "epochs": 1}, "epochs is 1: adsh needs 2 or more"),
        ({"labels": 3}, "labels is 3: give a path"),
        ({"method_options": 3}, "method_options is 3"),
        ({"validation": "x"}, "validation is 'x'"),
        ({"attention_width": "x"}, "attention_width is 'x'"),
        ({"cutoff": "x"}, "cutoff is 'x'"),
        ({"nesterov": "yes"}, "nesterov is 'yes'"),
        ({"pre_conv": 4}, "unknown pre_conv 4"),
        ({"stat_axis": []}, r"unknown stat_axis \[\]"),
    ],
)
def test_settings_that_are_none_or_change_nothing(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        settled(**asked)


def test_settling_draws_nothing_from_the_callers_random_numbers() -> None:
    before = torch.get_rng_state()
    for method in ("dsdh", "gah", "dath"):
        settled(method=method)
    assert torch.equal(torch.get_rng_state(), before)
