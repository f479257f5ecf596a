"""Engines: what computes a network. torch always can; OpenVINO is up to several times faster on many CPUs.

An engine changes no code: `precision` decides again what is near zero, by what it was seen to err.
"""

from __future__ import annotations

import copy
import os
import platform
import threading
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from hashfaiss.encoding.compiled import Compiled
from hashfaiss.encoding.engine_cache import EngineCache, Learned
from hashfaiss.errors import ArgumentError

ENGINES = ("auto", "torch", "openvino")
# Images that torch computes before a network is compiled, which takes seconds: few images do not pay them back.
COMPILED_FROM = 256


def choose_engine(engine: str, device: torch.device, precision: str) -> tuple[str, str | None]:
    """What `engine` is on this device, "torch" or "openvino", and a note where that is not what was asked for.

    Raises:
        ArgumentError: no such engine, one that is not installed, or one that does not compute on the device.
    """
    if engine not in ENGINES:
        raise ArgumentError(f"engine is {engine!r}: give {', '.join(ENGINES[:-1])} or {ENGINES[-1]}")
    if engine == "torch":
        return engine, None
    asked = engine == "openvino"
    if device.type != "cpu" or precision == "float16":
        if asked:
            what = f"device is {device}" if device.type != "cpu" else "precision is float16"
            raise ArgumentError(f"engine is 'openvino' and {what}: give device cpu, in float32 or bfloat16, or torch")
        return "torch", None
    if platform.machine().lower() in ("x86_64", "amd64") and torch.backends.cpu.get_cpu_capability() == "DEFAULT":
        return "torch", "this CPU has no AVX2, so torch computes in place of OpenVINO" if asked else None
    if asked:
        try:
            import openvino  # noqa: F401
        except Exception as error:  # one that is there and does not load here, too
            raise ArgumentError(
                f"engine is 'openvino', which cannot be imported ({' '.join(str(error).split())[:120]}): "
                "`pip install openvino`, or leave the engine out"
            ) from None
    return "openvino" if find_spec("openvino") else "torch", None  # imported when there is enough to do


class OpenVino:
    """A network as OpenVINO computes it in one precision: resized images, uint8 (n, 3, S, S) → float32 (n, K).

    OpenVINO has as many threads as torch may use where this is made.

    Args:
        graph: the network.
        cache: where it may lie compiled already.
        from_images: it is compiled once so many images were asked of `ready`.
    """

    def __init__(
        self,
        graph: Graph,
        cache: EngineCache,
        from_images: int,
    ) -> None:
        self._graph = graph
        self._threads = torch.get_num_threads()  # here: threads that encode have a number of their own
        self._cache, self._from_images = cache, from_images
        self._compiled: Compiled | None = None
        self._compiling = threading.Lock()
        self._asked, self._looked = 0, False
        self._process = os.getpid()
        self.trouble: str | None = None

    def ready(self, images: int) -> Learned | bool:
        """Whether it computes now what `images` more are; what was learned of it before, if it was in the cache."""
        if self._process != os.getpid():  # its threads do not survive a fork
            return False
        if self._compiled is not None or self.trouble is not None:
            return self._compiled is not None
        if not self._compiling.acquire(blocking=False):  # meanwhile, other threads go on with torch
            return False
        try:
            if self._compiled is not None or self.trouble is not None:
                return self._compiled is not None
            self._asked += images
            if not self._looked:
                self._looked = True
                learned, data = self._cache.read() or (None, b"")
                if learned is not None and not learned.pays:
                    self.trouble = ""
                    return False
                if learned is not None and self._load(data):
                    return learned
            if self._asked < self._from_images:
                return False
            return self._compile()
        finally:
            self._compiling.release()

    def compile(self) -> bool:
        """Compile it now, however few images were asked for; whether it computes."""
        if self._process != os.getpid():
            return False
        with self._compiling:
            if self._compiled is None and self.trouble is None:
                self._compile()
            return self._compiled is not None

    def _load(self, data: bytes) -> bool:
        try:
            self._compiled = Compiled.read(data, self._threads)
        except Exception:  # it is compiled anew
            return False
        return True

    def _compile(self) -> bool:
        try:
            self._compiled = Compiled.make(self._graph.converted(), self._threads)
        except Exception as error:  # whatever it says of layers it does not know, or where it does not load
            told = " ".join(str(error).split())[:160]
            self.trouble = f"OpenVINO cannot take this network ({told}): torch computes it"
            return False
        return True

    def keep(self, learned: Learned) -> None:
        """Put it into the cache with what was learned of it, also where it does not pay.

        A process that asks with a few images need not import torch then.
        """
        if self._compiled is not None:
            self._cache.write(learned, self._compiled.data())

    def __call__(self, images: Tensor) -> Tensor:
        assert self._compiled is not None  # as `ready` says
        return torch.from_numpy(self._compiled(images.contiguous().numpy()))


class Graph:
    """What engines compile: resized images, uint8 (n, 3, S, S) → (n, K).

    Args:
        network: on the CPU.
        normalise: resized images → what the network takes.
        size: S.
    """

    def __init__(self, network: nn.Module, normalise: Callable[[Tensor], Tensor], size: int) -> None:
        self._forward, self._size = _Forward(network, normalise), size
        self._converting = threading.Lock()
        self._converted: Any = None

    def converted(self) -> Any:
        """As a model of OpenVINO; that takes seconds, and is done once."""
        with self._converting:
            if self._converted is None:
                self._converted = convert(self._forward, self._size)
            return self._converted


class _Forward(nn.Module):
    def __init__(self, network: nn.Module, normalise: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.network, self.normalise = network, normalise

    def forward(self, images: Tensor) -> Tensor:
        outputs: Tensor = self.network(self.normalise(images))
        return outputs


def convert(graph: nn.Module, size: int) -> Any:
    """A module of images, uint8 (n, 3, size, size), as a model of OpenVINO, for any n.

    By the frontend itself: `openvino.convert_model` would tell Intel of it (openvino-telemetry), and trace it thrice.
    """
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    example = torch.zeros(2, 3, size, size, dtype=torch.uint8)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # shapes that depend on the size alone, which is fixed
        traced: Any = torch.jit.trace(  # type: ignore[no-untyped-call]
            copy.deepcopy(graph).eval(), example, check_trace=False
        )
        frontend = FrontEndManager().load_by_framework("pytorch")
        decoder = TorchScriptPythonDecoder(traced)  # named, so that it lives as long as it is read
        model = frontend.convert(frontend.load(decoder))
    model.reshape([-1, 3, size, size])
    return model
