"""The stream of codes: order, batches, what is left out, and how far it reads ahead."""

from __future__ import annotations

import hashlib
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hashfaiss.codes import pack
from hashfaiss.encoding import pipeline
from hashfaiss.encoding.encoder import Encoder
from hashfaiss.encoding.items import Batch, Item, as_items
from hashfaiss.encoding.pipeline import batched, encode_stream
from hashfaiss.errors import ArgumentError, ImageError
from hashfaiss.files import content_digest
from hashfaiss.images import decoding, finding
from hashfaiss.images.decoding import read_image
from hashfaiss.images.finding import find_images, image_file


def items_below(folder: Path) -> list[Item]:
    return [Item(file, (os.path.basename(os.path.dirname(file.path)),)) for file in find_images(folder)]


def one_by_one(encoder: Encoder, items: list[Item]) -> list[list[int]]:
    """Codes without the pipeline, in float64 and one at a time."""
    network = encoder.precision.made(torch.float64)
    codes = []
    for item in items:
        assert item.path is not None
        resized = encoder.preprocessing.resize(read_image(item.path))[None]
        with torch.inference_mode():
            outputs = network(encoder.preprocessing.normalise(resized).double())
        codes += pack(outputs.numpy()).tolist()
    return codes


def joined(batches: list[Batch]) -> list[list[int]]:
    return np.concatenate([batch.codes for batch in batches]).tolist()


def workers_at_work() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("encode")]


def wait_until(condition: Callable[[], bool]) -> None:
    """However long a busy machine takes; what never happens is ended by pytest's own timeout."""
    while not condition():
        time.sleep(0.01)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 12, 13, 100])
@pytest.mark.parametrize("workers", [1, 3, 16])
def test_neither_batch_size_nor_workers_change_a_code(
    encoder: Encoder, photos: Path, batch_size: int, workers: int
) -> None:
    items = items_below(photos)
    batches = list(encode_stream(encoder, iter(items), batch_size, workers))
    sizes = [batch_size] * (12 // batch_size) + ([12 % batch_size] if 12 % batch_size else [])
    if len(sizes) <= workers:  # few are shared out among them
        sizes = [len(part) for part in batched(items, -(-12 // workers))]
    assert [len(batch.items) for batch in batches] == sizes
    assert [item for batch in batches for item in batch.items] == items
    assert joined(batches) == one_by_one(encoder, items)
    assert len(set(map(tuple, joined(batches)))) > 6  # or order could not be seen in them
    for batch in batches:
        assert batch.codes.shape == (len(batch.items), 3)
        assert batch.skipped == []
    digests = [digest for batch in batches for digest in batch.digests]
    assert digests == [hashlib.blake2b(Path(str(item.path)).read_bytes(), digest_size=16).digest() for item in items]


def test_order_is_kept_when_the_first_take_longest(
    encoder: Encoder, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = items_below(photos)
    expected = one_by_one(encoder, items)
    paths = [str(item.path) for item in items]
    read = {path: threading.Event() for path in paths}
    done: list[str] = []

    def after_the_next(path: str) -> bytes:
        for later in paths[paths.index(path) + 1 :][:1]:
            read[later].wait(200)  # were fewer at work, this would end it
        data = decoding.read_bytes(path)
        done.append(path)
        read[path].set()
        return data

    monkeypatch.setattr(pipeline, "read_bytes", after_the_next)
    batches = list(encode_stream(encoder, items, batch_size=6, workers=12))
    assert done == paths[::-1]
    assert [item for batch in batches for item in batch.items] == items
    assert joined(batches) == expected


def test_what_cannot_be_read_is_left_out_with_the_reason(encoder: Encoder, photos: Path) -> None:
    (photos / "cat" / "1.png").write_bytes(b"no image")
    (photos / "cat" / "2.jpg").write_bytes(b"")
    jpeg = (photos / "dog" / "0.jpg").read_bytes()
    (photos / "dog" / "0.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    items = items_below(photos)
    gone = Item(image_file(str(photos / "gone.jpg")))
    batches = list(encode_stream(encoder, [gone, *items, gone], batch_size=4, workers=4))
    left_out = [(os.path.relpath(str(item.path), photos), why) for batch in batches for item, why in batch.skipped]
    assert [path for path, _ in left_out] == ["gone.jpg", "cat/1.png", "cat/2.jpg", "dog/0.jpg", "gone.jpg"]
    reasons = [why for _, why in left_out]
    assert reasons[0] == reasons[4] == "no such file"
    assert reasons[1].startswith("not an image")
    assert reasons[2] == "empty file"
    assert reasons[3].startswith("damaged: ")
    good = [item for item in items if os.path.relpath(str(item.path), photos) not in dict(left_out)]
    assert [item for batch in batches for item in batch.items] == good
    assert joined(batches) == one_by_one(encoder, good)
    assert [len(batch.items) + len(batch.skipped) for batch in batches] == [4, 4, 4, 2]
    assert [len(batch.skipped) for batch in batches] == [1, 2, 1, 1]  # of these


def test_only_unreadable_images_make_batches_without_codes(encoder: Encoder, tmp_path: Path) -> None:
    items = [Item(image_file(str(tmp_path / f"{number}.jpg"))) for number in range(9)]
    batches = list(encode_stream(encoder, items, batch_size=2))
    assert all(batch.codes.shape == (0, 3) for batch in batches)
    assert [item for batch in batches for item, _ in batch.skipped] == items
    assert list(encode_stream(encoder, [])) == []


@pytest.mark.parametrize("batch_size", [1, 4, 10])
def test_an_endless_stream_is_read_only_as_far_as_needed(encoder: Encoder, photos: Path, batch_size: int) -> None:
    taken = 0
    few = items_below(photos)

    def endless() -> Iterator[Item]:
        nonlocal taken
        for item in itertools.cycle(few):
            taken += 1
            yield item

    stream = encode_stream(encoder, endless(), batch_size, workers=2)
    assert taken == 0  # nothing before it is asked for
    for number in range(1, 4):
        assert len(next(stream).items) == batch_size
        assert taken <= (number + 4) * batch_size
    stream.close()
    before = taken
    wait_until(lambda: not workers_at_work())
    assert taken == before


def test_closing_early_stops_the_work(encoder: Encoder, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wait_until(lambda: not workers_at_work())
    reads = 0

    def counted(path: str) -> bytes:
        nonlocal reads
        reads += 1
        time.sleep(0.01)
        return decoding.read_bytes(path)

    monkeypatch.setattr(pipeline, "read_bytes", counted)
    stream = encode_stream(encoder, items_below(photos) * 50, batch_size=16, workers=2)
    next(stream)
    assert workers_at_work()
    stream.close()
    at_close = reads
    wait_until(lambda: not workers_at_work())
    assert reads <= at_close + 2  # of what was begun not more than the image at hand


def test_images_on_their_way_are_few_however_many_come(encoder: Encoder, photos: Path) -> None:
    """Threads of their own, with one thread each in torch; its number for threads to come is as it was."""
    wait_until(lambda: not workers_at_work())
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    seen: list[int] = []

    def watched() -> Iterator[Item]:
        for item in items_below(photos) * 4:
            seen.append(len(workers_at_work()))
            yield item

    try:
        list(encode_stream(encoder, watched(), batch_size=3))
        assert max(seen) == 3
        assert torch.get_num_threads() == 3
        late: list[int] = []
        thread = threading.Thread(target=lambda: late.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert late == [3]
    finally:
        torch.set_num_threads(before)


def test_an_error_among_the_items_stops_the_work_and_is_told(encoder: Encoder, photos: Path) -> None:
    def failing() -> Iterator[Item]:
        yield from items_below(photos)
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError, match="the source broke"):
        list(encode_stream(encoder, failing(), batch_size=2))
    wait_until(lambda: not workers_at_work())


@pytest.mark.parametrize("arguments", [{"batch_size": 0}, {"batch_size": -1}, {"workers": 0}])
def test_sizes_that_cannot_be(encoder: Encoder, photos: Path, arguments: dict[str, int]) -> None:
    with pytest.raises(ArgumentError, match="give 1 or more of each"):
        list(encode_stream(encoder, items_below(photos), **arguments))


@pytest.mark.parametrize("workers", [1, 3])
def test_features_in_place_of_codes_are_the_networks_own(encoder: Encoder, photos: Path, workers: int) -> None:
    (photos / "cat" / "1.png").write_bytes(b"not one")
    items = items_below(photos)
    batches = list(encode_stream(encoder, items, batch_size=5, workers=workers, features=True))
    assert [item.path for batch in batches for item, _ in batch.skipped] == [str(photos / "cat" / "1.png")]
    good = [item for item in items if item.path != str(photos / "cat" / "1.png")]
    assert [item for batch in batches for item in batch.items] == good
    assert [digest for batch in batches for digest in batch.digests] == [
        content_digest(Path(str(item.path)).read_bytes()) for item in good
    ]
    found = np.concatenate([batch.features for batch in batches if batch.features is not None])
    assert found.dtype == np.float32
    alone = [encoder.features(encoder.preprocessing.resize(read_image(str(item.path)))[None]) for item in good]
    np.testing.assert_allclose(found, torch.cat(alone).numpy(), rtol=1e-4, atol=1e-5)


def test_images_in_memory_have_a_digest_of_their_pixels(encoder: Encoder) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 9, 3)).astype(np.uint8)
    tensors = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    (first,) = encode_stream(encoder, as_items(tensors))
    (second,) = encode_stream(encoder, as_items([Image.fromarray(image) for image in pixels]))
    assert first.digests == second.digests
    assert len(set(first.digests)) == 2
    assert (first.codes == second.codes).all()
    assert [item.path for item in first.items] == [None, None]


def test_one_pillow_image_given_many_times(encoder: Encoder, photos: Path) -> None:
    expected = encoder.encode(photos / "cat" / "0.jpg").tolist()
    with Image.open(photos / "cat" / "0.jpg") as picture:  # not read yet; all threads want it at once
        assert encoder.encode([picture] * 40, workers=8).tolist() == expected * 40


# What can be given


def test_as_items(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [str(file.path) for file in find_images(photos)]
    assert [item.path for item in as_items(photos)] == paths
    assert [item.path for item in as_items(str(photos))] == paths
    assert [item.path for item in as_items(paths[0])] == paths[:1]
    assert [item.path for item in as_items(map(Path, paths[:3]))] == paths[:3]  # type: ignore[arg-type]
    monkeypatch.chdir(photos)
    (item,) = as_items("cat/0.jpg")
    assert item.path == str(photos / "cat" / "0.jpg")
    assert item.file == image_file(str(photos / "cat" / "0.jpg"))
    picture = Image.new("RGB", (4, 4))
    assert [item.source for item in as_items([picture, "cat/0.jpg"])] == [picture, item.file]
    assert [item.source for item in as_items(picture)] == [picture]


@pytest.mark.parametrize("images", [5, None, [5], [None], b"x.jpg", np.zeros((2, 3, 8, 8)), object()])
def test_what_is_no_image(images: Any) -> None:
    with pytest.raises(ArgumentError, match=r"was given as an image: give paths, Pillow images or a tensor"):
        list(as_items(images))


def test_a_folder_that_cannot_be_listed_is_an_error(
    encoder: Encoder, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scandir = os.scandir

    def refusing(path: str) -> Any:
        if path == str(photos / "dog"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(finding.os, "scandir", refusing)
    with pytest.raises(ImageError, match="dog': folder cannot be listed: Permission denied"):
        encoder.encode(photos)
