"""Fixtures that several rooms' tests share."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from drawn import draw_photos
from hypothesis import HealthCheck, settings
from trainings import write_images

from hashfaiss.encoding.encoder import Encoder
from hashfaiss.images.preprocessing import Preprocessing
from hashfaiss.networks import build_network

# The same draws each time, however long they take. `--hypothesis-profile=default` draws others.
settings.register_profile("same", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("same")


def pytest_addoption(parser: pytest.Parser) -> None:
    """No test may depend on how it is computed: these let one see that none does."""
    parser.addoption("--threads", type=int, default=1, help="Threads that torch computes in.")
    parser.addoption("--mutations", type=int, default=100, help="Changes to an index folder that tests try.")
    parser.addoption("--cuts", type=int, default=3, help="Power cuts of other chance after each operation.")
    parser.addoption("--kills", type=int, default=40, help="Processes that are killed at random moments.")
    parser.addoption("--every-fault", action="store_true", help="Every fault of a disk at every operation.")
    parser.addoption("--examples", type=int, default=10, help="Orders in which files and an index are changed.")
    kinds = ("float32", "bfloat16")
    parser.addoption("--precision", choices=kinds, help="What this processor is fast in, and precision auto so is.")


@pytest.fixture(autouse=True, scope="session")
def as_asked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """In one thread, because networks this small are slower in several, the more so on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(request.config.getoption("--threads"))
    forced = request.config.getoption("--precision")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        if forced:
            patch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": forced == "bfloat16"}, raising=False)
        yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True, scope="session")
def ctrl_c() -> Iterator[None]:
    """Programs started by tests can be interrupted, even where a shell that runs the tests in its background cannot."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def encoder() -> Encoder:
    """An untrained encoder of 20 bits for 32 x 32 pixels; do not change it. Its codes tell most images apart."""
    arguments = {"backbone": "resnet-small", "bits": 20}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_network("hash", arguments).eval()
        noise = torch.randn(64, 3, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)
    with torch.no_grad():  # without this every image gets nearly the same code
        network.hash_layer.bias -= network(noise).mean(dim=0)
    return Encoder(network, "hash", arguments, Preprocessing(32, "stretch"), "dhida", device="cpu")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of the folders bird, cat and dog, each of 4 small images, no two alike: 0.jpg, 1.png, 2.jpg, 3.png."""
    return draw_photos(tmp_path)


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 images of each of 3 colours to train on."""
    return write_images(tmp_path_factory.mktemp("colours"))


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The shared data: CIFAR-10 and pretrained weights."""
    folder = Path(__file__).parents[2] / "shared/data"
    if not folder.is_dir():
        pytest.skip(f"the real images are not at {folder}")
    return folder
