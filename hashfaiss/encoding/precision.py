"""Signs that do not depend on how they were computed: each way to compute them decides what is clear to it.

The fastest way, such as half precision or OpenVINO, decides all images whose outputs are far enough from zero; the next
one computes the others again, float32 what is left, and float64 those whose outputs float32 cannot tell from zero. How
far is far enough is learned on the images at hand: some are computed both ways at first, and all that are computed
again tell more. Batch size, threads, device, engine and half precision then move no bit, but for a rare error that is
larger than all of these, which `hashfaiss bench encode` counts.
"""

from __future__ import annotations

import copy
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from hashfaiss.encoding.depthwise import Depthwise
from hashfaiss.encoding.engine import OpenVino
from hashfaiss.encoding.engine_cache import CLOSE, SIGMAS, Learned
from hashfaiss.errors import ArgumentError, ModelError
from hashfaiss.networks.inference import fold, halve

# Errors are learned from outputs smaller than this share of their size, because larger ones err more.
NEAR = 0.5
TYPES = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
_CUDNN = threading.Lock()
TOGETHER = 1 << 19  # pixels of the images that a CPU's core computes together; more are slower
LEAST = 8  # images from which on half precision is worth its copy of the weights
SURE = 0.95  # of the time without it that half precision may take
SEEN = 100  # images before which few are assumed to be close
TIMED = 3  # batches computed both ways at first; the fastest counts, because the first ones warm up


def choose_precision(precision: str, device: torch.device) -> str:
    """What `auto` is on this device; ArgumentError for what is no precision."""
    if precision not in ("auto", *TYPES):
        raise ArgumentError(f"precision is {precision!r}: give auto, {', '.join(TYPES)}")
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "float16"
    return "bfloat16" if device.type == "cpu" and computes_in_bfloat16() else "float32"


def computes_in_bfloat16() -> bool:
    """Whether this CPU does; one that does not emulates it, 10 to 30 times slower than float32."""
    able: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # young in torch
    return bool(able.get("amx_bf16") or able.get("avx512_bf16"))


def images_together(size: int) -> int:
    """Images of `size` pixels a side that a CPU's core computes together."""
    return max(4, min(64, TOGETHER // size**2))


@dataclass
class Tally:
    """How a fast way does on a network and a device.

    Attributes:
        images, again: how many it decided, and how many of them were computed again.
        fast_seconds, full_seconds: an image takes in it, and in the next way, at best.
        timed: how many batches were computed both ways to learn this.
        errors, squares: how many errors near zero were seen, and the sum of their squares, in shares of the size.
    """

    images: int = 0
    again: int = 0
    fast_seconds: float = math.inf
    full_seconds: float = math.inf
    timed: int = 0
    errors: int = 0
    squares: float = 0.0

    @property
    def close(self) -> float:
        """What is too close to zero for it."""
        return SIGMAS * math.sqrt(self.squares / max(1, self.errors))

    @property
    def learned(self) -> Learned:
        """For processes to come."""
        return Learned(self.fast_seconds, self.full_seconds, self.errors, self.squares, self.pays)

    @property
    def pays(self) -> bool:
        """Whether it is faster; assumed until measured."""
        share = self.again / max(SEEN, self.images)
        return self.timed < TIMED or self.fast_seconds + share * self.full_seconds <= SURE * self.full_seconds

    def learn(self, numbers: Tensor, outputs: Tensor) -> None:
        """From outputs (n, K) computed in it and in the next way."""
        size = _size(outputs)
        near = outputs.abs() < NEAR * size
        errors = ((numbers - outputs) / size)[near]
        self.errors += len(errors)
        self.squares += float(errors.double().square().sum())


@dataclass
class Way:
    """A fast way to compute what is nearly the outputs.

    Attributes:
        compute: images, as `ready` ones are given, → numbers (n, K) in float32.
        ready: whether it computes so many images now.
        floor: what is close to zero at least, as a share of the size.
        tally: how it does.
        settled: called once that is known.
        engine: what computes it, where that is not torch.
    """

    compute: Callable[[Tensor], Tensor]
    ready: Callable[[int], bool]
    floor: float = 0.0
    tally: Tally = field(default_factory=Tally)
    settled: Callable[[Tally], None] = lambda tally: None
    engine: OpenVino | None = None


class Precision:
    """A network and how it is computed.

    Args:
        prepare: images as they are given to `outputs` and `signs` → what the network takes, on the device.
        make_engine: gives what computes float32 beside torch, on a CPU, of images as they are given.

    Attributes:
        name: "float32", "bfloat16" or "float16".
        give_up: whether a way that does not pay is left out.
    """

    def __init__(
        self,
        network: nn.Module,
        device: torch.device,
        name: str,
        prepare: Callable[[Tensor], Tensor] = lambda images: images,
        make_engine: Callable[[], OpenVino | None] = lambda: None,
    ) -> None:
        self.network, self.device = network, device
        self._prepare, self._make_engine = prepare, make_engine
        self._exact_on = torch.device("cpu") if device.type == "mps" else device  # Apple's GPUs know no float64
        self._ours = hasattr(network, "backbones")
        self.name = name if self._ours else "float32"  # a stranger's knows no half, and its layers in what order?
        self.give_up = True
        self._lock = threading.Lock()
        self._made: dict[torch.dtype, Any] = {}
        self._versions = versions(network)
        self.engine = make_engine() if self._ours else None
        self.ways = self._find_ways()

    @property
    def tally(self) -> Tally:
        """How the fastest way does on this network and device; an empty one where there is none but float32."""
        return self.ways[0].tally if self.ways else Tally()

    @tally.setter
    def tally(self, tally: Tally) -> None:
        self.ways[0].tally = tally

    def computing_engine(self) -> OpenVino | None:
        """The one that computes now, or None where it is torch."""
        return next((way.engine for way in self.ways if way.ready(0) and way.tally.pays), None)

    @property
    def trouble(self) -> str | None:
        """Why an engine that was to compute does not."""
        return (self.engine and self.engine.trouble) or None

    def _find_ways(self) -> list[Way]:
        """The fastest first.

        OpenVINO's half precision is not among them: it errs 2 to 10 times as much as torch's, whose sums and norms are
        in float32, and paid for no network tried.
        """
        ways = [] if self.engine is None else [self._by_engine(self.engine)]
        if (half := TYPES[self.name]) is not None:
            prepare = self._prepare if ways else lambda inputs: inputs
            ways.insert(0, Way(lambda images: self._in_parts(self.made(half), prepare(images)), lambda n: n >= LEAST))
        return ways

    def _by_engine(self, engine: OpenVino) -> Way:
        def ready(images: int) -> bool:
            found = engine.ready(images)
            if isinstance(found, Learned) and way.tally.timed < TIMED:  # by a process before this one
                numbers = found.fast_seconds, found.full_seconds, TIMED, found.errors, found.squares
                way.tally = Tally(0, 0, *numbers)
            return bool(found)

        def settled(tally: Tally) -> None:
            engine.keep(tally.learned)

        way = Way(lambda images: self._in_parts(engine, images), ready, CLOSE, settled=settled, engine=engine)
        return way

    def unsettled(self) -> bool:
        """Whether the engine is yet to be compiled, or to be learned of, for it to be kept."""
        if self.engine is None:
            return False
        way = self.ways[-1]
        way.ready(0)  # takes up what was kept of it
        return self.engine.trouble is None and way.tally.timed < TIMED

    def settle(self, images: Tensor) -> None:
        """Have the engine compiled and kept, however few images were encoded, learning of it on these."""
        if self.engine is None or not self.engine.compile():
            return
        way = self.ways[-1]
        for _ in range(way.tally.timed, TIMED):
            self._cascade(images, [way], self.outputs)

    def outputs(self, images: Tensor) -> Tensor:
        """Outputs u (n, K), float32, of images (n, 3, size, size), on the device.

        Raises:
            ModelError: the network gave NaN or infinity.
        """
        return self._outputs(self._prepare(images))

    def _outputs(self, inputs: Tensor) -> Tensor:
        with torch.inference_mode(), self.exactly():
            outputs = self._in_parts(self.made(torch.float32), inputs)
            if not torch.isfinite(outputs).all():
                raise ModelError("the network's outputs are not finite: the model is broken, train it again")
            close = close_rows(outputs, CLOSE)
            if len(close):
                with Depthwise():
                    exact = self.made(torch.float64)(inputs[close].to(self._exact_on).double().contiguous())
                outputs[close] = exact.float().to(self.device)
        return outputs

    def signs(self, images: Tensor) -> Tensor:
        """Numbers (n, K) whose signs are those of `outputs`, by the fastest way there is."""
        self._look_for_changes()
        if self.engine is not None:
            return self._cascade(images, self.ways, self.outputs)
        return self._cascade(self._prepare(images), self.ways, self._outputs)

    def _cascade(self, given: Tensor, ways: Sequence[Way], last: Callable[[Tensor], Tensor]) -> Tensor:
        ways = [way for way in ways if len(given) and way.ready(len(given))]
        if not ways:
            return last(given)
        way, *slower = ways
        with self._lock:  # threads share the tally: what holds for this batch is read at once
            tally = way.tally
            pays, both, share = tally.pays or not self.give_up, tally.timed < TIMED, max(way.floor, tally.close)
        if not pays:
            return self._cascade(given, slower, last)
        with torch.inference_mode():
            started = time.perf_counter()
            numbers = way.compute(given)
            close = close_rows(numbers, share)  # waits for the device
            fast_seconds = time.perf_counter() - started
            again = torch.arange(len(given), device=numbers.device) if both else close
            started = time.perf_counter()
            outputs = self._cascade(given[again.to(given.device)], slower, last) if len(again) else numbers[:0]
            full_seconds = time.perf_counter() - started
            with self._lock:
                tally.learn(numbers[again], outputs)
                tally.fast_seconds = min(tally.fast_seconds, fast_seconds / len(given))
                if both:  # counted as if what was learned had been known
                    close = close_rows(numbers, max(way.floor, tally.close))
                    if slower and slower[0].tally.pays:  # it may have been computing both ways, too
                        full_seconds = min(full_seconds, slower[0].tally.fast_seconds * len(given))
                    tally.full_seconds = min(tally.full_seconds, full_seconds / len(given))
                    tally.timed += 1
                tally.again += len(close)
                tally.images += len(given)
                known = both and tally.timed == TIMED
            if known:
                way.settled(tally)
            numbers[again] = outputs
        return numbers

    def _in_parts(self, network: Any, inputs: Tensor) -> Tensor:
        parts = torch.split(inputs, images_together(inputs.shape[-1])) if self.device.type == "cpu" else [inputs]
        return torch.cat([network(part).float() for part in parts])

    @contextmanager
    def exactly(self) -> Iterator[None]:
        """On CUDA, without TF32 and algorithms chosen by timing them: settings of the whole process, put back."""
        if self.device.type != "cuda":
            yield
            return
        with _CUDNN, torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            yield

    def _look_for_changes(self) -> None:
        """Where the network has been trained or loaded meanwhile, all that was made of it is made anew."""
        if versions(self.network) == self._versions:
            return
        with self._lock:
            now = versions(self.network)
            if now != self._versions:
                self._made, self.engine = {}, self._make_engine() if self._ours else None
                self.ways = self._find_ways()
                self._versions = now  # last: it says that the others are of it

    def made(self, dtype: torch.dtype) -> Any:
        """The network as torch computes it in this type: in float32 and half precision for inference, in float64 as is.

        Made anew where the network has been trained or loaded meanwhile. What is made is had without waiting: a process
        forked while another thread is in here would wait for ever.
        """
        self._look_for_changes()
        if (there := self._made.get(dtype)) is not None:
            return there
        with self._lock:
            if dtype not in self._made:
                if dtype == torch.float64:
                    made = copy.deepcopy(self.network).to(self._exact_on).double().eval()
                    self._made[dtype] = made.to(memory_format=torch.contiguous_format)  # the fastest of float64
                elif dtype == torch.float32:
                    self._made[dtype] = fold(self.network) if self._ours else self.network
                else:
                    self._made[dtype] = halve(self.network, dtype)
            return self._made[dtype]


def versions(network: nn.Module) -> list[int]:
    """Numbers that grow with each change in place.

    Asked for every batch: `network.parameters()` makes up names, which takes a millisecond for a deep network.
    """
    found, waiting = [], [network]
    while waiting:
        module = waiting.pop()
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is not None:
                found.append(0 if tensor.is_inference() else tensor._version)
        waiting += [child for child in module._modules.values() if child is not None]
    return found


def _size(outputs: Tensor) -> Tensor:
    return outputs.square().mean(dim=1, keepdim=True).sqrt()


def close_rows(outputs: Tensor, share: float) -> Tensor:
    """Rows with an output closer to zero than this share of their size, or one that is no number.

    A single output is its own size and says nothing: all such rows are close.
    """
    if outputs.shape[1] == 1:
        return torch.arange(len(outputs), device=outputs.device)
    return (~(outputs.abs() > share * _size(outputs))).any(dim=1).nonzero().flatten()
