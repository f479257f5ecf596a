"""The settings of a training, checked before anything is read or decoded."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

import torch

from hashfaiss.codes import check_bits
from hashfaiss.encoder import choose_device
from hashfaiss.errors import ArgumentError
from hashfaiss.images import Fit, Preprocessing
from hashfaiss.networks.attention import PreConvolution, StatAxis
from hashfaiss.networks.backbones import BACKBONES
from hashfaiss.networks.hashing import Attention
from hashfaiss.train.data import Augment
from hashfaiss.train.methods import build_method, method_defaults

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """What to train, on what, and how. The defaults are DHIDA's (section 4, and METHODS where it is silent).

    Attributes:
        images: folder of images.
        out: the model file to write; the training's own files go to `<out without suffix>.training/` beside it.
        labels: CSV or list file; None takes the folder an image lies in as its label.
        method: a name in `methods.METHODS`.
        bits: K.
        backbone: a name in `backbones.BACKBONES`.
        attention, stat_axis, attention_width, pre_conv: see `HashNetwork`.
        weights: "imagenet", "none" or a file, see `load_weights`.
        size: side in pixels of what the network sees; None is the backbone's own.
        fit: "crop" or "stretch", see `Preprocessing`.
        epochs, learning_rate, weight_decay, batch: of RMSprop. Fewer images than `batch` make one batch.
        lr_step: epochs after which the learning rate is multiplied by `lr_factor`; None is a third of the epochs.
        gamma: weight of the method's regulariser; None is the method's own.
        method_options: further arguments of the method's class; those left out are its defaults.
        augment: "none", "flip", or "crop" (flip and random crop).
        validation: share of the images kept to choose the best epoch by, 0 for none.
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
    backbone: str = "resnet18"
    attention: Attention = "ida"
    stat_axis: StatAxis = "cross"
    attention_width: int | None = None
    pre_conv: PreConvolution = "none"
    weights: str | os.PathLike[str] = "imagenet"
    size: int | None = None
    fit: Fit = "crop"
    epochs: int = 150
    learning_rate: float = 5e-5
    lr_step: int | None = None
    lr_factor: float = 0.1
    weight_decay: float = 1e-5
    batch: int = 128
    gamma: float | None = None
    method_options: dict[str, Any] = field(default_factory=dict)
    augment: Augment = "none"
    validation: float = 0.1
    evaluate_every: int = 5
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"

    def settle(self) -> TrainOptions:
        """Check everything that needs no file, and fill in what is None or "auto".

        Raises:
            ArgumentError: a setting outside what it may be; the message says what it may be.
        """
        bits = check_bits(self.bits)
        _check_name("augment", self.augment, get_args(Augment))
        _check_name("attention", self.attention, get_args(Attention))
        _check_name("precision", self.precision, ["auto", *PRECISIONS])
        _check_name("backbone", self.backbone, list(BACKBONES))
        self._check_numbers()
        build_method(self.method, images=2, bits=bits, classes=2, options=self.loss_options)
        device = choose_device(self.device)
        preprocessing = self.preprocessing
        method_options = {**method_defaults(self.method), **self.loss_options}
        gamma = method_options.pop("gamma", None)
        return dataclasses.replace(
            self,
            images=os.fspath(self.images),
            out=os.fspath(self.out),
            labels=None if self.labels is None else os.fspath(self.labels),
            bits=bits,
            weights=os.fspath(self.weights),
            size=preprocessing.size,
            lr_step=self.lr_step or math.ceil(self.epochs / 3),
            gamma=gamma,
            method_options=method_options,
            device=str(device),
            precision=fastest_precision(device) if self.precision == "auto" else self.precision,
        )

    @property
    def loss_options(self) -> dict[str, Any]:
        """Arguments of the method's class."""
        return self.method_options if self.gamma is None else {"gamma": self.gamma, **self.method_options}

    @property
    def network_arguments(self) -> dict[str, Any]:
        """Arguments of the network's class."""
        names = ("backbone", "bits", "attention", "stat_axis", "attention_width", "pre_conv")
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

    def _check_numbers(self) -> None:
        for name, least in (("epochs", 1), ("batch", 2), ("evaluate_every", 1), ("lr_step", 1), ("seed", 0)):
            value = getattr(self, name)
            if name == "lr_step" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**63:
                raise ArgumentError(f"{name} is {value!r}: give a whole number from {least} up")
        for name in ("learning_rate", "lr_factor", "weight_decay"):
            value = getattr(self, name)
            if not 0 <= value < math.inf or (value == 0 and name != "weight_decay"):
                raise ArgumentError(f"{name} is {value!r}: give a number above 0")


def fastest_precision(device: torch.device) -> str:
    """bfloat16 where the device computes in it: on a CPU without, it is emulated and 30 times slower than float32."""
    if device.type == "cuda":
        return "bfloat16"
    if device.type == "cpu":
        able: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # young in torch
        if able.get("amx_bf16") or able.get("avx512_bf16"):
            return "bfloat16"
    return "float32"


def _check_name(what: str, name: str, names: Sequence[str]) -> None:
    if name not in names:
        raise ArgumentError(f"unknown {what} {name!r}: give one of {', '.join(names)}")
