"""What one image more or less costs in an index of a million, and what a filter by path costs.

uv run python examples/benchmarks/million_rows.py [ROWS] [KIND]

The rows are made up, through StoreWriter; codes are 64 bits, near 1,000 centres; the model is untrained. Each line is
a process of its own that opens the index first: seconds, seconds of a processor (others may keep it busy), and memory
at its peak above what the process held when it began.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from hashfaiss import Encoder, ImageIndex
from hashfaiss.images.preprocessing import Preprocessing
from hashfaiss.library.faiss_file import commit_faiss
from hashfaiss.networks import build_network
from hashfaiss.storage.segments import Row

BITS, PART, FEW = 64, 65536, 10


def make(folder: Path, rows: int, kind: str) -> None:
    arguments = {"backbone": "resnet-small", "bits": BITS}
    encoder = Encoder(
        build_network("hash", arguments).eval(), "hash", arguments, Preprocessing(32, "stretch"), "dhida", device="cpu"
    )
    random = np.random.default_rng(0)
    centres = random.integers(0, 2, (1000, BITS), np.uint8)
    (folder / "few").mkdir()
    for number in range(FEW):
        Image.fromarray(random.integers(0, 256, (32, 32, 3), np.uint8)).save(folder / f"few/{number}.png")
    index = ImageIndex.create(encoder, folder / "x.index", kind)
    index.add(folder / "few")
    with index.store.writing() as writer:
        for start in range(0, rows, PART):
            count = min(PART, rows - start)
            bits = centres[random.integers(0, 1000, count)] ^ (random.random((count, BITS)) < 0.1)
            names = range(start, start + count)
            made = [
                Row(b"photos/%04d/img_%08d.jpg" % (i // 1000, i), i, i, i.to_bytes(16, "big"), (f"class {i % 50}",))
                for i in names
            ]
            writer.append(np.packbits(bits, axis=1, bitorder="little"), made)
            if writer.pending >= 16 * PART:
                writer.commit()
        commit_faiss(writer, None)


def paths_of_hits(index: ImageIndex, folder: Path) -> object:
    return len({index.hit(number, 0).path for number in range(0, len(index), len(index) // 10)})


def append(index: ImageIndex, folder: Path) -> object:
    made = [Row(b"photos/new/%08d.jpg" % i, i, i, i.to_bytes(16, "little"), ()) for i in range(10_000)]
    with index.store.writing() as writer:
        writer.append(np.random.default_rng(1).integers(0, 256, (len(made), BITS // 8), np.uint8), made)
        writer.commit()
    return len(made)


def encoding(index: ImageIndex, folder: Path) -> object:
    return index.encoder.encode([str(folder / "few/0.png")])


WORK: dict[str, Callable[[ImageIndex, Path], object]] = {
    "open": lambda index, folder: len(index),
    "encode": encoding,
    "load": lambda index, folder: len(index.codes),
    "paths of 10 hits": paths_of_hits,
    "--path, 1000 match": lambda index, folder: len(index.store.where(paths=["0007/*"])),
    "--path, all match": lambda index, folder: len(index.store.where(paths=["*.jpg"])),
    "--label": lambda index, folder: len(index.store.where(labels=["class 7"])),
    "idle build": lambda index, folder: index.build(folder / "few").encoded,
    "append 10,000": append,
    "add one": lambda index, folder: index.add([folder / "one.png"]).encoded,
    "remove one": lambda index, folder: index.remove(folder / "photos/0003/img_00003141.jpg"),
    "remove folder": lambda index, folder: index.remove(folder / "photos/0005"),
    "add, then query": lambda index, folder: (
        index.add([folder / "two.png"]).encoded,
        index.query(folder / "two.png", 1)[0].path,
    ),
}


def held(of: str = "VmRSS") -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(of))
    return int(line.split()[1]) / 1024


def measure(folder: Path, name: str) -> None:
    warm = ImageIndex.create(Encoder.load(folder / "x.index/encoder.pt", "cpu"))
    warm.add([folder / "few/0.png"])  # what is loaded late is loaded
    warm.query(folder / "few/0.png", 1)
    for other in ("one", "two"):
        colour = tuple(np.random.default_rng().integers(0, 256, 3).tolist())
        Image.new("RGB", (32, 32), colour).save(folder / f"{other}.png")
    Path("/proc/self/clear_refs").write_text("5")  # the peak from now on
    before, started, busy = held(), time.perf_counter(), time.process_time()
    index = ImageIndex.open(folder / "x.index", warm.encoder)
    opened = time.perf_counter()
    answer = WORK[name](index, folder)
    done = time.perf_counter()
    took, opening, memory = done - started, opened - started, held("VmHWM") - before
    worked = time.process_time() - busy
    print(f"{name:20} {took:7.2f} s, {worked:.2f} busy, {opening:.2f} to open {memory:7.0f} MB   {answer}", flush=True)


def main(rows: int, kind: str) -> None:
    with tempfile.TemporaryDirectory() as place:
        started = time.perf_counter()
        make(Path(place), rows, kind)
        print(f"{rows:,} rows, kind {kind}: made in {time.perf_counter() - started:.1f} s", flush=True)
        stored = sum(path.stat().st_size for path in (Path(place) / "x.index/codes").iterdir())
        print(f"{stored / rows:.0f} bytes a row in segments, paths of 28 letters and labels among them", flush=True)
        for name in WORK:
            subprocess.run([sys.executable, __file__, place, name, "one"], check=True)


if __name__ == "__main__":
    if len(sys.argv) == 4:
        measure(Path(sys.argv[1]), sys.argv[2])
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000, sys.argv[2] if len(sys.argv) > 2 else "flat")
