"""What a training is without a recipe: a good model of one's own images in the minutes a person waits.

A recipe says how a paper trained; this says how to learn most from few images in little time: a small backbone with
ImageNet weights, its hash layer first, on features computed once, then all of it, for as long as there is.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

from hashfaiss.images.labels import labelled_files
from hashfaiss.images.typical import typical_size
from hashfaiss.networks.timm_backbones import LITE0
from hashfaiss.train.methods import Shallow, SteppingMethod, method_class
from hashfaiss.train.recipes import method_settings

MINUTES = 15.0
METHOD = "hashnet"  # of the pairwise losses, the best on few images and on many, and the one without dead bits
PEOPLE: dict[str, Any] = {
    "backbone": LITE0,
    "attention": "none",  # what it looks at would be the larger part of what is kept of each image
    "freeze": True,
    "minutes": MINUTES,
    "optimiser": "adamw",
    "learning_rate": 3e-3,
    "backbone_rate": 0.1,
    "weight_decay": 0.05,
    "schedule": "one-cycle",
    "augment": "photo",
}
EPOCHS, STEPS = 20, 200  # of the hash layer, at least; of few images, that is more epochs
FEW, BATCH, BATCH_OF_FEW = 1000, 64, 32
LEAST_VALIDATED = 500  # images: of fewer, a tenth says nothing, so all are learned from and the last epoch is kept
# A memory of the codes of all images is out of date after each of the large steps taken here.
OPTIONS: dict[str, dict[str, Any]] = {"dhida": {"memory": False}}
FITTED: dict[str, Any] = {"backbone": LITE0}


def defaults_for_people(images: str | os.PathLike[str], given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a training of the images below a folder, where `given` and no recipe says otherwise.

    Who names the epochs of the whole network, random weights, another network or a method that takes its own steps,
    knows what they want: the rest is then as the method's paper has it.

    Raises:
        ArgumentError: `images` is not a folder.
        LabelError: a label file that cannot be read.
    """
    method = given.get("method", METHOD)
    kind = method_class(method)
    network = given.get("network") or method_settings(method).get("network", "hash")
    own_network = network != "hash" or given.get("weights") == "none"
    # with --freeze, epochs are those of the hash layer
    own_length = "epochs" in given and not given.get("freeze")
    if own_network or own_length or issubclass(kind, SteppingMethod):
        return {}
    files = [file for file, _ in labelled_files(images, given.get("labels"))]
    if issubclass(kind, Shallow):
        chosen = dict(FITTED)
    else:
        batch = given.get("batch", BATCH if len(files) >= FEW else BATCH_OF_FEW)
        steps = max(1, math.ceil(len(files) / batch))
        chosen = {**PEOPLE, "batch": batch, "epochs": max(EPOCHS, math.ceil(STEPS / steps))}
        chosen["method_options"] = OPTIONS.get(method, {})
        if len(files) < LEAST_VALIDATED:
            chosen["validation"] = 0.0
    if "finetune" in given or given.get("freeze"):  # so many epochs of all, or none
        chosen.pop("minutes", None)
    if given.get("freeze") is False:
        chosen.pop("epochs", None)
    if given.get("backbone", LITE0) == LITE0 and "size" not in given:
        chosen["size"] = typical_size(files)
    return {"method": method} | {name: value for name, value in chosen.items() if name not in given}
