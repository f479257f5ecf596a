"""Recipes: how each method is trained, and what differs on each data set.

`methods/<method>.toml` holds a method's defaults as its paper gives them: keys are fields of `TrainOptions`, a table
`[options]` holds arguments of the method's class, and a table named like a data set holds what differs there.
`datasets.toml` holds, by data set, the protocol and the preprocessing. The recipe `dhida-cifar10` is the three of them
laid over each other; a file of one's own in the same form is a recipe too.
"""

from __future__ import annotations

import math
import os
import tomllib
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from hashfaiss.errors import ArgumentError


@dataclass(frozen=True)
class Recipe:
    """One training, written down.

    Attributes:
        name: such as "dhida-cifar10".
        settings: fields of `TrainOptions`; `method_options` is one of them.
        dataset, protocol: names in `datasets.DATASETS` and `protocols.PROTOCOLS`, or None where there is none.
    """

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    dataset: str | None = None
    protocol: str | None = None


def load_recipe(name: str | os.PathLike[str]) -> Recipe:
    """Read the recipe `<method>-<data set>`, or a TOML file.

    Raises:
        ArgumentError: no such recipe, or a file that is not one.
    """
    text = os.fspath(name)
    if text.endswith(".toml"):
        return _from_file(Path(text))
    method, _, dataset = text.rpartition("-")
    if method not in recipe_methods() or dataset not in recipe_datasets():
        raise ArgumentError(
            f"there is no recipe {text!r}: give <method>-<data set>, such as dhida-cifar10, of the methods "
            f"{', '.join(recipe_methods())} and the data sets {', '.join(recipe_datasets())}, or a .toml file"
        )
    return _compose(text, method, dataset, {})


def method_settings(method: str, dataset: str | None = None) -> dict[str, Any]:
    """Fields of `TrainOptions` as the method's own paper has them, on `dataset` where it says more."""
    table = _table(f"methods/{method}.toml") if method in recipe_methods() else {}
    settings = {key: value for key, value in table.items() if not isinstance(value, dict)}
    return _lay_over(_lay_over(settings, {"options": table.get("options", {})}), table.get(dataset or "", {}))


def scaled_lr_step(lr_step: int, recipe_epochs: int, epochs: object) -> int:
    """A recipe's drops of the learning rate at the same shares of a training of `epochs`; None is the recipe's own."""
    return math.ceil(lr_step * epochs / recipe_epochs) if isinstance(epochs, int) else lr_step


@cache
def recipe_methods() -> tuple[str, ...]:
    """Methods that have a recipe, sorted."""
    folder = files(__package__) / "methods"
    return tuple(sorted(file.name.removesuffix(".toml") for file in folder.iterdir() if file.name.endswith(".toml")))


def recipe_datasets() -> tuple[str, ...]:
    """Data sets that have a recipe."""
    return tuple(_table("datasets.toml"))


def _compose(name: str, method: str, dataset: str | None, own: dict[str, Any]) -> Recipe:
    common = dict(_table("datasets.toml").get(dataset or "", {}))
    protocol = own.pop("protocol", common.pop("protocol", None))
    recipe = _lay_over(common, method_settings(method, dataset))
    settings = _lay_over(recipe, own)
    if "lr_step" in recipe and "lr_step" not in own:
        settings["lr_step"] = scaled_lr_step(recipe["lr_step"], recipe["epochs"], own.get("epochs"))
    settings["method_options"] = settings.pop("options", {})
    return Recipe(name, {**settings, "method": method}, dataset, protocol)


def _from_file(path: Path) -> Recipe:
    try:
        own = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ArgumentError(f"cannot read the recipe {str(path)!r}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ArgumentError(f"the recipe {str(path)!r} is not TOML: {error}") from None
    method, dataset = own.pop("method", None), own.pop("dataset", None)
    if method not in recipe_methods():
        raise ArgumentError(
            f"the recipe {str(path)!r} has method = {method!r}: give one of {', '.join(recipe_methods())}"
        )
    if dataset is not None and dataset not in recipe_datasets():
        raise ArgumentError(
            f"the recipe {str(path)!r} has dataset = {dataset!r}: give one of {', '.join(recipe_datasets())}"
        )
    if not isinstance(own.get("options", {}), dict):
        raise ArgumentError(f"the recipe {str(path)!r} has options = {own['options']!r}: give a table [options]")
    return _compose(path.stem, method, dataset, own)


def _lay_over(lower: dict[str, Any], upper: dict[str, Any]) -> dict[str, Any]:
    """`upper`'s values where both have one; the tables `options` are joined."""
    options = {**lower.get("options", {}), **upper.get("options", {})}
    return {**lower, **upper, "options": options}


@cache
def _table(name: str) -> dict[str, Any]:
    return tomllib.loads((files(__package__) / name).read_text(encoding="utf-8"))
