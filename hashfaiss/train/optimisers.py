"""Optimisers by name, with the backbone's own learning rate."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from hashfaiss.train.phases import Phase
from hashfaiss.train.settings import Settings


def build_optimiser(settings: Settings, network: Any, method: nn.Module, phase: Phase) -> torch.optim.Optimizer:
    """The optimiser of a network and of its method's own parameters.

    Each group of parameters has a "rate": its learning rate is the epoch's times that. The hash layer and the method's
    parameters have 1, all else `settings.backbone_rate`; of a "head" phase there are no others.
    """
    head = [*network.hash_layer.parameters(), *method.parameters()]
    if phase.kind == "head":
        groups = [{"params": [*network.attention.parameters(), *head], "rate": 1.0}]
    elif settings.backbone_rate == 1:
        groups = [{"params": [*network.parameters(), *method.parameters()], "rate": 1.0}]
    else:
        own = {id(parameter) for parameter in head}
        rest = [parameter for parameter in network.parameters() if id(parameter) not in own]
        groups = [{"params": rest, "rate": settings.backbone_rate}, {"params": head, "rate": 1.0}]
    common: dict[str, Any] = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay}
    match settings.optimiser:
        case "sgd":
            return torch.optim.SGD(groups, momentum=settings.momentum, nesterov=settings.nesterov, **common)
        case "adamw":
            return torch.optim.AdamW(groups, **common)
        case "adam":
            return torch.optim.Adam(groups, **common)
        case "rmsprop":
            return torch.optim.RMSprop(groups, **common)
