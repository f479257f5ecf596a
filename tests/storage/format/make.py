"""Make what `test_kept_format` reads for ever: `python tests/storage/format/make.py`.

For a format of a new version, keep what is here under its own name and have this write beside it.
"""

from __future__ import annotations

import json
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import torch

from hashfaiss.codes import hamming, pack
from hashfaiss.encoding.encoder import Encoder
from hashfaiss.images.preprocessing import Preprocessing
from hashfaiss.library.faiss_file import commit_faiss
from hashfaiss.library.image_index import ImageIndex
from hashfaiss.networks import build_network
from hashfaiss.storage.segments import Row

HERE = Path(__file__).parent
BITS = 20
LABELS = ((), ("cat",), ("cat", "pet"), ("é",))


def encoder() -> Encoder:
    """Of weights that are 0, which take no room: the code of every image is the signs of the last layer's offset."""
    network = build_network("hash", {"backbone": "resnet-small", "bits": BITS}).eval()
    for value in network.state_dict().values():
        value.zero_()
    with torch.no_grad():
        network.hash_layer.bias += torch.tensor([1.0, -1.0, -1.0, 1.0]).repeat(BITS // 4)
    return Encoder(
        network, "hash", {"backbone": "resnet-small", "bits": BITS}, Preprocessing(32, "stretch"), "dhida", device="cpu"
    )


def rows(first: int, n: int) -> list[Row]:
    """Of files of `size` bytes that were last changed at `mtime_ns`; the last is of an image in memory."""
    paths = [f"photos/été {number}.jpg" for number in range(first, first + n - 1)]
    files = [
        Row(path.encode(), 10 + at, (10**9 + at) * 10**9, bytes([first + at]) * 16, LABELS[at % 4])
        for at, path in enumerate(paths)
    ]
    return [*files, Row(b"", 0, 0, bytes([first + n]) * 16, ("memory",))]


def make(folder: Path) -> ImageIndex:
    """Three segments, the last of which takes out images of both others, and FAISS's part."""
    index = ImageIndex.create(encoder(), folder, "flat")
    random = np.random.default_rng(0)
    for first, n, removed in ((0, 5, []), (5, 4, [1]), (9, 3, [0, 6])):
        with index.store.writing() as writer:
            codes = pack(random.standard_normal((n, BITS)))
            codes[-1] = 255, 255, 15  # several images of one code
            writer.append(codes, rows(first, n))
            writer.remove(removed)
            commit_faiss(writer, None)
    return ImageIndex.open(folder)


def content(index: ImageIndex) -> dict[str, object]:
    """All that is to be read, as JSON has it."""
    codes, ids = index.store.codes()
    return {
        "generation": index.store.manifest["generation"],
        "bits": index.bits,
        "ids": ids.tolist(),
        "codes": [code.tobytes().hex() for code in codes],
        "distances": hamming(codes, codes).tolist(),
        "paths": [row.path.decode() for _, row in index.store.rows()],
        "labels": [list(row.labels) for _, row in index.store.rows()],
        "states": [list(row.state) for _, row in index.store.rows()],
        "digests": [row.digest.hex() for _, row in index.store.rows()],
        "identity": index.encoder.identity,
        "code of any image": index.encoder.encode(torch.zeros((1, 3, 40, 40), dtype=torch.uint8)).tobytes().hex(),
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        index = make(Path(made) / "kept.index")
        (HERE / "version-2.json").write_text(json.dumps(content(index), indent=1) + "\n")
        with zipfile.ZipFile(HERE / "version-2.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            for file in sorted(path for path in index.path.rglob("*") if path.is_file() and path.name != "lock"):
                name = file.relative_to(index.path).as_posix()
                archive.writestr(zipfile.ZipInfo(name), file.read_bytes(), zipfile.ZIP_DEFLATED, 9)
