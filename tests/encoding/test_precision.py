"""Half precision changes no sign: what it cannot be sure of is computed again."""

from __future__ import annotations

import copy
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hashfaiss.codes import pack
from hashfaiss.encoding import precision
from hashfaiss.encoding.encoder import Encoder
from hashfaiss.encoding.precision import Precision, Tally, choose_precision
from hashfaiss.errors import ArgumentError, ModelError
from hashfaiss.networks import build_network

CPU = torch.device("cpu")


def images(count: int, seed: int = 0) -> Tensor:
    coarse = torch.randn(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    return coarse.repeat_interleave(8, 2).repeat_interleave(8, 3)


def always_pays() -> Tally:
    return Tally(timed=precision.TIMED, fast_seconds=0, full_seconds=1e9)


def fresh(encoder: Encoder, name: str = "bfloat16") -> Precision:
    made = Precision(copy.deepcopy(encoder.network), CPU, name)
    made.tally = always_pays()
    return made


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_signs_are_those_of_the_outputs(encoder: Encoder, name: str) -> None:
    asked = Precision(copy.deepcopy(encoder.network), CPU, name)
    for number in range(20):
        inputs = images(32, number)
        signs, outputs = asked.signs(inputs), asked.outputs(inputs)
        assert (signs.numpy() >= 0).tolist() == (outputs.numpy() >= 0).tolist()
        asked.tally.full_seconds = 1e9  # it pays, however slow this processor is in it
    assert asked.tally.images == 32 * 20
    assert asked.tally.errors > 100


def test_without_the_second_look_signs_do_change(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the test above would prove little."""
    inputs = torch.cat([images(64, number) for number in range(20)])
    asked = fresh(encoder)
    right = asked.outputs(inputs) >= 0
    monkeypatch.setattr(precision, "SIGMAS", 0)
    wrong = torch.cat([asked.signs(part) for part in inputs.split(64)]) >= 0
    assert 0 < (wrong != right).sum() < right.numel() / 20
    assert asked.tally.again == 0


def test_images_far_from_zero_are_computed_once(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = fresh(encoder)
    inputs = images(64)
    asked.tally.errors, asked.tally.squares = 100, 100 * 0.01**2  # errors of 0.01: 0.05 is close
    with torch.inference_mode():
        numbers = asked.made(torch.bfloat16)(inputs).float()  # it sees them with its own errors
    share = numbers.abs() / numbers.square().mean(dim=1, keepdim=True).sqrt()
    again: list[int] = []
    real = asked._outputs
    monkeypatch.setattr(asked, "_outputs", lambda part: again.append(len(part)) or real(part))
    asked.signs(inputs)
    expected = (share < 0.05).any(dim=1).sum().item()
    assert 0 < expected < 64
    assert again == [expected]
    assert asked.tally.again == expected


def test_the_first_images_are_computed_both_ways(encoder: Encoder) -> None:
    asked = Precision(copy.deepcopy(encoder.network), CPU, "bfloat16")
    assert asked.tally.close == 0
    first = asked.signs(images(16))
    assert torch.equal(first, asked.outputs(images(16)))
    assert asked.tally.errors > 20
    assert 0 < asked.tally.close < 0.5
    for number in range(1, precision.TIMED):
        assert asked.tally.timed == number
        assert asked.tally.images == 16 * number
        asked.signs(images(16, number))
    pays = asked.tally.pays
    asked.signs(images(16, precision.TIMED))
    assert asked.tally.timed == precision.TIMED
    assert asked.tally.images == 16 * (precision.TIMED + pays)
    assert asked.tally.full_seconds > 0


def test_what_does_not_pay_is_given_up(encoder: Encoder) -> None:
    asked = Precision(copy.deepcopy(encoder.network), CPU, "bfloat16")
    for tally, pays in (
        (Tally(), True),
        (Tally(timed=2, fast_seconds=2, full_seconds=1), True),  # not known yet
        (Tally(100, 0, fast_seconds=1, full_seconds=2, timed=3), True),
        (Tally(100, 40, fast_seconds=1, full_seconds=2, timed=3), True),
        (Tally(100, 50, fast_seconds=1, full_seconds=2, timed=3), False),
        (Tally(10, 10, fast_seconds=1, full_seconds=2, timed=3), True),  # ten may be an accident
        (Tally(100, 0, fast_seconds=2, full_seconds=2, timed=3), False),
    ):
        assert tally.pays == pays
    asked.tally = Tally(images=10, again=9, fast_seconds=1, full_seconds=1, timed=3)
    assert torch.equal(asked.signs(images(16)), asked.outputs(images(16)))
    assert asked.tally.images == 10


def test_few_images_are_computed_in_float32(encoder: Encoder) -> None:
    asked = Precision(copy.deepcopy(encoder.network), CPU, "bfloat16")
    few = images(precision.LEAST - 1)
    assert torch.equal(asked.signs(few), asked.outputs(few))
    assert asked.tally.images == 0
    assert asked.signs(images(0)).shape == (0, 20)


def test_errors_are_learned_against_a_loop() -> None:
    random = np.random.default_rng(0)
    outputs = random.standard_normal((7, 5))
    numbers = outputs + random.standard_normal((7, 5)) / 10
    tally = Tally()
    tally.learn(torch.from_numpy(numbers[:3]), torch.from_numpy(outputs[:3]))
    tally.learn(torch.from_numpy(numbers[3:]), torch.from_numpy(outputs[3:]))
    errors = []
    for row in range(7):
        size = sum(u * u for u in outputs[row]) / 5
        for u, v in zip(outputs[row], numbers[row], strict=True):
            if abs(u) < 0.5 * size**0.5:
                errors.append((v - u) / size**0.5)
    assert tally.errors == len(errors)
    assert tally.close == pytest.approx(5 * (sum(e * e for e in errors) / len(errors)) ** 0.5)


class Wild(nn.Module):
    """A network that overflows for some images."""

    def __init__(self, broken: bool) -> None:
        super().__init__()
        self.backbones: tuple[Any, ...] = ()
        self.broken = broken

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = inputs.flatten(1)[:, :6].clone()
        if self.broken:
            outputs[::3, 2] = torch.nan
            outputs[1::3, 3] = torch.inf
        return outputs


def test_what_half_precision_cannot_hold_is_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "halve", lambda network, half: Wild(broken=True))
    asked = Precision(Wild(broken=False), CPU, "float16")
    asked.tally = always_pays()
    inputs = images(30)
    assert torch.equal(asked.signs(inputs) >= 0, asked.outputs(inputs) >= 0)
    assert asked.tally.again >= 20
    with pytest.raises(ModelError, match="not finite"):
        Precision(Wild(broken=True), CPU, "float16").signs(inputs)


def test_a_batch_is_judged_by_what_was_known_when_it_began(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = fresh(encoder)
    asked.tally.timed = precision.TIMED - 1
    inputs = images(64)
    right = asked.outputs(inputs)
    real = precision.close_rows

    def others_come_first(outputs: Tensor, share: float) -> Tensor:
        asked.tally.timed = precision.TIMED
        return real(outputs, share)

    monkeypatch.setattr(precision, "close_rows", others_come_first)
    assert torch.equal(asked.signs(inputs), right)  # all of them in float32


@pytest.mark.parametrize("bits", [1, 2])
def test_few_bits_are_those_of_float64(bits: int) -> None:
    torch.manual_seed(0)
    network = build_network("hash", {"backbone": "resnet-small", "bits": bits}).eval()
    asked = Precision(network, CPU, "bfloat16")
    with torch.inference_mode():
        exact = asked.made(torch.float64)(images(400).double())
        network.hash_layer.bias -= exact.median(dim=0).values.float()  # half of them on each side
        exact = asked.made(torch.float64)(images(400).double())
    signs = torch.cat([asked.signs(part) for part in images(400).split(50)])
    assert ((signs >= 0) == (exact >= 0)).all()
    assert 100 < (exact >= 0).sum() < 300 * bits


def test_a_network_that_is_trained_on_is_made_anew(encoder: Encoder, tmp_path: Path) -> None:
    pixels = (images(50).clamp(-1, 1) * 127 + 128).to(torch.uint8)
    encoder.save(tmp_path / "before.pt")
    changed = Encoder.load(tmp_path / "before.pt")
    before = changed.encode(pixels)
    with torch.no_grad():
        for parameter in changed.network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    after = changed.encode(pixels)
    changed.save(tmp_path / "after.pt")
    assert after.tolist() != before.tolist()
    assert after.tolist() == Encoder.load(tmp_path / "after.pt").encode(pixels).tolist()


def test_threads_share_a_network(encoder: Encoder) -> None:
    asked = Precision(copy.deepcopy(encoder.network), CPU, "bfloat16")
    asked.signs(images(64, 99))  # learns how much it errs
    asked.tally.timed, asked.tally.full_seconds = precision.TIMED, 1e9  # it pays
    parts = [images(16, number) for number in range(12)]
    expected = [(asked.outputs(part) >= 0).tolist() for part in parts]
    wrong: list[int] = []

    def ask(start: int) -> None:
        wrong.extend(n for n in range(start, 12, 3) if (asked.signs(parts[n]) >= 0).tolist() != expected[n])

    threads = [threading.Thread(target=ask, args=(start,)) for start in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert asked.tally.images > 0


def test_what_is_made_is_had_without_waiting(encoder: Encoder) -> None:
    """As in a process that was forked while another thread made something: nobody lets go of its lock there."""
    computed = Precision(encoder.network, torch.device("cpu"), "float32")
    made, found = computed.made(torch.float32), []
    with computed._lock:
        thread = threading.Thread(target=lambda: found.append(computed.made(torch.float32)), daemon=True)
        thread.start()
        thread.join(20)
        assert found == [made]


def test_which_precision() -> None:
    assert choose_precision("float32", CPU) == "float32"
    assert choose_precision("auto", CPU) == ("bfloat16" if precision.computes_in_bfloat16() else "float32")
    assert choose_precision("auto", torch.device("cuda")) == "float16"
    assert choose_precision("auto", torch.device("mps")) == "float32"
    with pytest.raises(ArgumentError, match="precision is 'int8': give auto, float32, bfloat16, float16"):
        choose_precision("int8", CPU)


def test_a_strangers_network_is_computed_in_float32() -> None:
    assert Precision(nn.Linear(2, 2), CPU, "bfloat16").name == "float32"


def test_codes_and_identity_are_the_same_in_every_precision(encoder: Encoder, tmp_path) -> None:
    encoder.save(tmp_path / "model.pt")
    pixels = (images(300).clamp(-1, 1) * 127 + 128).to(torch.uint8)
    loaded = [Encoder.load(tmp_path / "model.pt", "cpu", name) for name in ("float32", "bfloat16", "float16", "auto")]
    assert len({one.identity for one in loaded}) == 1
    codes = [one.encode(pixels, batch_size=20).tolist() for one in loaded]
    assert codes[0] == codes[1] == codes[2] == codes[3]
    with torch.inference_mode():
        outputs = loaded[0].precision.made(torch.float64)(loaded[0].preprocessing.normalise(pixels).double())
    assert codes[0] == pack(outputs.numpy()).tolist()
    with pytest.raises(ArgumentError, match="precision is"):
        Encoder.load(tmp_path / "model.pt", "cpu", "half")
