"""Recipes, and from what a person asks for to the options of a training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hashfaiss.datasets.protocols import PROTOCOLS
from hashfaiss.errors import ArgumentError
from hashfaiss.train.methods import METHODS, build_method, method_defaults
from hashfaiss.train.options import TrainOptions
from hashfaiss.train.prepare import prepare_training
from hashfaiss.train.recipes import load_recipe, method_settings, recipe_datasets, recipe_methods
from hashfaiss.train.settings import settle

OWN = """
method = "dpsh"
dataset = "nuswide21"
bits = 24
epochs = 30
[options]
eta = 7.5
"""


def test_every_method_has_a_recipe() -> None:
    assert set(recipe_methods()) == set(METHODS)


@pytest.mark.parametrize("dataset", recipe_datasets())
@pytest.mark.parametrize("method", recipe_methods())
def test_every_recipe_can_be_trained(method: str, dataset: str) -> None:
    recipe = load_recipe(f"{method}-{dataset}")
    assert recipe.settings["method"] == method
    assert recipe.protocol in PROTOCOLS
    settled = settle(TrainOptions(images="photos", out="m.pt", device="cpu", **recipe.settings))
    assert set(settled.method_options) == set(method_defaults(method))


@pytest.mark.parametrize("method", recipe_methods())
def test_recipes_say_nothing_twice(method: str) -> None:
    """A constant in a recipe is one that differs from the class's own."""
    options = method_settings(method)["options"]
    assert not {name for name, value in options.items() if method_defaults(method)[name] == value}


def test_a_recipe_is_laid_over_the_methods_own() -> None:
    assert load_recipe("dpsh-nuswide21").settings["method_options"] == {"eta": 50.0}
    assert load_recipe("dpsh-cifar10").settings["method_options"] == {}
    assert load_recipe("dhida-cifar10").settings["augment"] == "none"
    assert load_recipe("dhida-nuswide21").settings["augment"] == "crop"
    assert load_recipe("cca-itq-cifar10").settings["method"] == "cca-itq"


def test_a_recipe_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(OWN)
    recipe = load_recipe(file)
    assert (recipe.dataset, recipe.protocol, recipe.name) == ("nuswide21", "nuswide21", "mine.toml")
    options = prepare_training(images="photos", recipe=str(file), bits=12, option=["eta=8"])
    assert (options.method, options.bits, options.epochs) == ("dpsh", 12, 30)
    assert options.method_options == {"eta": 8}
    assert options.out == Path("dpsh.pt")
    assert settle(options).lr_step == 10  # 50 of the recipe's 150 epochs


def test_drops_follow_the_epochs() -> None:
    assert settle(prepare_training(images="photos", recipe="dhida-cifar10", epochs=20)).lr_step == 7
    assert settle(prepare_training(images="photos", recipe="dhida-cifar10")).lr_step == 50
    assert settle(prepare_training(images="photos", recipe="dhida-cifar10", epochs=20, lr_step=3)).lr_step == 3


def test_constants_are_numbers_words_or_truths(photos: Path) -> None:
    given = ["gamma=0.5", "memory=false", "balance_axis=sample"]
    options = prepare_training(images=photos, option=given)
    assert options.method_options == {"gamma": 0.5, "memory": False, "balance_axis": "sample"}


def test_data_is_split_by_the_recipes_protocol(tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hashfaiss.datasets.draws import Protocol

    small = Protocol(query=1, train=2, train_in_database=True, one_label=True, dataset="cifar10")
    monkeypatch.setitem(PROTOCOLS, "cifar10-1", small)
    said: list[str] = []
    options = prepare_training(data=photos, recipe="dhida-cifar10", out=tmp_path / "m.pt", say=said.append)
    assert len(Path(str(options.labels)).read_text().splitlines()) == 1 + 6
    assert options.fit == "stretch"
    assert Path(options.images) == photos
    (line,) = said
    assert line.startswith("cifar10-1: 6 training images; leaks: no query in the database")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, "give either --images"),
        ({"images": "photos", "data": "cifar10", "recipe": "dhida-cifar10"}, "give either --images"),
        ({"data": "cifar10"}, "give one with a data set, such as --recipe dhida-cifar10"),
        ({"data": "cifar10", "recipe": "dhida"}, "give one with a data set"),
        ({"images": "photos", "recipe": "magic-cifar10"}, "there is no recipe 'magic-cifar10'"),
        ({"images": "photos", "recipe": "dhida-mnist"}, "there is no recipe 'dhida-mnist'"),
        ({"images": "photos", "recipe": "dhida-cifar10", "method": "dpsh"}, "trains 'dhida', and method='dpsh'"),
        ({"images": "photos", "recipe": "nowhere.toml"}, "cannot read the recipe 'nowhere.toml'"),
        ({"images": ".", "option": ["gamma"]}, "'gamma' is not of the form name=value"),
        ({"images": ".", "option": ["0=1"]}, "'0=1' is not of the form name=value"),
    ],
)
def test_what_cannot_be_prepared(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        prepare_training(**asked)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method = ", "is not TOML"),
        ("epochs = 3", "has method = None"),
        ('method = "magic"', "has method = 'magic'"),
        ('method = "dhida"\ndataset = "mnist"', "has dataset = 'mnist'"),
        ('method = "dhida"\nspeed = 3', "sets 'speed': there is no such setting"),
        ('method = "dhida"\nlearning_rate = "fast"', "learning_rate is 'fast'"),
        ('method = "dhida"\nepochs = "many"', "epochs is 'many'"),
        ('method = "dhida"\n[options]\nmargin = 1', "has no option 'margin'"),
        ('method = "dhida"\noptions = 3', "options = 3"),
    ],
)
def test_a_recipe_that_is_none(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(ArgumentError, match=message):
        settle(prepare_training(images="photos", recipe=str(file)))


def test_methods_tell_who_they_are() -> None:
    import torch

    for name, kind in METHODS.items():
        assert kind.about.loss
        assert 1990 < kind.about.year <= 2030
        assert str(kind.about.year) not in kind.about.paper
        assert build_method(name, torch.eye(2), 16, {}).bits == 16
