"""From what a person asks for, a recipe or a folder, to the options of a training."""

from __future__ import annotations

import dataclasses
import os
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hashfaiss.datasets.layouts import read_dataset, split_dataset
from hashfaiss.datasets.protocols import Split, leak_sentence
from hashfaiss.errors import ArgumentError
from hashfaiss.train.defaults import defaults_for_people
from hashfaiss.train.options import TrainOptions
from hashfaiss.train.recipes import Recipe, load_recipe, with_changes
from hashfaiss.train.records import training_folder


def prepare_training(
    images: str | os.PathLike[str] | None = None,
    recipe: str | None = None,
    data: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    option: Sequence[str] = (),
    say: Callable[[str], None] = print,
    **settings: Any,
) -> TrainOptions:
    """Options of a training from a recipe, a folder of images, or both.

    Args:
        images: the folder to train on; with it, `data` is not needed.
        recipe: see `recipes.load_recipe`.
        data: a data set in its published layout: the recipe's protocol is drawn from it, with the training's seed, and
            its lists are written to the training's folder.
        out: model file; default: named after the method.
        option: constants of the loss, `name=value`.
        say: told what was drawn, and its leaks.
        settings: fields of `TrainOptions`; they come before the recipe's.

    Raises:
        ArgumentError: neither folder nor data, a data set without a recipe, or an option that is not `name=value`.
        TrainingError, LabelError: the data set is not as it is published.
    """
    if recipe is None:
        base = Recipe("", defaults_for_people(images, settings) if images is not None else {})
    else:
        base = load_recipe(recipe)
    unknown = sorted(set(base.settings) - {item.name for item in dataclasses.fields(TrainOptions)})
    if unknown:
        raise ArgumentError(f"the recipe {base.name!r} sets {unknown[0]!r}: there is no such setting of a training")
    if recipe is not None and settings.get("method", base.settings["method"]) != base.settings["method"]:
        raise ArgumentError(
            f"the recipe {base.name!r} trains {base.settings['method']!r}, and method={settings['method']!r} was asked "
            "for: leave one of them out"
        )
    constants = {**base.settings.get("method_options", {}), **_constants(option)}
    changed = with_changes(base.settings, settings) if base.settings else settings
    if settings.get("minutes") is not None and "epochs" not in settings and recipe is not None:
        changed.pop("epochs", None)
    chosen = {**changed, "method_options": constants}
    model = Path(out or f"{chosen.get('method', 'dhida')}.pt")
    if (images is None) == (data is None):
        raise ArgumentError("give either --images, a folder to train on, or --recipe with --data, a data set")
    if data is not None:
        if base.dataset is None or base.protocol is None:
            raise ArgumentError(
                "--data is read as a recipe says: give one with a data set, such as --recipe dhida-cifar10"
            )
        folder = training_folder(model)
        images, split = draw_split(base.dataset, data, base.protocol, chosen.get("seed", 0), folder)
        chosen["labels"] = split.folder / "train.csv"
        say(
            f"{base.protocol}: {len(split.train):,} training images; {leak_sentence(split.facts)}; "
            f"lists in {split.folder}"
        )
    assert images is not None
    return TrainOptions(images=images, out=model, **chosen)


def draw_split(
    dataset: str, data: str | os.PathLike[str], protocol: str, seed: int, folder: Path
) -> tuple[Path, Split]:
    """Draw a protocol's split from a data set.

    Args:
        dataset, data: a name in `datasets.layouts.DATASETS`, and where it lies as it is published.
        protocol, seed: see `protocols.make_split`.
        folder: gets the lists, in `split/`, and in `images/` what must be unpacked.

    Returns:
        The folder the lists' paths are relative to, and the split.
    """
    found = read_dataset(dataset, data, folder / "images")
    return found.folder, split_dataset(found, protocol, seed, folder / "split")


def _constants(option: Sequence[str]) -> dict[str, Any]:
    constants = {}
    for text in option:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise ArgumentError(f"the option {text!r} is not of the form name=value, such as gamma=0.2")
        try:
            constants[name] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:  # a bare word
            constants[name] = value
    return constants
