"""An engine changes no code: OpenVINO's are those of torch in float32, and of float64 near zero."""

from __future__ import annotations

import copy
import json
import os
import sys
import threading
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoders import altered, noise
from torch import Tensor, nn

from hashfaiss.codes import pack
from hashfaiss.encoding import engine, engine_cache, precision
from hashfaiss.encoding.encoder import Encoder
from hashfaiss.encoding.engine import choose_engine
from hashfaiss.encoding.learned import LearnedCodes
from hashfaiss.errors import ArgumentError
from hashfaiss.files import content_digest
from hashfaiss.images.preprocessing import Preprocessing
from hashfaiss.library.image_index import ImageIndex
from hashfaiss.networks import build_network

CPU = torch.device("cpu")
there = pytest.mark.skipif(find_spec("openvino") is None, reason="OpenVINO is not installed")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "hashfaiss"


@pytest.fixture(autouse=True)
def pays(monkeypatch: pytest.MonkeyPatch) -> None:
    """However fast OpenVINO is here."""
    monkeypatch.setattr(precision.Tally, "pays", True)


def joined(parts: Iterable[Any]) -> list[list[int]]:
    return [code for part in parts for code in part.tolist()]


def asked(encoder: Encoder, **how: Any) -> Encoder:
    return Encoder(
        copy.deepcopy(encoder.network),
        encoder.network_name,
        encoder.network_arguments,
        encoder.preprocessing,
        encoder.method,
        device="cpu",
        **{"precision": "float32", "engine": "openvino", **how},
    )


def drawn(name: str, arguments: dict[str, Any], size: int) -> Encoder:
    """An encoder with random weights of some size everywhere, whose bits are 0 for half of some images."""
    torch.manual_seed(0)
    network: Any = build_network(name, arguments).eval()
    look = Preprocessing(size, "stretch")
    with torch.no_grad():
        for key, value in network.state_dict().items():
            if key.endswith(("alpha", "beta")):
                value.fill_(0.7)
            elif key.endswith("running_var"):
                value.uniform_(0.5, 1.5)
            elif key.endswith(("projection", "anchors", "running_mean")):
                value.normal_(std=0.1)
        outputs = network(look.normalise(pictures(40, size, 1)))
        if name == "features":
            shift = outputs.median(dim=0).values.double()
            if network.kind == "kernel":
                network.projection[-1] -= shift
            else:
                network.mean += torch.linalg.lstsq(network.projection.T, shift).solution
        else:
            *_, last = (part for part in network.hash_layer.modules() if isinstance(part, nn.Linear | nn.LayerNorm))
            tanh = arguments.get("head") == "layernorm-tanh"
            last.bias -= (outputs.atanh() if tanh else outputs).median(dim=0).values
    return Encoder(network, name, arguments, look, "dhida", device="cpu", precision="float32", engine="torch")


def pictures(count: int, size: int, seed: int) -> Tensor:
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (count, 3, 4, 4)).repeat(-(-size // 4), 2).repeat(-(-size // 4), 3)
    return torch.from_numpy(coarse[..., :size, :size].astype(np.uint8))


def float64_codes(encoder: Encoder, images: Tensor) -> list[list[int]]:
    network = copy.deepcopy(encoder.network).double().eval()
    with torch.inference_mode():
        outputs = [network(encoder.preprocessing.normalise(part).double()) for part in images.split(16)]
    return pack(torch.cat(outputs).numpy()).tolist()


@there
@pytest.mark.parametrize(
    ("name", "arguments", "size"),
    [
        ("hash", {"backbone": "resnet-small", "bits": 20}, 32),
        ("hash", {"backbone": "resnet-small", "bits": 12, "attention": "ida"}, 32),
        ("hash", {"backbone": "resnet-small", "bits": 12, "attention": "danet", "pre_conv": "conv3x3bnrelu"}, 32),
        ("hash", {"backbone": "resnet18", "bits": 16, "attention": "ida", "head": "mlp"}, 64),
        ("hash", {"backbone": "efficientnet-lite0", "bits": 64}, 32),
        ("hash", {"backbone": "timm/test_vit", "bits": 24}, 160),
        ("dual-stream", {"backbone": "resnet-small", "bits": 16, "head": "layernorm-tanh"}, 32),
        ("features", {"backbone": "resnet-small", "bits": 32}, 32),
        ("features", {"backbone": "resnet-small", "bits": 16, "kind": "kernel", "anchors": 20}, 32),
    ],
)
def test_codes_are_those_of_float64_for_every_network(name: str, arguments: dict[str, Any], size: int) -> None:
    plain = drawn(name, arguments, size)
    fast, images = asked(plain), pictures(80, size, 2)
    expected = float64_codes(plain, images)
    assert joined(fast.encode_resized(part) for part in images.split(16)) == expected
    assert plain.encode_resized(images).tolist() == expected
    assert fast.precision.tally.images == 80  # all five batches were OpenVINO's
    ones = np.unpackbits(np.array(expected, np.uint8), axis=1, count=arguments["bits"], bitorder="little").mean()
    assert 0.2 < ones < 0.8


@there
def test_without_the_second_look_signs_do_change(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the test above would prove little: here OpenVINO's outputs are moved by a part in a thousand."""
    images, real = noise(400), engine.OpenVino.__call__

    def worse(self: Any, part: Tensor) -> Tensor:
        numbers = real(self, part)
        moved = torch.randn(numbers.shape, generator=torch.Generator().manual_seed(len(part)))
        return numbers + 0.002 * moved * numbers.square().mean(dim=1, keepdim=True).sqrt()

    monkeypatch.setattr(engine.OpenVino, "__call__", worse)
    expected = float64_codes(encoder, images)
    fast = asked(encoder)
    assert joined(fast.encode_resized(part) for part in images.split(50)) == expected
    assert 0.006 < fast.precision.tally.close < 0.02
    assert fast.precision.tally.again > 0
    monkeypatch.setattr(precision, "SIGMAS", 0)
    fast = asked(encoder)
    assert joined(fast.encode_resized(part) for part in images.split(50)) != expected


@there
def test_few_images_are_torchs_until_there_are_many(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    made = asked(encoder, engine="auto")
    monkeypatch.setattr(engine, "convert", lambda *_: pytest.fail("converted"))
    for _ in range(3):
        made.encode_resized(noise(80))
    monkeypatch.undo()
    assert made.precision.tally.timed == 0
    made.encode_resized(noise(16))
    assert made.precision.tally.timed == 1


@there
def test_compiled_networks_are_kept(encoder: Encoder, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = asked(encoder)
    expected = float64_codes(encoder, noise(20))
    assert [first.encode_resized(noise(20)).tolist() for _ in range(4)] == [expected] * 4
    (file,) = own_cache.glob("*.openvino")
    monkeypatch.setattr(engine, "convert", lambda *_: pytest.fail("converted"))
    again = asked(encoder, engine="auto")
    assert again.encode_resized(noise(20)[:1]).tolist() == expected[:1]
    tally = again.precision.tally
    assert (tally.timed, tally.images) == (precision.TIMED, 1)
    assert tally.close == first.precision.tally.close > 0
    for change in ({"identity": "0" * 64}, {"openvino": "1"}, {"cpu": "another"}):
        line, _, data = file.read_bytes().partition(b"\n")
        (own_cache / "whole").write_bytes(line + b"\n" + data)
        file.write_bytes(json.dumps({**json.loads(line), **change}).encode() + b"\n" + data)
        assert first.cache.read() is None
        file.write_bytes((own_cache / "whole").read_bytes())
        assert first.cache.read() is not None
    for damaged in (b"", b"{}", b"[]\n", line, line + b"\n" + data[:-1], line + b"\n" + bytes(len(data))):
        file.write_bytes(damaged)
        assert first.cache.read() is None
    monkeypatch.undo()
    assert asked(encoder).encode_resized(noise(20)).tolist() == expected


@there
def test_a_network_that_is_trained_on_is_compiled_anew(encoder: Encoder) -> None:
    made = asked(encoder)
    before = [made.encode_resized(noise(50)).tolist() for _ in range(5)][-1]
    with torch.no_grad():
        for parameter in made.network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    expected = float64_codes(made, noise(50))
    got = []
    for _ in range(5):
        got.append(made.encode_resized(noise(50)).tolist())
    assert got == [expected] * 5
    assert expected != before


@there
def test_an_index_keeps_its_own(encoder: Encoder, photos: Path, tmp_path: Path, own_cache: Path) -> None:
    path = tmp_path / "x.index"
    made = asked(encoder)
    made.to_index(photos, path)
    for _ in range(4):
        made.encode_resized(noise(20))
    (file,) = (path / "engine").iterdir()
    assert file.name.startswith(encoder.identity[:16])
    assert [file.name for file in own_cache.iterdir()] == ["key"]
    stale = [path / "engine" / name for name in ("0123456789abcdef.openvino", f".{file.name}.7.tmp")]
    for each in stale:
        each.write_bytes(b"")
    index = ImageIndex.open(path)
    assert {trouble for _, trouble in index.verify()} == {None}
    assert index.encoder.cache.read() is not None
    index.add(photos / "cat" / "0.jpg")
    assert list((path / "engine").iterdir()) == [file]


@there
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_computes_with_torch(encoder: Encoder) -> None:
    made, expected = asked(encoder), float64_codes(encoder, noise(20))
    for _ in range(4):
        made.encode_resized(noise(20))
    child = os.fork()
    if not child:
        os._exit(0 if made.encode_resized(noise(20)).tolist() == expected else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert made.encode_resized(noise(20)).tolist() == expected


@there
@pytest.mark.skipif(os.name != "posix", reason="a file in the folder's place")
def test_a_cache_that_cannot_be_written_does_without(encoder: Encoder, tmp_path: Path, own_cache: Path) -> None:
    own_cache.parent.mkdir()
    own_cache.write_bytes(b"a file")
    made = asked(encoder)
    assert [made.encode_resized(noise(20)).tolist() for _ in range(5)] == [float64_codes(encoder, noise(20))] * 5
    assert made.precision.tally.images == 100


@there
def test_what_does_not_pay_is_not_tried_again(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    made = asked(encoder)
    monkeypatch.setattr(precision.Tally, "pays", property(lambda tally: tally.timed < precision.TIMED))
    for _ in range(precision.TIMED):
        made.encode_resized(noise(20))
    monkeypatch.setattr(engine, "convert", lambda *_: pytest.fail("converted"))
    for again in (asked(encoder), asked(encoder, engine="auto")):
        assert again.encode_resized(noise(300)).tolist() == float64_codes(encoder, noise(300))
        assert again.precision.tally.images == 0
        assert again.engine_trouble is None


@there
def test_a_network_that_openvino_does_not_know_is_torchs(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    class Odd(nn.Module):
        def forward(self, outputs: Tensor) -> Tensor:
            return torch.special.bessel_j1(outputs)

    network: Any = copy.deepcopy(encoder.network)
    network.hash_layer = nn.Sequential(network.hash_layer, Odd())
    made = asked(altered(encoder, network=network))
    codes = made.encode_resized(noise(20))
    assert codes.tolist() == altered(encoder, network=network).encode_resized(noise(20)).tolist()
    assert "OpenVINO cannot take this network" in str(made.engine_trouble)
    assert made.precision.tally.timed == 0


@there
def test_threads_share_an_engine(encoder: Encoder) -> None:
    made = asked(encoder)
    for _ in range(precision.TIMED):
        made.encode_resized(noise(20))
    images = noise(240)
    expected, wrong = float64_codes(encoder, images), []

    def ask(start: int) -> None:
        for first in range(start, 240, 60):
            part = images[first : first + 20]
            if made.encode_resized(part).tolist() != expected[first : first + 20]:
                wrong.append(first)

    threads = [threading.Thread(target=ask, args=(start,)) for start in (0, 20, 40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert made.precision.tally.images == 240 + 20 * precision.TIMED


@there
def test_bfloat16_is_decided_by_float32_and_that_by_float64(encoder: Encoder) -> None:
    made = asked(encoder, precision="bfloat16")
    images = noise(600)
    assert joined(made.encode_resized(part) for part in images.split(50)) == float64_codes(encoder, images)
    half, full = (way.tally for way in made.precision.ways)
    assert half.images == 600
    assert half.close > 1e-3 > full.close
    assert full.timed == precision.TIMED


def test_learned_codes_stand_with_any_engine(encoder: Encoder, photos: Path) -> None:
    """ADSH's, of training images."""
    file = photos / "cat" / "0.jpg"
    learned = LearnedCodes([content_digest(file.read_bytes())], np.array([[255, 255, 15]], np.uint8))
    for name in ("torch", "auto"):
        made = altered(encoder, learned=learned, engine=name)
        assert made.to_index([file]).store.codes()[0].tolist() == [[255, 255, 15]]


def test_which_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    found = "openvino" if find_spec("openvino") else "torch"
    assert choose_engine("auto", CPU, "float32") == (found, None)
    assert choose_engine("torch", CPU, "float32") == ("torch", None)
    assert choose_engine("auto", torch.device("cuda"), "float16") == ("torch", None)
    assert choose_engine("auto", CPU, "float16") == ("torch", None)
    with pytest.raises(ArgumentError, match="engine is 'onnx': give auto, torch or openvino"):
        choose_engine("onnx", CPU, "float32")
    with pytest.raises(ArgumentError, match="engine is 'openvino' and device is cuda: give device cpu"):
        choose_engine("openvino", torch.device("cuda"), "float32")
    with pytest.raises(ArgumentError, match="and precision is float16"):
        choose_engine("openvino", CPU, "float16")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert choose_engine("auto", CPU, "float32") == ("torch", None)
    kind, note = choose_engine("openvino", CPU, "float32")
    assert (kind, note) == ("torch", "this CPU has no AVX2, so torch computes in place of OpenVINO")


def test_without_openvino_all_works(encoder: Encoder, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setattr(engine, "find_spec", lambda name: None)
    with pytest.raises(
        ArgumentError, match=r"engine is 'openvino', which cannot be imported .*: `pip install openvino`"
    ):
        altered(encoder, engine="openvino")
    made = altered(encoder)
    assert made.engine == "torch"
    assert made.encode(photos).tolist() == encoder.encode(photos).tolist()


@there
def test_an_openvino_that_does_not_load_is_told(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    made = altered(encoder, engine="auto")
    monkeypatch.setitem(sys.modules, "openvino", None)
    images = noise(engine.COMPILED_FROM)
    assert made.encode_resized(images).tolist() == encoder.encode_resized(images).tolist()
    assert "OpenVINO cannot take this network" in str(made.engine_trouble)


def test_old_files_of_the_user_go(own_cache: Path) -> None:
    own_cache.mkdir(parents=True)
    cache = engine_cache.EngineCache(lambda: {"identity": "x"})
    for number in range(engine_cache.KEPT + 3):
        file = own_cache / f"{number}{engine_cache.SUFFIX}"
        file.write_bytes(b"")
        os.utime(file, (number, number))
    cache._forget_old(own_cache)
    assert sorted(int(file.stem) for file in own_cache.iterdir()) == list(range(3, engine_cache.KEPT + 3))
