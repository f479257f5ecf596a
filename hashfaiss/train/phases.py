"""The parts of a training: the head alone on features that stay, the whole network, and the learning rate in each."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from hashfaiss.train.settings import Settings

WARM_UP = 0.25  # of a one-cycle phase
WARM_FROM = 1 / 25  # of the rate


@dataclass(frozen=True)
class Phase:
    """Epochs `first` to `last` of a training, counted from 1, in which the same parameters are trained."""

    kind: Literal["head", "whole"]
    first: int
    last: int

    @property
    def epochs(self) -> int:
        """How many there are."""
        return self.last - self.first + 1


def phases_of(settings: Settings) -> list[Phase]:
    """The phases of a training, in their order."""
    if not settings.freeze:
        return [Phase("whole", 1, settings.epochs)]
    head = Phase("head", 1, settings.epochs)
    last = settings.epochs + settings.finetune
    return [head, Phase("whole", head.last + 1, last)] if settings.finetune else [head]


def rate_factor(settings: Settings, phase: Phase, epoch: int, share: float) -> float:
    """What the learning rate is multiplied by, `share` (0 to 1) into an epoch.

    "steps" drops by `lr_factor` after every `lr_step` epochs; "cosine" falls from 1 to 0 along half a cosine over the
    phase (Loshchilov & Hutter 2017); "one-cycle" rises first, for a quarter of the phase (Smith & Topin 2018).
    """
    before = epoch - phase.first
    if settings.schedule == "steps":
        return settings.lr_factor ** (before // settings.lr_step)
    done = (before + share) / phase.epochs
    if settings.schedule == "one-cycle":
        if done < WARM_UP:
            return WARM_FROM + (1 - WARM_FROM) * done / WARM_UP
        done = (done - WARM_UP) / (1 - WARM_UP)
    return 0.5 * (1 + math.cos(math.pi * done))
