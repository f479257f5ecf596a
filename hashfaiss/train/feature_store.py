"""Features of backbones that stay as they are, of all images of a data set, computed once for all runs of a table.

Known by what decides them: the backbone's weights and the preprocessing, and each image by its file's bytes. What lies
in a folder is taken if it says so of itself, and made anew where it is damaged.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock
from torch import Tensor

from hashfaiss.codes import pack_tensor
from hashfaiss.encoding.compiled import Compiled
from hashfaiss.encoding.encoder import Encoder
from hashfaiss.encoding.engine import Graph
from hashfaiss.encoding.engine_cache import CLOSE
from hashfaiss.encoding.items import Item
from hashfaiss.encoding.learned import LearnedCodes
from hashfaiss.encoding.pipeline import encode_stream
from hashfaiss.encoding.precision import close_rows, images_together
from hashfaiss.files import DIGEST_BYTES, fast_digest, write_atomic
from hashfaiss.images.finding import image_file
from hashfaiss.images.preprocessing import Preprocessing
from hashfaiss.networks.backbone import Backbone
from hashfaiss.networks.features import FeatureHash
from hashfaiss.train.data import TrainingData

BLOCK = 8192  # images whose outputs are computed together
Bar = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]


class FeatureStore:
    """The features of some files.

    Args:
        folder: what was computed lies there, 5 kB an image and backbone with 1,280 features.
        files: paths of all images that will be asked for.
        bar: opens what is told of the work.
    """

    def __init__(self, folder: Path, files: Iterable[str], bar: Bar) -> None:
        self.folder, self._bar = folder, bar
        self._files = list(dict.fromkeys(files))
        self._loaded: dict[str, tuple[dict[bytes, int], npt.NDArray[np.float32]]] = {}
        self._data: tuple[object, TrainingData] | None = None

    def data(self, what: object, read: Callable[[], TrainingData]) -> TrainingData:
        """What the last training read, if it read just that: the trainings of a table differ in all else."""
        if self._data is None or self._data[0] != what:
            self._data = None  # before there are two of them in memory
            self._data = what, read()
        return self._data[1]

    def rows(self, backbone: Backbone, name: str, look: Preprocessing, digests: Sequence[bytes]) -> Tensor | None:
        """Features, float32 (n, dim), of images with these digests; None where one of them is not known.

        Args:
            backbone: whose they are, called `name`.
            look: what it sees.
        """
        numbers, features = self._of(backbone, name, look)
        chosen = [numbers.get(digest, -1) for digest in digests]
        return None if -1 in chosen else torch.from_numpy(features[chosen])

    def codes(self, encoder: Encoder) -> LearnedCodes:
        """The codes of all files but of those that float32 cannot tell from zero: what the encoder would give."""
        network: Any = encoder.network
        numbers, features = self._of(network.backbone, encoder.network_arguments["backbone"], encoder.preprocessing)
        head = network.hash_features if isinstance(network, FeatureHash) else network.head
        clear, codes = [], []
        with torch.inference_mode():
            for start in range(0, len(features), BLOCK):
                outputs = head(torch.from_numpy(features[start : start + BLOCK]).to(encoder.device)).float()
                sure = torch.ones(len(outputs), dtype=torch.bool)
                sure[close_rows(outputs, CLOSE).cpu()] = False
                clear += sure.tolist()
                codes.append(pack_tensor(outputs).cpu().numpy()[sure.numpy()])
        known = [digest for digest, sure in zip(numbers, clear, strict=True) if sure]
        return LearnedCodes(known, np.concatenate([encoder.no_codes(), *codes]))

    def _of(
        self, backbone: Backbone, name: str, look: Preprocessing
    ) -> tuple[dict[bytes, int], npt.NDArray[np.float32]]:
        key = _key(backbone, look)
        if key not in self._loaded:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / f".{key}.lock"):
                found = self._read(key) or self._compute(key, backbone, name, look)
            self._loaded[key] = found
        return self._loaded[key]

    def _read(self, key: str) -> tuple[dict[bytes, int], npt.NDArray[np.float32]] | None:
        try:
            about = json.loads((self.folder / f"{key}.json").read_bytes())
            joined = bytes.fromhex(about["digests"])
            features = np.load(self.folder / f"{key}.npy", mmap_mode="c")
            if about["files"] != self._named() or about["xxh3"] != fast_digest(features.data):
                return None
            return _numbered(joined), features
        except (OSError, ValueError, LookupError, TypeError, EOFError):
            return None

    def _compute(
        self, key: str, backbone: Backbone, name: str, look: Preprocessing
    ) -> tuple[dict[bytes, int], npt.NDArray[np.float32]]:
        network = FeatureHash(name, 8)
        network.backbone = backbone
        device = str(next(backbone.parameters()).device)
        arguments = {"backbone": name, "bits": 8, "kind": "linear"}
        encoder = _Features(network, "features", arguments, look, "itq", device=device, precision="float32")
        found: dict[bytes, npt.NDArray[np.float32]] = {}
        done = 0
        with self._bar("features") as progress:
            for batch in encode_stream(encoder, (Item(image_file(path)) for path in self._files), features=True):
                if batch.features is not None:
                    found.update(zip(batch.digests, batch.features, strict=True))
                done += len(batch.items) + len(batch.skipped)
                progress(done, len(self._files))
        features = np.stack(list(found.values())) if found else np.empty((0, backbone.facts.dim), np.float32)
        aside = self.folder / f".{key}.npy"
        np.save(aside, features)
        aside.replace(self.folder / f"{key}.npy")
        about = {"files": self._named(), "digests": b"".join(found).hex(), "xxh3": fast_digest(features.data)}
        write_atomic(self.folder / f"{key}.json", json.dumps(about).encode())
        return {digest: number for number, digest in enumerate(found)}, features

    def _named(self) -> str:
        return hashlib.sha256("\0".join(sorted(self._files)).encode("utf-8", "surrogateescape")).hexdigest()


class _Features(Encoder):
    """Gives features by OpenVINO where it is there: they are as float32 has them, or their signs are decided again."""

    @cached_property
    def _compiled(self) -> Compiled | None:
        if self.engine != "openvino":
            return None
        network: Any = self.network
        graph = Graph(network.backbone, self.preprocessing.normalise, self.preprocessing.size)
        return Compiled.make(graph.converted(), torch.get_num_threads())

    def features(self, images: Tensor) -> Tensor:
        """As `Encoder.features`."""
        if self._compiled is None:
            return super().features(images)
        parts = torch.split(images, images_together(self.preprocessing.size))
        return torch.cat([torch.from_numpy(self._compiled(part.numpy())) for part in parts])


def _numbered(joined: bytes) -> dict[bytes, int]:
    return {
        joined[start : start + DIGEST_BYTES]: start // DIGEST_BYTES for start in range(0, len(joined), DIGEST_BYTES)
    }


def _key(backbone: Backbone, look: Preprocessing) -> str:
    digest = hashlib.sha256(json.dumps(look.to_dict(), sort_keys=True).encode())
    for name, value in sorted(backbone.state_dict().items()):
        digest.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]
