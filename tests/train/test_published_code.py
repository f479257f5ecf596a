"""Losses and gradients are those of other people's code: published_code.json has what came of running it in float64.

Each case names the code that made it, with its commit. Outputs are given by a formula, labels in the file; a case of 2
steps shows all images once, then the `rows` with other outputs. `times`: the code takes a mean where ours takes a sum.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from hashfaiss.train.methods import build_method

PUBLISHED = json.loads((Path(__file__).parent / "published_code.json").read_bytes())
IMAGES = BITS = 8


def outputs(shift: float) -> torch.Tensor:
    return torch.tensor(
        [
            [round(1.7 * math.sin(3.1 * i + 1.3 * k + shift) + 0.4 * math.cos(i * k + shift), 6) for k in range(BITS)]
            for i in range(IMAGES)
        ],
        dtype=torch.float64,
    )


def name_of(case: dict[str, Any]) -> str:
    return f"{case['method']}-{case['labels']}-{'-'.join(map(str, case['options'].values()))}"


@pytest.mark.parametrize("case", PUBLISHED["cases"], ids=name_of)
def test_loss_and_gradient_are_those_of_the_published_code(case: dict[str, Any]) -> None:
    labels = torch.tensor(PUBLISHED["labels"][case["labels"]], dtype=torch.float32)
    torch.manual_seed(0)
    method: Any = build_method(case["method"], labels, BITS, case["options"])
    method = method.double()
    for name, values in case.get("given", {}).items():
        getattr(method, name).data = torch.tensor(values, dtype=torch.float64)
    first, second, indices = outputs(0.2), outputs(1.1), torch.arange(IMAGES)
    if case["steps"] == 2:
        method(first, indices)
        first, indices = second[PUBLISHED["rows"]], torch.tensor(PUBLISHED["rows"])
    elif case.get("views") == 2:
        first = torch.cat([first, second]).tanh()
    shown = first.clone().requires_grad_()
    loss = method(shown, indices) / case.get("times", 1)
    loss.backward()
    assert loss.item() == pytest.approx(case["loss"], rel=3e-5)  # IDHN divides by norms and 1e-5
    assert shown.grad is not None
    expected = torch.tensor(case["gradient"], dtype=torch.float64)
    torch.testing.assert_close(shown.grad, expected, rtol=1e-4, atol=1e-6)
    if "centres" in case:  # solved for within the step
        torch.testing.assert_close(method.relaxed, torch.tensor(case["centres"]).double(), rtol=1e-6, atol=1e-8)
