"""The settings of a training, all decided and checked before anything is read or decoded."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

import torch

from hashfaiss.codes import check_bits
from hashfaiss.encoding.devices import choose_device
from hashfaiss.encoding.precision import computes_in_bfloat16
from hashfaiss.errors import ArgumentError
from hashfaiss.images.preprocessing import Fit, Preprocessing
from hashfaiss.networks.attention import PreConvolution, StatAxis
from hashfaiss.networks.backbones import backbone_facts, check_backbone_size
from hashfaiss.networks.dual_stream import Streams
from hashfaiss.networks.hashing import Attention
from hashfaiss.networks.heads import Head
from hashfaiss.train.data import Augment
from hashfaiss.train.methods import Method, Shallow, SteppingMethod, build_method, method_class, method_defaults
from hashfaiss.train.options import COMMON, Optimiser, Schedule, Select, TrainOptions
from hashfaiss.train.recipes import method_settings, with_changes

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Settings that mean nothing to a method that is fitted, or that takes its own steps.
OPTIMISER_ONLY = {"optimiser", "momentum", "nesterov", "weight_decay", "backbone_rate", "freeze", "finetune"}
TRAINED_ONLY = OPTIMISER_ONLY | {
    *("network", "attention", "streams", "epochs", "learning_rate", "lr_step", "lr_factor", "batch", "evaluate_every"),
    *("minutes", "schedule", "head", "strong_augment"),
}
CHOICES: dict[str, Any] = {
    "attention": Attention,
    "streams": Streams,
    "stat_axis": StatAxis,
    "pre_conv": PreConvolution,
    "augment": Augment,
    "strong_augment": Augment,
    "head": Head,
    "optimiser": Optimiser,
    "schedule": Schedule,
    "select": Select,
}


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
    head: Head
    weights: str
    size: int | None
    fit: Fit
    epochs: int
    freeze: bool
    finetune: int
    minutes: float | None
    optimiser: Optimiser
    schedule: Schedule
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
    strong_augment: Augment
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
        if self.network != "features":
            names.append("head")
        if self.network == "hash":
            names += ["attention", "stat_axis", "attention_width", "pre_conv"]
        elif self.network == "dual-stream":
            names += ["streams"]
        return {name: getattr(self, name) for name in names}

    @property
    def augments(self) -> tuple[Augment, ...]:
        """How each view of an image is made, of one or two."""
        kind = method_class(self.method)
        two = issubclass(kind, Method) and kind.two_views
        return (self.augment, self.strong_augment) if two else (self.augment,)

    @property
    def preprocessing(self) -> Preprocessing:
        """How an image becomes the network's input."""
        facts = backbone_facts(self.backbone)
        size = facts.default_size if self.size is None else self.size
        preprocessing = Preprocessing(size, self.fit, facts.mean, facts.std, facts.crop, facts.interpolation)
        if facts.largest_size is not None and size != facts.largest_size:
            raise ArgumentError(f"size is {size}: {self.backbone} takes {facts.largest_size} pixels only")
        if size < facts.smallest_size:
            raise ArgumentError(f"size is {size}: {self.backbone} needs {facts.smallest_size} pixels or more")
        check_backbone_size(self.backbone, size)
        return preprocessing


def settle(options: TrainOptions) -> Settings:
    """Check everything that needs no file, and fill in what is None or "auto".

    Raises:
        ArgumentError: a setting outside what it may be; the message says what it may be.
    """
    kind = method_class(options.method)
    given = {item.name: getattr(options, item.name) for item in dataclasses.fields(options)}
    recipe = {**COMMON, **method_settings(options.method)}
    _check_idle(options, kind, recipe["network"])
    decided = "finetune" if options.freeze else "epochs"
    if options.minutes is not None and getattr(options, decided) is not None:
        raise ArgumentError(f"minutes decide {decided}, and both were given: leave one of them out")
    chosen = with_changes(recipe, {name: given[name] for name in COMMON if given[name] is not None})
    values = {**given, **{name: chosen[name] for name in COMMON}}
    if issubclass(kind, Shallow):
        values.update(network="features", attention="none", epochs=1, lr_step=1, evaluate_every=1, head="linear")
    elif options.head is None:
        values["head"] = kind.head
    if options.validation is None:
        values["validation"] = 0.1 if options.select == "validation" else 0.0
    _check(values)
    for name in ("images", "out", "labels", "weights", "queries", "database"):
        values[name] = None if values[name] is None else os.fspath(values[name])
    values["method_options"] = {**method_defaults(options.method), **recipe["options"], **options.method_options}
    with torch.random.fork_rng(devices=[]):
        method = build_method(options.method, torch.eye(2), values["bits"], values["method_options"])
    if isinstance(method, Method) and values["epochs"] < method.least_epochs:
        raise ArgumentError(
            f"epochs is {values['epochs']}: {options.method} needs {method.least_epochs} or more with these options"
        )
    device = choose_device(options.device)
    values["device"] = str(device)
    if options.precision == "auto":
        values["precision"] = "float32" if issubclass(kind, SteppingMethod) else fastest_precision(device)
    settings = Settings(**values)
    return dataclasses.replace(settings, size=settings.preprocessing.size)


def _check_idle(options: TrainOptions, kind: type[Method] | type[Shallow], default: str) -> None:
    """Refuse a setting that would change nothing, and its user not know."""
    if issubclass(kind, Shallow):
        for name in _given(options, TRAINED_ONLY):
            raise ArgumentError(
                f"{name}={getattr(options, name)!r} is a setting of networks that are trained, and "
                f"{options.method!r} is fitted once on the features of one that stays as it is: leave it out"
            )
        if options.augment not in (None, "none"):
            raise ArgumentError(
                f"augment is {options.augment!r}: {options.method} is fitted once, to the images as they "
                "are; give 'none'"
            )
    elif options.strong_augment is not None and not kind.two_views:
        raise ArgumentError(
            f"strong_augment is {options.strong_augment!r}: it makes the second view of each image, and "
            f"{options.method!r} takes one; leave it out"
        )
    if issubclass(kind, SteppingMethod):
        for name in _given(options, OPTIMISER_ONLY):
            raise ArgumentError(
                f"{name}={getattr(options, name)!r} is a setting of the trainer's optimiser, and {options.method!r} "
                "takes its own steps: leave it out, or see its options"
            )
        if options.precision not in ("auto", "float32"):
            raise ArgumentError(f"precision is {options.precision!r}: {options.method} trains in float32 only")
    network = options.network or default
    for name, owner in (("attention", "hash"), ("streams", "dual-stream")):
        if getattr(options, name) is not None and network != owner:
            raise ArgumentError(
                f"{name}={getattr(options, name)!r} is a setting of the network {owner!r}, and "
                f"{options.method!r} trains {network!r}: give network={owner!r} too"
            )


def _given(options: TrainOptions, names: set[str]) -> list[str]:
    return [name for name in sorted(names) if getattr(options, name) is not None]


def idle_settings(kind: type[Method] | type[Shallow]) -> set[str]:
    """Fields of `TrainOptions` that mean nothing to a method of this class."""
    if issubclass(kind, Shallow):
        return TRAINED_ONLY
    idle = OPTIMISER_ONLY if issubclass(kind, SteppingMethod) else set()
    return idle if kind.two_views else idle | {"strong_augment"}


def _check(values: Mapping[str, Any]) -> None:
    check_bits(values["bits"])
    for name in ("images", "out", "labels", "weights", "queries", "database"):
        if not isinstance(values[name], (str, os.PathLike, type(None))):
            raise ArgumentError(f"{name} is {values[name]!r}: give a path")
    if not isinstance(values["method_options"], dict):
        raise ArgumentError(f"method_options is {values['method_options']!r}: give names and values")
    for name in ("nesterov", "freeze"):
        if not isinstance(values[name], bool):
            raise ArgumentError(f"{name} is {values[name]!r}: give true or false")
    if values["freeze"] and values["network"] != "hash":
        raise ArgumentError(f"freeze is for the network 'hash', and this is {values['network']!r}: leave it out")
    if values["finetune"] and not values["freeze"]:
        raise ArgumentError(f"finetune is {values['finetune']} without freeze: give epochs, or freeze too")
    shallow = issubclass(method_class(values["method"]), Shallow)
    backbone_facts(values["backbone"])
    choices = {name: get_args(choice) for name, choice in CHOICES.items()} | {
        "network": ("features",) if shallow else ("hash", "dual-stream"),
        "precision": ("auto", *PRECISIONS),
    }
    for name, names in choices.items():
        if values[name] not in names:
            raise ArgumentError(f"unknown {name} {values[name]!r}: give one of {', '.join(names)}")
    for setting in dataclasses.fields(TrainOptions):
        _check_number(setting, values[setting.name])
    if values["select"] == "on-queries":
        if values["queries"] is None or values["database"] is None:
            raise ArgumentError("select='on-queries' looks at the test set: give its lists as queries and database")
        if values["validation"]:
            raise ArgumentError("select='on-queries' keeps no validation images: leave validation out, or give 0")


def fastest_precision(device: torch.device) -> str:
    """bfloat16 where the device computes in it."""
    return "bfloat16" if device.type == "cuda" or (device.type == "cpu" and computes_in_bfloat16()) else "float32"


def _check_number(setting: dataclasses.Field[Any], value: Any) -> None:
    """ArgumentError where a whole number or a number is outside what its field says."""
    least = setting.metadata.get("least")
    if least is None or value is None:
        return
    if isinstance(least, int):
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**63:
            raise ArgumentError(f"{setting.name} is {value!r}: give a whole number from {least} up")
        return
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 <= value < math.inf or (value == 0 and setting.metadata["above"]):
        raise ArgumentError(
            f"{setting.name} is {value!r}: give a number {'above 0' if setting.metadata['above'] else 'from 0 up'}"
        )
