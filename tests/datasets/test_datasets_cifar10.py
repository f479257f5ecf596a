"""CIFAR-10 as it is published: batches read without running what is in them, folders, damage."""

from __future__ import annotations

import os
import pickle
import shutil
import struct
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from layouts import relative, small, split, touch
from PIL import Image

from hashfaiss.datasets import cifar10
from hashfaiss.datasets.layouts import read_dataset, split_dataset
from hashfaiss.datasets.protocols import read_split
from hashfaiss.errors import ArgumentError, LabelError, TrainingError
from hashfaiss.images.decoding import read_image
from hashfaiss.images.labels import labelled_images

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
PARTS = {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]}


def python2_pickle(pixels: np.ndarray, labels: list[int]) -> bytes:
    """The bytes Python 2 wrote for {"data": uint8 array, "labels": list}: as in the published files."""

    def text(value: bytes) -> bytes:
        return (b"U" + bytes([len(value)]) if len(value) < 256 else b"T" + struct.pack("<i", len(value))) + value

    def number(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    raw = pixels.tobytes()
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00t" + text(b"b") + b"tR"
    kind = b"cnumpy\ndtype\n(" + text(b"u1") + b"K\x00K\x01tR(K\x03" + text(b"|") + b"NNN" + number(-1) * 2 + b"K\x00tb"
    state = b"(K\x01(" + b"".join(map(number, pixels.shape)) + b"t" + kind + b"\x89" + text(raw) + b"tb"
    listed = b"](" + b"".join(map(number, labels)) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + state + text(b"labels") + listed + b"u."


def python3_pickle(pixels: np.ndarray, labels: list[int]) -> bytes:
    return pickle.dumps({"data": pixels, "labels": labels}, protocol=2)


def python3_new_pickle(pixels: np.ndarray, labels: list[int]) -> bytes:
    return pickle.dumps({"data": np.asfortranarray(pixels), "labels": labels}, protocol=4)


def cifar_batches(folder: Path, write: Callable[..., bytes] = python2_pickle, each: int = 20) -> dict[str, np.ndarray]:
    """CIFAR-10 of `each` images a batch; returns the pixels of each part."""
    noise = np.random.default_rng(0)
    pixels: dict[str, np.ndarray] = {}
    for part, names in PARTS.items():
        pixels[part] = noise.integers(0, 256, (each * len(names), 3072), np.uint8)
        for number, name in enumerate(names):
            of = pixels[part][number * each : (number + 1) * each]
            touch(folder / "cifar-10-batches-py" / name, write(of, [place % 10 for place in range(each)]))
    meta = {"label_names": CLASSES, "num_vis": 3072}
    touch(folder / "cifar-10-batches-py/batches.meta", pickle.dumps(meta, protocol=2))
    return pixels


@pytest.mark.parametrize("write", [python2_pickle, python3_pickle, python3_new_pickle])
def test_cifar10_batches_become_images(write: Callable[..., bytes], tmp_path: Path) -> None:
    pixels = cifar_batches(tmp_path / "data", write)
    found = read_dataset("cifar10", tmp_path / "data", tmp_path / "cache")
    assert found.folder.parent == tmp_path / "cache"
    assert found.facts == {"dataset": "cifar10", "images": 120, "classes": 10, "left_out": {}}
    assert Counter(path.split("/")[0] for path, _ in relative(found)) == {"train": 100, "test": 20}
    for path, labels in relative(found):
        part, label, file = path.split("/")
        place = int(Path(file).stem)
        assert (label,) == labels == (CLASSES[place % 10],)
        image = read_image(found.folder / path).numpy()
        assert (image == pixels[part][place].reshape(3, 32, 32)).all()


def test_cifar10_is_written_once(tmp_path: Path) -> None:
    cifar_batches(tmp_path)
    first = read_dataset("cifar10", tmp_path, tmp_path / "cache")
    times = {path: os.stat(path).st_mtime_ns for path, _ in first.images}
    again = read_dataset("cifar10", tmp_path / "cifar-10-batches-py", tmp_path / "cache")
    assert again == first
    assert {path: os.stat(path).st_mtime_ns for path, _ in again.images} == times
    cifar_batches(tmp_path, each=10)  # other batches are never taken for these
    assert len(read_dataset("cifar10", tmp_path, tmp_path / "cache").images) == 60


def test_cifar10_a_stopped_extraction_is_not_taken_for_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cifar_batches(tmp_path)
    written = 0
    save = Image.Image.save

    def stop_soon(image: Image.Image, file: Path, **how: Any) -> None:
        nonlocal written
        written += 1
        if written == 30:
            raise KeyboardInterrupt
        save(image, file, **how)

    for killed in (False, True):  # a process that is killed cleans nothing up
        written = 0
        with monkeypatch.context() as patch:
            patch.setattr(Image.Image, "save", stop_soon)
            if killed:
                patch.setattr(shutil, "rmtree", lambda *_, **__: None)
            with pytest.raises(KeyboardInterrupt):
                read_dataset("cifar10", tmp_path, tmp_path / "cache")
        assert any((tmp_path / "cache").glob(".*.tmp")) == killed
        assert not any((tmp_path / "cache").glob("cifar10*"))
    found = read_dataset("cifar10", tmp_path, tmp_path / "cache")
    assert len(found.images) == 120
    assert not any((tmp_path / "cache").glob(".*.tmp"))
    for damage in (lambda file: Path(file).unlink(), lambda file: Path(file).write_bytes(b"")):
        damage(found.images[5][0])
        assert read_dataset("cifar10", tmp_path, tmp_path / "cache") == found
        assert read_image(found.images[5][0]).shape == (3, 32, 32)


class Evil:
    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.how = call, arguments

    def __reduce__(self) -> Any:
        return self.how


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("name", ["batches.meta", "data_batch_3"])
@pytest.mark.parametrize("call", ["mkdir", "eval", "frombuffer", "load"])
def test_cifar10_a_malicious_pickle_does_not_run(name: str, protocol: int, call: str, tmp_path: Path) -> None:
    cifar_batches(tmp_path)
    trap = tmp_path / "ran"
    evil = {
        "mkdir": Evil(os.mkdir, str(trap)),
        "eval": Evil(eval, f"__import__('os').mkdir({str(trap)!r})"),
        "frombuffer": Evil(np.frombuffer, b"x"),  # of numpy, too, only what is on the list
        "load": Evil(np.load, str(trap)),
    }[call]
    touch(tmp_path / "cifar-10-batches-py" / name, pickle.dumps({"data": evil, "label_names": evil}, protocol))
    with pytest.raises(LabelError, match=f"'{name}' cannot be read as a file of CIFAR-10: it asks for "):
        read_dataset("cifar10", tmp_path, tmp_path / "cache")
    assert not trap.exists()


def test_cifar10_nothing_of_numpy_is_called_by_a_pickle() -> None:
    """Its array functions crash on hostile states: the names are played by our own classes."""
    for stand in cifar10._ALLOWED.values():
        assert stand.__module__ == cifar10.__name__
    hostile = b"\x80\x02cnumpy\nndarray\n}U\x0c__setstate__K\x01sb."  # sets an attribute on what a name gives
    with pytest.raises(LabelError):
        cifar10._load("data_batch_1", hostile)
    assert callable(cifar10._Array.__setstate__)


PIXELS = np.zeros((4, 3072), np.uint8)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("data_batch_2", b"", "cannot be read as a file of CIFAR-10"),
        ("data_batch_2", b"\x80\x02]q", "cannot be read as a file of CIFAR-10"),
        ("data_batch_2", python2_pickle(PIXELS, [1, 2, 3, 4])[:-9], "cannot be read as a file of CIFAR-10"),
        ("data_batch_2", pickle.dumps([1]), "holds no dictionary"),
        ("data_batch_2", python2_pickle(PIXELS, [1, 2, 3]), "holds no images"),
        ("data_batch_2", python2_pickle(PIXELS, [1, 2, 3, 10]), "holds no images"),
        ("data_batch_2", python2_pickle(PIXELS, [1, 2, 3, -1]), "holds no images"),
        ("data_batch_2", python2_pickle(PIXELS[:, 1:], [1, 2, 3, 4]), "holds no images"),
        ("data_batch_2", python3_pickle(PIXELS.astype(np.int16), [1, 2, 3, 4]), "holds no images"),
        ("data_batch_2", python3_pickle(PIXELS.astype(np.int8), [1, 2, 3, 4]), "holds no images"),
        ("data_batch_2", pickle.dumps({"data": b"x" * 3072, "labels": [1]}), "holds no images"),
        ("data_batch_2", python2_pickle(PIXELS, [1] * 4).replace(b"J\x04\0\0\0", b"J\x05\0\0\0", 1), "holds no images"),
        ("batches.meta", pickle.dumps({"label_names": ["../../up"] * 10}), "no plain names of classes"),
        ("batches.meta", pickle.dumps({"label_names": "airplane"}), "no plain names of classes"),
    ],
)
def test_cifar10_damaged_batches(name: str, content: bytes, told: str, tmp_path: Path) -> None:
    cifar_batches(tmp_path / "data")
    touch(tmp_path / "data/cifar-10-batches-py" / name, content)
    with pytest.raises(LabelError, match=told) as caught:
        read_dataset("cifar10", tmp_path / "data", tmp_path / "cache")
    assert repr(name) in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


def test_cifar10_what_cannot_be_written_or_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cifar_batches(tmp_path)
    with pytest.raises(ArgumentError, match="give a folder to write their images to"):
        read_dataset("cifar10", tmp_path)
    with pytest.raises(TrainingError, match="cannot write CIFAR-10's images below"):
        read_dataset("cifar10", tmp_path, touch(tmp_path / "file"))
    with monkeypatch.context() as patch:
        patch.setattr(cifar10, "MAX_FILE_BYTES", 1000)
        with pytest.raises(LabelError, match="more than any of CIFAR-10"):
            read_dataset("cifar10", tmp_path, tmp_path / "cache")
    (tmp_path / "cifar-10-batches-py/data_batch_4").unlink()
    with pytest.raises(LabelError, match="has no 'data_batch_4': CIFAR-10's Python version is batches"):
        read_dataset("cifar10", tmp_path, tmp_path / "cache")


@pytest.mark.parametrize("parts", [[""], ["train/", "test/"]])
def test_cifar10_class_folders(parts: list[str], tmp_path: Path) -> None:
    expected = [(f"{part}{label}/{n}.jpg", (label,)) for part in parts for label in CLASSES for n in range(2)]
    for path, _ in expected:
        touch(tmp_path / path)
    touch(tmp_path / "cat/notes.txt")
    found = read_dataset("cifar10", tmp_path)
    assert relative(found) == sorted(expected)
    assert found.images == sorted(labelled_images(tmp_path))  # what --images reads: the same split
    assert found.folder == tmp_path


def test_cifar10_folders_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="cifar-10-batches-py and no class folders of images: cifar10 is"):
        read_dataset("cifar10", tmp_path)
    touch(tmp_path / "train/cat/0.jpg")
    with pytest.raises(LabelError, match="has no test: cifar10 is cifar-10-batches-py/, or class folders"):
        read_dataset("cifar10", tmp_path)
    touch(tmp_path / "test/0.jpg")
    with pytest.raises(LabelError, match=r"test/0.jpg' lies in no class folder"):
        read_dataset("cifar10", tmp_path)


@pytest.mark.slow
def test_cifar10_the_real_one(data_folder: Path, tmp_path: Path) -> None:
    with tarfile.open(data_folder / "cifar10.tar.xz") as archive:
        for member in archive:  # every tenth, and its name alone
            if member.name.endswith("0.jpg"):
                touch(tmp_path / "cifar10" / member.name, b"")
    found = read_dataset("cifar10", tmp_path / "cifar10")
    assert found.facts == {"dataset": "cifar10", "images": 6000, "classes": 10, "left_out": {}}
    split = split_dataset(found, None, 0, tmp_path / "lists")
    assert split.facts["counts"] == {"query": 1000, "train": 5000, "database": 5000}
    assert read_split(tmp_path / "lists") == split


def test_command_unpacks_cifar10_beside_the_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cifar_batches(tmp_path / "data")
    small(monkeypatch, "cifar10", query=2, train=5)
    small(monkeypatch, "cifar10-1", query=2, train=5)
    given = ["--dataset", "cifar10", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "out")]
    assert "cifar10-1, seed 0, mAP@ALL" in split(*given)
    (images,) = (tmp_path / "out").glob("cifar10-*")
    made = read_split(tmp_path / "out")
    assert all((images / path).is_file() for path, _ in made.database)
    assert "training images outside the database: 50" in split(*given, "--protocol", "cifar10")
    split(*given, "--cache", str(tmp_path / "cache"))
    assert len(list((tmp_path / "cache").glob("cifar10-*"))) == 1
    assert "is not of cifar10: give cifar10, cifar10-1, cifar10-2 or" in split(*given, "--protocol", "coco", code=2)
