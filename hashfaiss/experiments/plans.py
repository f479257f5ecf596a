"""What one run of a table is: its settings, laid over each other, and the folder it lives in.

From below: the method's recipe, the table's settings, the row's, what was asked for all rows alike. The folder's name
ends in a digest of all that decides the result, so that tables share runs, and other settings are another run.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from hashfaiss.datasets.protocols import OUR_FILES, Split
from hashfaiss.errors import ArgumentError, TrainingError
from hashfaiss.experiments.tables import Row, Table
from hashfaiss.images.labels import labelled_images
from hashfaiss.networks.backbones import BACKBONES
from hashfaiss.networks.weights import weights_identity
from hashfaiss.train.checks import check_training_set
from hashfaiss.train.methods import method_class
from hashfaiss.train.options import TrainOptions
from hashfaiss.train.recipes import load_recipe, with_changes
from hashfaiss.train.settings import Settings, idle_settings, settle

RESULT = "result.json"
_RESULT_KEYS = {
    "method",
    "bits",
    "seed",
    "settings",
    "split",
    "training",
    "retrieval",
    "agreement",
    "encode",
    "history",
}
DIGEST = 8  # hexadecimal digits

# Where things lie does not make two runs differ; what lies there is compared by sha256.
_PLACES = ("images", "out", "labels", "queries", "database", "device")
# How long and how fast a row learns is not what a table compares.
_SCHEDULE = {"epochs", "learning_rate", "lr_step", "lr_factor", "batch", "evaluate_every"}
# What is each run's own, or told of the whole table at its top; in all else a run may differ from its paper.
_OWN = {*_PLACES, "method", "bits", "seed", "select", "validation", "cutoff"}


@dataclass(frozen=True)
class Data:
    """What all runs of a table are trained and evaluated on.

    Attributes:
        images: folder the split's paths are relative to.
        split: queries, training images and database.
        dataset: a name in `datasets.layouts.DATASETS`, or None for one's own.
        cutoff: R of mAP@R; None for the whole database.
    """

    images: Path
    split: Split
    dataset: str | None
    cutoff: int | None

    @cached_property
    def training(self) -> list[tuple[str, tuple[str, ...]]]:
        """Path and labels of the training images."""
        return labelled_images(self.images, self.file("train"))

    def file(self, name: str) -> Path:
        """The list "query", "train" or "database"."""
        files = self.split.facts.get("files", OUR_FILES)
        return self.split.folder / str(files[("query", "train", "database").index(name)])


@dataclass(frozen=True)
class Plan:
    """One run: a row at K bits with a seed.

    Attributes:
        row, bits, seed: which.
        folder: where it lives.
        options, settings: of its training.
        identity: all that decides what comes out, as JSON has it.
        rates: learning rates of which the best on validation images is taken; none for the settings' own.
        differs: setting, or "option NAME" → (the recipe's value, this run's), of all in which they are not the same.
    """

    row: Row
    bits: int
    seed: int
    folder: Path
    options: TrainOptions
    settings: Settings
    identity: dict[str, Any]
    differs: dict[str, tuple[Any, Any]]
    rates: tuple[float, ...] = ()

    @property
    def name(self) -> str:
        """For people, such as "DHIDA, 16 bits, seed 0"."""
        return f"{self.row.name}, {self.bits} bits, seed {self.seed}"

    def stored(self) -> dict[str, Any] | None:
        """What `result.json` holds, or None where the run is not finished; TrainingError where it is damaged."""
        return read_result(self.folder / RESULT)


def plan_run(table: Table, row: Row, bits: int, seed: int, out: Path, data: Data, overrides: Mapping[str, Any]) -> Plan:
    """Settle the settings of a run, and check that it can be trained; nothing is decoded.

    Args:
        overrides: fields of `TrainOptions` for all rows alike.

    Raises:
        ArgumentError: a setting outside what it may be, or one that the table's rows differ in.
        LabelError, TrainingError: these images cannot train this method.
    """
    fixed: dict[str, Any] = {
        "images": data.images,
        "labels": data.file("train"),
        "out": out,
        "bits": bits,
        "seed": seed,
    }
    if overrides.get("select") == "on-queries":
        fixed |= {"queries": data.file("query"), "database": data.file("database"), "cutoff": data.cutoff}
    options = TrainOptions(**lay_over(table, row, data.dataset, overrides), **fixed)
    settings = settle(options)
    check_training_set(data.training, settings)
    own = {name: overrides[name] for name in ("device", "select") if name in overrides}
    differs = differences(row.method, data.dataset, settings, {**fixed, **own})
    identity = _identity(settings, data)
    rates = _rates(table, row, settings, overrides)
    if rates:
        identity |= {"learning_rate": None, "rates": list(rates)}
        own_rate = differs.pop("learning_rate", (settings.learning_rate,))[0]
        shown = ", ".join(f"{rate:g}" for rate in rates)
        differs["learning_rate"] = (own_rate, f"the best on validation images of {shown}")
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:DIGEST]
    folder = out / "runs" / f"{row.method}-{bits}-s{seed}-{digest}"
    options = dataclasses.replace(options, out=folder / "model.pt")
    settings = dataclasses.replace(settings, out=str(folder / "model.pt"))
    return Plan(row, bits, seed, folder, options, settings, identity, differs, rates)


def _rates(table: Table, row: Row, settings: Settings, overrides: Mapping[str, Any]) -> tuple[float, ...]:
    """The learning rates that a row chooses from; ArgumentError where there is nothing to choose them by."""
    if not table.rates or "learning_rate" in idle_settings(method_class(row.method)):
        return ()
    if "learning_rate" in overrides:
        raise ArgumentError("both learning_rate and rates were given: rates are chosen from, leave one of them out")
    if settings.select == "on-queries" or not settings.validation:
        raise ArgumentError(
            "rates are chosen on validation images, never on the queries: give select='validation' and a validation "
            "share above 0, or leave rates out"
        )
    return table.rates


def differences(
    method: str, dataset: str | None, settings: Settings, fixed: Mapping[str, Any]
) -> dict[str, tuple[Any, Any]]:
    """What of `settings` is not as the method's recipe has it on the data set: name → (the recipe's value, this one).

    Drops of the learning rate that only follow the epochs are as the recipe has them.

    Args:
        fixed: the fields of `TrainOptions` that are no recipe's: images, out, bits, ...
    """
    recipe = settle(TrainOptions(**_recipe(method, dataset), **fixed))
    pairs = {
        item.name: (getattr(recipe, item.name), getattr(settings, item.name))
        for item in dataclasses.fields(Settings)
        if item.name not in _OWN
    }
    there, here = pairs.pop("method_options")
    pairs |= {f"option {name.replace('_', ' ')}": (there[name], here[name]) for name in here}
    differs = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
    if not {"lr_step", "lr_factor"}.isdisjoint(differs) and _same_drops(recipe, settings):
        differs = {name: pair for name, pair in differs.items() if name not in ("lr_step", "lr_factor")}
    if "weights" in differs:
        differs["weights"] = (differs["weights"][0], Path(settings.weights).name)
    return differs


def _same_drops(recipe: Settings, settings: Settings) -> bool:
    """Whether the learning rate drops as in the recipe, were that of as many epochs; or never, in both."""
    own = {name: getattr(recipe, name) for name in ("epochs", "lr_step", "lr_factor")}
    following = with_changes(own, {"epochs": settings.epochs})
    here = {name: getattr(settings, name) for name in own}
    return following == here or min(following["lr_step"], settings.lr_step) >= settings.epochs


def _recipe(method: str, dataset: str | None) -> dict[str, Any]:
    """A recipe's fields of `TrainOptions`, without those that mean nothing to the method."""
    settings = load_recipe(f"{method}-{dataset}" if dataset else method).settings
    return {name: value for name, value in settings.items() if name not in idle_settings(method_class(method))}


def lay_over(table: Table, row: Row, dataset: str | None, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of `TrainOptions` of a row, without those that are each run's own.

    Raises:
        ArgumentError: `overrides` has a setting in which the table's rows differ.
    """
    compared = {name for other in table.rows for name in other.settings} & set(overrides) - _SCHEDULE
    if compared:
        name = min(compared)
        raise ArgumentError(
            f"the rows of {table.name} differ in {name}, which is what it compares: leave {name}={overrides[name]!r} "
            "out"
        )
    recipe = load_recipe(f"{row.method}-{dataset}" if dataset else row.method).settings
    chosen, constants = recipe, dict(recipe["method_options"])
    for layer in (table.settings, row.settings, overrides):
        chosen = with_changes(chosen, layer)
        constants |= layer.get("method_options", {})
    chosen["method_options"] = constants
    idle = idle_settings(method_class(row.method))
    chosen = {name: value for name, value in chosen.items() if name not in idle}
    if "weights" in overrides:
        chosen["weights"] = weights_of(overrides["weights"], chosen["backbone"])
    return chosen


def weights_of(asked: str, backbone: str) -> str:
    """The weights for a backbone, of one that is for all, or of `resnet18=FILE,alexnet=none`.

    A backbone that is not named there gets ImageNet's.
    """
    pairs = [part.partition("=") for part in asked.split(",")]
    if not all(equals and name in BACKBONES for name, equals, _ in pairs):
        return asked
    return {name: weights for name, _, weights in pairs}.get(backbone, "imagenet")


def _identity(settings: Settings, data: Data) -> dict[str, Any]:
    kept = {name: value for name, value in asdict(settings).items() if name not in _PLACES}
    kept["weights"] = weights_identity(settings.weights)
    kept["cutoff"] = data.cutoff
    kept["split"] = data.split.facts["sha256"]
    identity: dict[str, Any] = json.loads(json.dumps(kept))
    return identity


def read_result(file: Path) -> dict[str, Any] | None:
    """The JSON object in a `result.json`, or None where there is no file; TrainingError where it is damaged."""
    try:
        found = json.loads(file.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict) or not found.keys() >= _RESULT_KEYS:
        raise TrainingError(f"{str(file)!r} is damaged: delete it to make that run again")
    return found
