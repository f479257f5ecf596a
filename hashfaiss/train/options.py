"""The settings of a training, checked before anything is read or decoded."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch

from hashfaiss.codes import check_bits
from hashfaiss.encoding.encoder import choose_device
from hashfaiss.encoding.precision import computes_in_bfloat16
from hashfaiss.errors import ArgumentError
from hashfaiss.images.preprocessing import Fit, Preprocessing
from hashfaiss.networks.attention import PreConvolution, StatAxis
from hashfaiss.networks.backbones import BACKBONES
from hashfaiss.networks.dual_stream import Streams
from hashfaiss.networks.hashing import Attention
from hashfaiss.train.data import Augment
from hashfaiss.train.methods import Method, Shallow, SteppingMethod, build_method, method_class, method_defaults
from hashfaiss.train.recipes import COMMON, method_settings, with_changes

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Settings that mean nothing to a method that is fitted, or that takes its own steps.
OPTIMISER_ONLY = {"optimiser", "momentum", "nesterov", "weight_decay", "backbone_rate"}
TRAINED_ONLY = OPTIMISER_ONLY | {
    *("network", "attention", "streams", "epochs", "learning_rate", "lr_step", "lr_factor", "batch", "evaluate_every"),
}
Optimiser = Literal["rmsprop", "sgd", "adam"]
Select = Literal["validation", "on-queries"]


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """What to train, on what, and how. Where None stands, the method's recipe says what it is.

    Attributes:
        images: folder of images.
        out: the model file to write; the training's own files go to `<out without suffix>.training/` beside it.
        labels: CSV or list file; None takes the folder an image lies in as its label.
        method: a name in `methods.METHODS`.
        bits: K.
        network: "hash" (`HashNetwork`) or "dual-stream" (`DualStreamNetwork`); shallow methods have their own.
        backbone: a name in `backbones.BACKBONES`.
        attention, stat_axis, attention_width, pre_conv: of "hash", see `HashNetwork`.
        streams: of "dual-stream", see `DualStreamNetwork`.
        weights: "imagenet", "none" or a file, see `load_weights`.
        size: side in pixels of what the network sees; None is the backbone's own.
        fit: "crop" or "stretch", see `Preprocessing`.
        epochs, batch: times through the images, and images a step.
        optimiser, learning_rate, momentum, nesterov, weight_decay: momentum and nesterov are of "sgd".
        backbone_rate: the backbone's learning rate as a multiple of the hash layer's.
        lr_step: epochs after which the learning rate is multiplied by `lr_factor`; None is the recipe's, which follows
            `epochs` where that differs from the recipe's.
        method_options: arguments of the method's class; those left out are the recipe's, then the class's.
        augment: "none", "flip", or "crop" (flip and random crop).
        select: the best epoch by "validation" on a share of the training images, or "on-queries" as the popular code
            does, which looks at the test set.
        validation: that share, 0 for none; None is 0.1, or 0 with "on-queries".
        queries, database, cutoff: label files and R for "on-queries".
        evaluate_every: epochs between validations; the last epoch always has one.
        seed: of weights, order, augmentation and validation split.
        device: "auto", "cpu", "cuda", "cuda:1", ...
        precision: "auto", "float32", "bfloat16" or "float16", of the forward pass.
    """

    images: str | os.PathLike[str]
    out: str | os.PathLike[str]
    labels: str | os.PathLike[str] | None = None
    method: str = "dhida"
    bits: int = 64
    network: str | None = None
    backbone: str | None = None
    attention: Attention | None = None
    stat_axis: StatAxis = "cross"
    attention_width: int | None = None
    pre_conv: PreConvolution = "none"
    streams: Streams | None = None
    weights: str | os.PathLike[str] = "imagenet"
    size: int | None = None
    fit: Fit | None = None
    epochs: int | None = None
    optimiser: Optimiser | None = None
    learning_rate: float | None = None
    momentum: float | None = None
    nesterov: bool | None = None
    weight_decay: float | None = None
    backbone_rate: float | None = None
    lr_step: int | None = None
    lr_factor: float | None = None
    batch: int | None = None
    method_options: dict[str, Any] = field(default_factory=dict)
    augment: Augment | None = None
    select: Select = "validation"
    validation: float | None = None
    queries: str | os.PathLike[str] | None = None
    database: str | os.PathLike[str] | None = None
    cutoff: int | None = None
    evaluate_every: int | None = None
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"

    def settle(self) -> Settings:
        """Check everything that needs no file, and fill in what is None or "auto".

        Raises:
            ArgumentError: a setting outside what it may be; the message says what it may be.
        """
        kind = method_class(self.method)
        given = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        recipe = {**COMMON, **method_settings(self.method)}
        self._check_idle(kind, recipe["network"])
        chosen = with_changes(recipe, {name: given[name] for name in COMMON if given[name] is not None})
        values = {**given, **{name: chosen[name] for name in COMMON}}
        if issubclass(kind, Shallow):
            values.update(network="features", attention="none", epochs=1, lr_step=1, evaluate_every=1)
        if self.validation is None:
            values["validation"] = 0.1 if self.select == "validation" else 0.0
        _check(values)
        for name in ("images", "out", "labels", "weights", "queries", "database"):
            values[name] = None if values[name] is None else os.fspath(values[name])
        values["method_options"] = {**method_defaults(self.method), **recipe["options"], **self.method_options}
        with torch.random.fork_rng(devices=[]):
            method = build_method(self.method, torch.eye(2), values["bits"], values["method_options"])
        if isinstance(method, Method) and values["epochs"] < method.least_epochs:
            raise ArgumentError(
                f"epochs is {values['epochs']}: {self.method} needs {method.least_epochs} or more with these options"
            )
        device = choose_device(self.device)
        values["device"] = str(device)
        if self.precision == "auto":
            values["precision"] = "float32" if issubclass(kind, SteppingMethod) else fastest_precision(device)
        settings = Settings(**values)
        return dataclasses.replace(settings, size=settings.preprocessing.size)

    def _check_idle(self, kind: type[Method] | type[Shallow], default: str) -> None:
        """Refuse a setting that would change nothing, and its user not know."""
        idle = {name for name in idle_settings(kind) if getattr(self, name) is not None}
        if issubclass(kind, Shallow):
            for name in idle:
                raise ArgumentError(
                    f"{name}={getattr(self, name)!r} is a setting of networks that are trained, and {self.method!r} is "
                    "fitted once on the features of one that stays as it is: leave it out"
                )
            if self.augment not in (None, "none"):
                raise ArgumentError(
                    f"augment is {self.augment!r}: {self.method} is fitted once, to the images as they are; give 'none'"
                )
        if issubclass(kind, SteppingMethod):
            for name in idle:
                raise ArgumentError(
                    f"{name}={getattr(self, name)!r} is a setting of the trainer's optimiser, and {self.method!r} "
                    "takes its own steps: leave it out, or see its options"
                )
            if self.precision not in ("auto", "float32"):
                raise ArgumentError(f"precision is {self.precision!r}: {self.method} trains in float32 only")
        network = self.network or default
        for name, owner in (("attention", "hash"), ("streams", "dual-stream")):
            if getattr(self, name) is not None and network != owner:
                raise ArgumentError(
                    f"{name}={getattr(self, name)!r} is a setting of the network {owner!r}, and {self.method!r} trains "
                    f"{network!r}: give network={owner!r} too"
                )


@dataclass(frozen=True, kw_only=True)
class Settings:
    """`TrainOptions` with everything decided; what a model file keeps of its training."""

    images: str
    out: str
    labels: str | None
    method: str
    bits: int
    network: str
    backbone: str
    attention: Attention
    stat_axis: StatAxis
    attention_width: int | None
    pre_conv: PreConvolution
    streams: Streams
    weights: str
    size: int | None
    fit: Fit
    epochs: int
    optimiser: Optimiser
    learning_rate: float
    momentum: float
    nesterov: bool
    weight_decay: float
    backbone_rate: float
    lr_step: int
    lr_factor: float
    batch: int
    method_options: dict[str, Any]
    augment: Augment
    select: Select
    validation: float
    queries: str | None
    database: str | None
    cutoff: int | None
    evaluate_every: int
    seed: int
    device: str
    precision: str

    @property
    def network_arguments(self) -> dict[str, Any]:
        """Arguments of the network's class."""
        names = ["backbone", "bits"]
        if self.network == "hash":
            names += ["attention", "stat_axis", "attention_width", "pre_conv"]
        elif self.network == "dual-stream":
            names += ["streams"]
        return {name: getattr(self, name) for name in names}

    @property
    def preprocessing(self) -> Preprocessing:
        """How an image becomes the network's input."""
        backbone = BACKBONES[self.backbone]
        preprocessing = Preprocessing(backbone.default_size if self.size is None else self.size, self.fit)
        if preprocessing.size < backbone.smallest_size:
            raise ArgumentError(
                f"size is {preprocessing.size}: {self.backbone} needs {backbone.smallest_size} pixels or more"
            )
        return preprocessing


def idle_settings(kind: type[Method] | type[Shallow]) -> set[str]:
    """Fields of `TrainOptions` that mean nothing to a method of this class."""
    if issubclass(kind, Shallow):
        return TRAINED_ONLY
    return OPTIMISER_ONLY if issubclass(kind, SteppingMethod) else set()


def _check(values: Mapping[str, Any]) -> None:
    check_bits(values["bits"])
    for name in ("images", "out", "labels", "weights", "queries", "database"):
        if not isinstance(values[name], (str, os.PathLike, type(None))):
            raise ArgumentError(f"{name} is {values[name]!r}: give a path")
    if not isinstance(values["method_options"], dict):
        raise ArgumentError(f"method_options is {values['method_options']!r}: give names and values")
    if not isinstance(values["nesterov"], bool):
        raise ArgumentError(f"nesterov is {values['nesterov']!r}: give true or false")
    shallow = issubclass(method_class(values["method"]), Shallow)
    choices: dict[str, Sequence[str]] = {
        "network": ["features"] if shallow else ["hash", "dual-stream"],
        "backbone": list(BACKBONES),
        "attention": get_args(Attention),
        "streams": get_args(Streams),
        "stat_axis": get_args(StatAxis),
        "pre_conv": get_args(PreConvolution),
        "augment": get_args(Augment),
        "optimiser": get_args(Optimiser),
        "select": get_args(Select),
        "precision": ["auto", *PRECISIONS],
    }
    for name, names in choices.items():
        if values[name] not in names:
            raise ArgumentError(f"unknown {name} {values[name]!r}: give one of {', '.join(names)}")
    least_of = {"batch": 2, "seed": 0}
    for name in ("epochs", "batch", "evaluate_every", "lr_step", "seed", "attention_width", "cutoff"):
        value, least = values[name], least_of.get(name, 1)
        if value is None and name in ("attention_width", "cutoff"):
            continue
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**63:
            raise ArgumentError(f"{name} is {value!r}: give a whole number from {least} up")
    for name in ("learning_rate", "lr_factor", "weight_decay", "momentum", "backbone_rate", "validation"):
        value = values[name]
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not 0 <= value < math.inf or (value == 0 and name in ("learning_rate", "lr_factor")):
            raise ArgumentError(f"{name} is {value!r}: give a number above 0")
    if values["select"] == "on-queries":
        if values["queries"] is None or values["database"] is None:
            raise ArgumentError("select='on-queries' looks at the test set: give its lists as queries and database")
        if values["validation"]:
            raise ArgumentError("select='on-queries' keeps no validation images: leave validation out, or give 0")


def fastest_precision(device: torch.device) -> str:
    """bfloat16 where the device computes in it."""
    return "bfloat16" if device.type == "cuda" or (device.type == "cpu" and computes_in_bfloat16()) else "float32"
