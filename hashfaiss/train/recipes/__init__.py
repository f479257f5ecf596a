"""Recipes: how each method is trained, and what differs on each data set.

`methods/<method>.toml` holds a method's defaults as its paper gives them: keys are fields of `TrainOptions`, a table
`[options]` holds arguments of the method's class, and a table named like a data set holds what differs there.
`datasets.toml` holds, by data set, the protocol and the preprocessing. The recipe `dhida-cifar10` is the three of them
laid over each other; `dhida` is the method's own. A file of one's own is a recipe too: `method`, perhaps `dataset`, and
what differs from their recipe.
"""

from __future__ import annotations

import math
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from hashfaiss.errors import ArgumentError
from hashfaiss.train.options import COMMON


@dataclass(frozen=True)
class Recipe:
    """One training, written down.

    Attributes:
        name: such as "dhida-cifar10".
        settings: fields of `TrainOptions`; `method_options` is one of them.
        dataset, protocol: names in `datasets.layouts.DATASETS` and `datasets.protocols.PROTOCOLS`, or None.
    """

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    dataset: str | None = None
    protocol: str | None = None


def load_recipe(name: str | os.PathLike[str]) -> Recipe:
    """Read the recipe `<method>-<data set>` or `<method>`, or a TOML file.

    Raises:
        ArgumentError: no such recipe, or a file that is not one.
    """
    text = os.fspath(name)
    if text.endswith(".toml"):
        return _from_file(Path(text))
    if text in recipe_methods():
        return _compose(text, text, None, {})
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


def with_changes(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` with `changes` laid over them.

    Where only the epochs change, the drops of the learning rate stay at the same shares of the training; steps of less
    than an epoch become one epoch of so much more of a drop.
    """
    changed = {**settings, **changes}
    if isinstance(changes.get("epochs"), int) and "lr_step" not in changes:
        before = {**COMMON, **settings}
        step = before["lr_step"] * changes["epochs"] / before["epochs"]
        changed["lr_step"] = max(1, math.ceil(step))
        if 0 < step < 1 and "lr_factor" not in changes:
            changed["lr_factor"] = before["lr_factor"] ** (1 / step)
    return changed


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
    options = {**recipe.pop("options"), **own.pop("options", {})}
    settings = {**with_changes(recipe, own), "method_options": options}
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
    return _compose(path.name, method, dataset, own)


def _lay_over(lower: dict[str, Any], upper: dict[str, Any]) -> dict[str, Any]:
    """`upper`'s values where both have one; the tables `options` are joined."""
    options = {**lower.get("options", {}), **upper.get("options", {})}
    return {**with_changes(lower, upper), "options": options}


@cache
def _table(name: str) -> dict[str, Any]:
    return tomllib.loads((files(__package__) / name).read_text(encoding="utf-8"))
