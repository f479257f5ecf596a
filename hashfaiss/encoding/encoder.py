"""Encoder: a network, its preprocessing and its provenance; images in, codes out."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from hashfaiss.codes import BIT_ORDER, Codes, Comparison, check_bits, code_bytes, compare_codes, pack_tensor
from hashfaiss.encoding.devices import choose_devices
from hashfaiss.encoding.engine import COMPILED_FROM, Graph, OpenVino, choose_engine
from hashfaiss.encoding.engine_cache import EngineCache
from hashfaiss.encoding.items import as_items
from hashfaiss.encoding.learned import LearnedCodes
from hashfaiss.encoding.model_file import FORMAT, VERSION, read_file, read_model
from hashfaiss.encoding.pipeline import Work, encode_stream
from hashfaiss.encoding.precision import Precision, choose_precision, images_together, versions
from hashfaiss.errors import ArgumentError, ImageError, ModelError
from hashfaiss.files import DIGEST_BYTES, write_atomic
from hashfaiss.images.preprocessing import Preprocessing
from hashfaiss.networks import build_network
from hashfaiss.networks.archives import check_tensors

if TYPE_CHECKING:
    from PIL.Image import Image

    from hashfaiss.encoding.exporting import Format
    from hashfaiss.encoding.items import Images
    from hashfaiss.library.image_index import ImageIndex

IDENTITY_PRECISION = "float32"  # what codes are defined by, however they are computed
# Batches a CPU's core takes at once, so that what half precision leaves to float32 is a batch, too.
CPU_BATCHES = 3
GPU_BATCH = 256


class Encoder:
    """Images → K-bit codes.

    Attributes:
        network: module, normalised images (n, 3, S, S) → real outputs (n, K).
        preprocessing: how an image becomes the network's input.
        bits: K.
        method: what it was trained with, such as "dhida".
        labels: names of the classes it was trained on.
        facts: every training setting and result, as plain values.
        precision: how the network is computed; it changes no code. Codes are those of float32 (`IDENTITY_PRECISION`).
        engine, engine_asked: what computes it, "torch" or "openvino", which changes no code either; and as asked for.
        cache: where what OpenVINO compiled is kept.
        device, devices: the first, and all.
        learned: codes that a database takes for the training images, or None where they are the network's as well.
        remembered: the network's codes of images it has seen already, or None; not saved.
    """

    def __init__(
        self,
        network: nn.Module,
        network_name: str,
        network_arguments: dict[str, Any],
        preprocessing: Preprocessing,
        method: str,
        labels: Sequence[str] = (),
        facts: dict[str, Any] | None = None,
        device: str = "auto",
        learned: LearnedCodes | None = None,
        precision: str = "auto",
        engine: str = "auto",
    ) -> None:
        self.devices = choose_devices(device)
        self.device = self.devices[0]
        self.network = network.to(self.device).to(memory_format=torch.channels_last).eval()
        self.network_name = network_name
        self.network_arguments = dict(network_arguments)
        self.preprocessing = preprocessing
        self.bits = check_bits(network_arguments["bits"])
        self.method = method
        self.labels = list(labels)
        self.facts = dict(facts or {})
        self.learned = learned
        self.remembered: LearnedCodes | None = None
        name = choose_precision(precision, self.device)
        self.engine, self._engine_trouble = choose_engine(engine, self.device, name)
        self.engine_asked = engine
        self.cache = EngineCache(self._about)
        self._identity: tuple[list[int], str] | None = None
        self._precision_name = name
        self.precision = Precision(self.network, self.device, name, self._inputs, self._make_engine)

    def __repr__(self) -> str:
        return (
            f"Encoder({self.method}, {self.bits} bits, {self.preprocessing.size} px, "
            f"{self.device}, identity {self.identity[:12]})"
        )

    @property
    def identity(self) -> str:
        """sha256 of all that decides a code: weights, network, preprocessing, bit order, precision."""
        found, now = self._identity, versions(self.network)
        if found is None or found[0] != now:  # it may have been trained since it was last asked for
            self._identity = found = now, self._digest()
        return found[1]

    def _digest(self) -> str:
        digest = hashlib.sha256()
        settings = [
            self.network_name,
            self.network_arguments,
            self.preprocessing.to_dict(),
            BIT_ORDER,
            IDENTITY_PRECISION,
        ]
        digest.update(json.dumps(settings, sort_keys=True).encode())
        if self.learned is not None:
            digest.update(b"".join(self.learned.digests) + self.learned.codes.tobytes())
        for name, value in sorted(self.network.state_dict().items()):
            array = value.detach().cpu().contiguous().numpy()
            digest.update(f"{name}{array.dtype}{array.shape}".encode())
            digest.update(array.tobytes())
        return digest.hexdigest()

    def _about(self) -> dict[str, Any]:
        """What is kept with a compiled network, for `hashfaiss.encoding.light`."""
        return {"identity": self.identity, "preprocessing": self.preprocessing.to_dict(), "bits": self.bits}

    def _make_engine(self) -> OpenVino | None:
        """What computes the network in float32 beside torch."""
        if self.engine != "openvino":
            return None
        graph = Graph(self.network, self.preprocessing.normalise, self.preprocessing.size)
        return OpenVino(graph, self.cache, COMPILED_FROM if self.engine_asked == "auto" else 0)

    def keep_compiled(self, images: Images) -> None:
        """Have a compiled network kept beside the encoder, learned of on a few images that can be read.

        Processes that ask with a few images need not import torch then: see `hashfaiss.encoding.light`.
        """
        if self.precision.unsettled():
            work = Work(self, outputs=True)  # which looks at images also where their codes are remembered
            prepared = [made for _, made in work.prepare(list(as_items(images)))]
            resized = [made[0] for made in prepared if isinstance(made, tuple) and isinstance(made[0], Tensor)]
            if resized:
                self.precision.settle(torch.stack(resized))

    @property
    def engine_trouble(self) -> str | None:
        """Why torch computes where OpenVINO was to, or None."""
        return self._engine_trouble or self.precision.trouble

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], device: str = "auto", precision: str = "auto", engine: str = "auto"
    ) -> Encoder:
        """Read a model file; loading never runs code from it.

        Args:
            device: "auto", "cpu", "cuda", "cuda:1", "mps"; of several, as "cuda:0,cuda:1", many image files are
                encoded in a process for each (a script needs `if __name__ == "__main__":`), all else on the first.
            precision: "auto", "float32", "bfloat16" or "float16": how fast, not which codes,
                see `hashfaiss.encoding.precision`.
            engine: "torch"; "openvino", on CPUs; or "auto", the faster of them, measured on the first images. No
                matter for codes either.

        Raises:
            ModelError: missing, damaged, not a hashfaiss model, or of a format version not known here.
            ArgumentError: `device` is not there, no such precision, or no such engine here.
        """
        return cls._read(read_file(os.fspath(path)), os.fspath(path), device, precision, engine)

    @classmethod
    def _read(cls, data: bytes, name: str, device: str, precision: str, engine: str) -> Encoder:
        chosen = choose_devices(device)
        chosen_precision = choose_precision(precision, chosen[0])
        choose_engine(engine, chosen[0], chosen_precision)
        values = read_model(name, data)
        try:
            _check_sizes(values)
            network: Any = build_network(values["network"]["name"], values["network"]["arguments"])
            network.load_state_dict(values["state_dict"])
            encoder = cls(
                network,
                values["network"]["name"],
                values["network"]["arguments"],
                Preprocessing.from_dict(values["preprocessing"]),
                str(values["method"]),
                [str(label) for label in values["labels"]],
                values["facts"],
                ",".join(map(str, chosen)),
                _learned(values),
                chosen_precision,
                engine,
            )
            if encoder.identity != values["identity"]:
                raise ValueError("its weights are not those that were saved")
            if encoder.bits != values["bits"] or encoder.preprocessing.size < network.smallest_size:
                raise ArgumentError(f"{values['bits']} bits, {encoder.preprocessing.size} px do not fit its network")
        except ArgumentError as error:
            raise ModelError(f"the model {name!r} cannot be used: {error}") from None
        except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, RuntimeError) as error:
            detail = " ".join(str(error).split())[:200]
            raise ModelError(
                f"the model {name!r} is damaged or incomplete ({detail}): train or copy it again"
            ) from None
        return encoder

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model file, whole or not at all.

        Raises:
            ModelError: the disk is full, or the folder cannot be written; what stood at `path` still stands.
        """
        try:
            write_atomic(Path(path), self._bytes())
        except OSError as error:
            raise ModelError(f"cannot write the model {os.fspath(path)!r}: {error.strerror}") from None

    def export(self, path: str | os.PathLike[str], to: Format = "onnx") -> None:
        """Write normalisation, network and packing for other programs: see `hashfaiss.encoding.exporting`.

        Learned codes of training images (`learned`) are not in it.

        Args:
            to: "onnx" (`path` ends in .onnx) or "openvino" (.xml; a .bin file lies beside it).

        Raises:
            ArgumentError: another suffix or format, or `path` is a model file of hashfaiss.
            ModelError: the network cannot be exported, a package is missing for it, or the file cannot be written.
        """
        from hashfaiss.encoding.exporting import export

        self._identity = None  # however the network may have been changed since
        export(self, path, to)

    def __reduce__(self) -> tuple[Any, ...]:
        """As its file: a copy is what `load` makes of it, on the same devices."""
        device = ",".join(map(str, self.devices))
        how = (device, self.precision.name, self.engine_asked)
        return _from_bytes, (self._bytes(), *how), {"remembered": self.remembered}

    def _bytes(self) -> bytes:
        """The model file."""
        self._identity = None  # however the network may have been changed since
        buffer = io.BytesIO()
        torch.save(
            {
                "format": FORMAT,
                "version": VERSION,
                "method": self.method,
                "network": {"name": self.network_name, "arguments": self.network_arguments},
                "bits": self.bits,
                "identity": self.identity,
                "preprocessing": self.preprocessing.to_dict(),
                "labels": self.labels,
                "facts": self.facts,
                "learned": None
                if self.learned is None
                else {"digests": b"".join(self.learned.digests), "codes": torch.from_numpy(self.learned.codes)},
                "state_dict": {
                    key: value.detach().cpu().contiguous() for key, value in self.network.state_dict().items()
                },
            },
            buffer,
        )
        return buffer.getvalue()

    def reduce_decoding(self) -> None:
        """Decode JPEG files at reduced size from now on, see `Preprocessing.reduced`: this makes it another encoder."""
        self.preprocessing = replace(self.preprocessing, reduced=True)
        self.remembered = self._identity = None

    @property
    def batch_size(self) -> int:
        """Images that are best encoded together."""
        if self.device.type != "cpu":
            return GPU_BATCH
        return CPU_BATCHES * images_together(self.preprocessing.size)

    def _inputs(self, images: Tensor) -> Tensor:
        """Resized images, uint8, as the network takes them: a quarter of what floats would be goes to the device."""
        moved = images.to(self.device, non_blocking=True).contiguous(memory_format=torch.channels_last)
        return self.preprocessing.normalise(moved)

    def outputs(self, images: Tensor) -> Tensor:
        """Real outputs u (n, K), float32 on the encoder's device, of resized images uint8 (n, 3, size, size).

        Those close to zero are decided in float64, so that no sign depends on batch size, thread count or processor.

        Raises:
            ModelError: the network gave NaN or infinity.
        """
        return self.precision.outputs(images)

    def features(self, images: Tensor) -> Tensor:
        """Real features (n, dim) that the network hashes, float32 on the CPU, of resized images as in `outputs`.

        For telling how well codes keep the features' neighbours; they may differ in their last digits with batch size
        and threads.
        """
        with torch.inference_mode(), self.precision.exactly():
            parts = torch.split(images, images_together(self.preprocessing.size))
            network: Any = self.network
            return torch.cat([network.vectors(self._inputs(part)).float().cpu() for part in parts])

    def encode_resized(self, images: Tensor) -> Codes:
        """Codes (n, ceil(K/8)) of resized images uint8 (n, 3, size, size): the signs of `outputs`, packed there."""
        packed: Codes = pack_tensor(self.precision.signs(images)).cpu().numpy()
        return packed

    def no_codes(self) -> Codes:
        """Codes of no image: uint8 (0, ceil(K/8))."""
        return np.empty((0, code_bytes(self.bits)), dtype=np.uint8)

    def encode(self, images: Images, batch_size: int | None = None, workers: int | None = None) -> Codes:
        """Codes, uint8 (n, ceil(K/8)), of a folder, paths, Pillow images or a tensor batch (n, 3, height, width).

        A folder is encoded in the order of `find_images`. The rows answer to the images one to one, so an image that
        cannot be read is an error here; `to_index` skips and reports it.

        Raises:
            ImageError: an image cannot be read.
            ArgumentError: the images are of no kind named above.
        """
        codes = [self.no_codes()]
        for batch in encode_stream(self, as_items(images), batch_size=batch_size, workers=workers):
            for item, reason in batch.skipped:
                raise ImageError(item.path, reason)
            codes.append(batch.codes)
        return np.concatenate(codes)

    def compare(self, one: str | os.PathLike[str] | Image, other: str | os.PathLike[str] | Image) -> Comparison:
        """The bits in which the codes of two images differ, and how many: their Hamming distance.

        Raises:
            ImageError: one of them cannot be read.
        """
        return compare_codes(self.encode([one, other]), self.bits)

    def to_index(
        self,
        images: Images,
        path: str | os.PathLike[str] | None = None,
        kind: str = "auto",
        labels: str | os.PathLike[str] | Sequence[Sequence[str]] | None = None,
        progress: Callable[[int, int], None] | bool | None = None,
        exclude: Sequence[str] = (),
    ) -> ImageIndex:
        """Encode `images` into a searchable index: a folder at `path`, or in memory without one.

        See `ImageIndex.build` for what `labels` and `exclude` may be and for the report of images left out.

        Args:
            progress: True shows how far it is on stderr, also in notebooks; or called with (images done, images to do).
        """
        # the one arrow that runs up: what people want of an encoder is an index
        from hashfaiss.library.image_index import ImageIndex

        return ImageIndex.of(self, images, path, kind, labels, progress, exclude=exclude)


def _check_sizes(values: dict[str, Any]) -> None:
    """ValueError where a model file's network has more than was stored of it, which making it would take memory for."""
    state, arguments = values["state_dict"], values["network"]["arguments"]
    check_tensors(state.values())
    if arguments.get("kind") == "kernel" and arguments.get("anchors") != len(state["anchors"]):
        raise ValueError(f"{len(state['anchors']):,} anchors for a network of other many")


def _learned(values: dict[str, Any]) -> LearnedCodes | None:
    """What a model file has of learned codes; ValueError where it is damaged."""
    if values.get("learned") is None:
        return None
    joined, codes = values["learned"]["digests"], values["learned"]["codes"].numpy()
    digests = [joined[start : start + DIGEST_BYTES] for start in range(0, len(joined), DIGEST_BYTES)]
    if codes.dtype != np.uint8 or codes.shape != (len(digests), code_bytes(values["bits"])):
        raise ValueError(f"learned codes {codes.shape} for {len(digests):,} images")
    return LearnedCodes(digests, codes)


def _from_bytes(data: bytes, device: str, precision: str, engine: str) -> Encoder:
    return Encoder._read(data, "a copy in memory", device, precision, engine)
