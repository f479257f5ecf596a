"""What a training is without a recipe: a good model of one's own images in the minutes a person waits.

A recipe says how a paper trained; this says how to learn most from few images in little time: a small backbone with
ImageNet weights, its hash layer first, on features computed once, then all of it, for as long as there is.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from hashfaiss.images.finding import find_images
from hashfaiss.images.typical import typical_size
from hashfaiss.networks.timm_backbones import LITE0
from hashfaiss.train.methods import Shallow, SteppingMethod, method_class
from hashfaiss.train.recipes import method_settings

MINUTES = 15.0
PEOPLE: dict[str, Any] = {
    "backbone": LITE0,
    "attention": "none",  # what it looks at would be the larger part of what is kept of each image
    "freeze": True,
    "epochs": 20,
    "minutes": MINUTES,
    "optimiser": "adamw",
    "learning_rate": 3e-3,
    "backbone_rate": 0.1,
    "weight_decay": 0.01,
    "schedule": "one-cycle",
    "batch": 64,
    "augment": "photo",
    "evaluate_every": 1,
}
MANY = 10_000  # images, with each of which DHIDA compares each: beyond, those of a batch are enough
FEW = 200  # images: two steps of 64 are no epoch
FITTED: dict[str, Any] = {"backbone": LITE0}


def defaults_for_people(images: str | os.PathLike[str], given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a training of the images below a folder, where `given` and no recipe says otherwise.

    Who names the epochs, random weights, another network or a method that takes its own steps, knows what they want:
    the rest is then as the method's paper has it.
    """
    kind = method_class(given.get("method", "dhida"))
    network = given.get("network") or method_settings(given.get("method", "dhida")).get("network", "hash")
    own_network = network != "hash" or given.get("weights") == "none"
    if own_network or "epochs" in given or issubclass(kind, SteppingMethod):
        return {}
    chosen = dict(FITTED if issubclass(kind, Shallow) else PEOPLE)
    if "finetune" in given or given.get("freeze"):  # so many epochs of all, or none
        chosen.pop("minutes", None)
    if given.get("freeze") is False:
        chosen.pop("epochs", None)
    count = sum(1 for _ in find_images(images))
    if "batch" in chosen and count < FEW:
        chosen["batch"] = 16
    if given.get("method", "dhida") == "dhida" and count > MANY:
        chosen["method_options"] = {"memory": False}
    if given.get("backbone", LITE0) == LITE0 and "size" not in given:
        chosen["size"] = typical_size(find_images(images))
    return {name: value for name, value in chosen.items() if name not in given}
