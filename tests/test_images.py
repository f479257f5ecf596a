"""Images: every odd file is decoded as it should be, or refused with a short reason."""

from __future__ import annotations

import io
import os
import random
import stat
import struct
import subprocess
import sys
import threading
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from hashfaiss import images
from hashfaiss.errors import ArgumentError, ImageError, ModelError
from hashfaiss.images import (
    Preprocessing,
    decode_image,
    find_images,
    from_pillow,
    from_tensor,
    image_file,
    read_bytes,
    read_image,
)

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX file names and links")
ORIENTATION = 274
NOISE = np.random.default_rng(0).integers(0, 256, (24, 32, 3)).astype(np.uint8)
WORDS = np.random.default_rng(1).integers(0, 1 << 16, (24, 32, 4)).astype(np.uint16)
SMOOTH = np.array(Image.fromarray(NOISE[::6, ::6]).resize((32, 24)))


def encoded(image: Image.Image | Pixels, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(buffer, kind, **options)
    return buffer.getvalue()


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *extra: tuple[bytes, bytes]) -> bytes:
    """A PNG by hand, for what Pillow does not write."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)), *extra]
    data = b"\x89PNG\r\n\x1a\n"
    for name, body in [*chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]:
        data += struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    return data


def png_rows(values: np.ndarray) -> bytes:
    return b"".join(b"\0" + row.astype(values.dtype.newbyteorder(">")).tobytes() for row in values)


def decoded(data: bytes) -> np.ndarray:
    """Decode, check the contract, and give (height, width, 3) as int."""
    image = decode_image(data)
    assert image.dtype == torch.uint8
    assert image.dim() == 3
    assert image.shape[0] == 3
    return image.permute(1, 2, 0).numpy().astype(int)


def over_white(rgba: np.ndarray) -> np.ndarray:
    colour, alpha = rgba[..., :3].astype(float), rgba[..., 3:].astype(float) / 255
    return colour * alpha + 255 * (1 - alpha)


def reason(call: Callable[[], object]) -> str:
    with pytest.raises(ImageError) as caught:
        call()
    assert caught.value.reason in str(caught.value)
    assert "\n" not in caught.value.reason
    assert 0 < len(caught.value.reason) <= 210
    assert caught.value.__cause__ is None
    return caught.value.reason


# Decoding: kinds of files that are good


@pytest.mark.parametrize(
    ("kind", "options"),
    [("PNG", {}), ("BMP", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("WEBP", {"lossless": True})],
)
def test_lossless_kinds_give_the_exact_pixels(kind: str, options: dict[str, Any]) -> None:
    assert (decoded(encoded(NOISE, kind, **options)) == NOISE).all()
    grey = NOISE[..., 0]
    if kind != "WEBP":
        assert (decoded(encoded(grey, kind, **options)) == grey[..., None]).all()


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_lossy_kinds_are_near(kind: str) -> None:
    assert abs(decoded(encoded(SMOOTH, kind, quality=95)) - SMOOTH).mean() < 6


def test_jpeg_is_what_pillow_reads() -> None:
    for options in ({"quality": 60}, {"progressive": True}, {"subsampling": 2}, {"quality": 100, "subsampling": 0}):
        data = encoded(SMOOTH, "JPEG", **options)
        theirs = np.array(Image.open(io.BytesIO(data))).astype(int)
        assert abs(decoded(data) - theirs).max() <= 2


def test_grey_jpeg_has_three_equal_channels() -> None:
    found = decoded(encoded(SMOOTH[..., 0], "JPEG", quality=95))
    assert (found == found[..., :1]).all()
    assert abs(found[..., 0] - SMOOTH[..., 0]).mean() < 3


def test_cmyk_jpeg_becomes_rgb() -> None:
    found = decoded(encoded(Image.fromarray(SMOOTH).convert("CMYK"), "JPEG", quality=95))
    assert abs(found - SMOOTH).mean() < 6  # not inverted, not four channels


def test_16_bits_are_scaled_to_8() -> None:
    grey = WORDS[..., 0]
    for kind in ("PNG", "TIFF"):
        found = decoded(encoded(Image.fromarray(grey), kind))
        assert abs(found - (grey / 257)[..., None]).max() <= 1
    found = decoded(png(32, 24, 16, 2, png_rows(WORDS[..., :3])))
    assert abs(found - WORDS[..., :3] / 257).max() <= 1
    found = decoded(png(32, 24, 16, 6, png_rows(WORDS)))
    assert abs(found - over_white(WORDS / 257)).max() <= 2
    found = decoded(png(32, 24, 16, 4, png_rows(WORDS[..., [0, 3]])))
    assert abs(found - over_white(WORDS[..., [0, 0, 0, 3]] / 257)).max() <= 2


def test_one_bit_is_black_and_white() -> None:
    bits = NOISE[..., 0] > 127
    for kind in ("PNG", "TIFF"):
        assert (decoded(encoded(Image.fromarray(bits), kind)) == 255 * bits[..., None]).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_transparency_is_laid_over_white(kind: str) -> None:
    rgba = np.dstack([NOISE, NOISE[::-1, :, 0]])
    rgba[0, :, 3], rgba[1, :, 3] = 0, 255
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    found = decoded(encoded(rgba, kind, **options))
    assert abs(found - over_white(rgba)).max() <= 1
    assert (found[0] == 255).all()
    assert (found[1] == rgba[1, :, :3]).all()


def test_grey_with_alpha_is_laid_over_white() -> None:
    values = NOISE[..., :2]
    bands = [Image.fromarray(np.ascontiguousarray(values[..., band])) for band in range(2)]
    found = decoded(encoded(Image.merge("LA", bands), "PNG"))
    assert abs(found - over_white(values[..., [0, 0, 0, 1]])).max() <= 1


def test_palette_with_alpha_is_laid_over_white() -> None:
    palette = Image.fromarray(NOISE).quantize(8)
    alphas = np.arange(0, 256, 36, dtype=np.uint8)
    index = np.array(palette)
    rgba = np.dstack([np.array(palette.convert("RGB")), alphas[index]])
    found = decoded(encoded(palette, "PNG", transparency=alphas.tobytes()))
    assert abs(found - over_white(rgba)).max() <= 1
    assert (found[index == 0] == 255).all()
    plain = decoded(encoded(palette, "PNG"))
    assert (plain == np.array(palette.convert("RGB"))).all()


def test_a_transparent_colour_becomes_white() -> None:
    clear = NOISE[3, 4]
    data = png(32, 24, 8, 2, png_rows(NOISE), (b"tRNS", struct.pack(">HHH", *clear.tolist())))
    there = (clear == NOISE).all(axis=2)[..., None]
    assert (decoded(data) == np.where(there, 255, NOISE)).all()
    grey = WORDS[..., 0] | 1
    grey[2:5] = 600
    data = png(32, 24, 16, 0, png_rows(grey), (b"tRNS", struct.pack(">H", 600)))
    found = decoded(data)
    assert (found[2:5] == 255).all()
    assert abs(found[5:] - (grey / 257)[5:, :, None]).max() <= 1


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8])
def test_images_are_turned_upright(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    data = encoded(SMOOTH, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    theirs = np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(data)))).astype(int)
    found = decoded(data)
    assert found.shape == theirs.shape == ((24, 32, 3) if orientation < 5 else (32, 24, 3))
    assert abs(found - theirs).max() <= 2


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_an_orientation_that_means_nothing_is_passed_over(orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    assert (decoded(encoded(SMOOTH, "JPEG", exif=exif)) == decoded(encoded(SMOOTH, "JPEG"))).all()


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_an_animation_the_first_frame_is_used(kind: str) -> None:
    frames = [Image.new("RGB", (9, 7), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(data)).n_frames == 3
    assert (decoded(data) == (255, 0, 0)).all()
    assert decoded(data).shape == (7, 9, 3)


def test_gif_gives_its_palette_colours() -> None:
    palette = Image.fromarray(NOISE).quantize(16)
    assert (decoded(encoded(palette, "GIF")) == np.array(palette.convert("RGB"))).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "GIF"])
def test_thin_images(size: tuple[int, int], kind: str) -> None:
    found = decoded(encoded(Image.new("RGB", size, (200, 100, 50)), kind))
    assert found.shape == (size[1], size[0], 3)
    assert abs(found - (200, 100, 50)).max() <= 3


# Decoding: files that are bad


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "empty file"),
        (b"\0", "not an image"),
        (b"plain text\n" * 50, "not an image"),
        (b"%PDF-1.7\n", "not an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
        (bytes(1000), "not an image"),
        (b"\xff\xd8\xff", "not an image"),
        (b"\x89PNG\r\n\x1a\n", "not an image"),
        (b"\0\0\0\x18ftypheic" + bytes(50), "damaged"),
    ],
)
def test_what_is_not_an_image(data: bytes, expected: str) -> None:
    assert reason(lambda: decode_image(data)).startswith(expected)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_truncated_files_are_refused(kind: str) -> None:
    data = encoded(NOISE, kind)
    end = {"JPEG": 1, "PNG": 13, "GIF": 40}.get(kind, 1)  # past this cut all pixels are there
    for cut in [*range(1, len(data) - end, max(1, len(data) // 40)), len(data) - end]:
        assert reason(lambda cut=cut: decode_image(data[:cut])).startswith(("damaged: ", "not an image"))
    assert reason(lambda: decode_image(data[: len(data) * 2 // 3])).startswith("damaged: ")


@pytest.mark.parametrize("side", [100_000, 14_000])
def test_a_png_that_claims_too_many_pixels(side: int) -> None:
    data = png(side, side, 8, 2, bytes(100))
    assert reason(lambda: decode_image(data)) == "claims more than 178,956,970 pixels"


@pytest.mark.parametrize(("width", "height"), [(0, 5), (5, 0), (1 << 31, 1)])
def test_a_png_with_sides_that_cannot_be(width: int, height: int) -> None:
    reason(lambda: decode_image(png(width, height, 8, 2, bytes(100))))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_png_with_fewer_pixels_than_it_claims() -> None:
    assert reason(lambda: decode_image(png(3000, 3000, 8, 2, bytes(100)))).startswith("damaged: ")


def test_a_flipped_byte_in_a_png_is_found() -> None:
    data = encoded(NOISE, "PNG")
    for place in range(45, len(data) - 20, 97):
        broken = bytearray(data)
        broken[place] ^= 0x55
        assert reason(lambda broken=broken: decode_image(bytes(broken))).startswith(("damaged: ", "not an image"))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_hostile_bytes_end_in_an_image_or_an_image_error(kind: str) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    data = encoded(SMOOTH, kind, **({"exif": exif} if kind in ("JPEG", "PNG", "WEBP") else {}))
    dice = random.Random(0)
    refused = 0
    for round_ in range(150):
        broken = bytearray(data)
        for _ in range(dice.randint(1, 5)):
            broken[dice.randrange(len(broken) if round_ % 2 else min(120, len(broken)))] = dice.randrange(256)
        try:
            decoded(bytes(broken))
        except ImageError:
            refused += 1
    assert refused > 10


def test_values_that_are_no_colours() -> None:
    floats = encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF")
    assert "floating-point" in reason(lambda: decode_image(floats))
    large = encoded(Image.fromarray(np.full((4, 4), 70_000, np.int32)), "TIFF")
    assert "32-bit" in reason(lambda: decode_image(large))
    negative = encoded(Image.fromarray(np.full((4, 4), -1, np.int32)), "TIFF")
    assert "32-bit" in reason(lambda: decode_image(negative))


def test_pillows_warnings_do_not_reach_the_terminal(tmp_path: Path) -> None:
    exif = b"Exif\0\0II*\0\x08\0\0\0\x05\0" + bytes(4)  # promises five entries
    data = encoded(Image.fromarray(SMOOTH).convert("CMYK"), "JPEG", exif=exif)
    with pytest.warns(UserWarning, match="Corrupt EXIF"):
        Image.open(io.BytesIO(data)).getexif()
    (tmp_path / "a.jpg").write_bytes(data)
    script = "import sys; from hashfaiss.images import read_image; print(tuple(read_image(sys.argv[1]).shape))"
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "a.jpg")], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "(3, 24, 32)\n", "")


# Pillow images and tensors


def test_pillow_images_in_memory() -> None:
    image = from_pillow(Image.fromarray(NOISE))
    assert image.is_contiguous()
    assert (image.permute(1, 2, 0).numpy() == NOISE).all()
    assert from_pillow(Image.fromarray(NOISE[..., 0])).shape == (3, 24, 32)
    frames = [Image.new("RGB", (5, 4), colour) for colour in ("red", "lime")]
    animation = Image.open(io.BytesIO(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])))
    animation.seek(1)
    assert from_pillow(animation)[:, 0, 0].tolist() == [255, 0, 0]


def test_pillow_images_that_cannot_be_read() -> None:
    cut = Image.open(io.BytesIO(encoded(NOISE, "JPEG")[:1000]))
    assert reason(lambda: from_pillow(cut)).startswith("damaged: ")
    closed = Image.open(io.BytesIO(encoded(NOISE, "PNG")))
    closed.close()
    assert reason(lambda: from_pillow(closed)).startswith("damaged: ")
    assert reason(lambda: from_pillow(Image.new("RGB", (0, 5)))) == "0 x 5 pixels"


def test_tensors_are_taken_as_they_are_or_scaled() -> None:
    whole = torch.arange(2 * 3 * 4 * 5, dtype=torch.uint8).view(2, 3, 4, 5)
    assert from_tensor(whole) is whole
    for kind in (torch.float32, torch.float64):
        assert (from_tensor(whole.to(kind) / 255) == whole).all()
    assert from_tensor(torch.zeros(0, 3, 4, 4)).shape == (0, 3, 4, 4)


class Far(torch.Tensor):
    """A tensor that lies elsewhere until `cpu` is called."""

    def cpu(self, memory_format: torch.memory_format = torch.preserve_format) -> torch.Tensor:
        return self.as_subclass(torch.Tensor)


@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
def test_tensors_are_brought_to_the_cpu(kind: torch.dtype) -> None:
    far = torch.ones(2, 3, 4, 5, dtype=kind).as_subclass(Far)
    near = from_tensor(far)
    assert type(far * 1) is Far
    assert type(near) is torch.Tensor
    assert near.device.type == "cpu"
    assert near.dtype == torch.uint8


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
def test_tensors_of_a_gpu_are_resized(kind: torch.dtype) -> None:
    batch = from_tensor(torch.ones(1, 3, 40, 50, dtype=kind, device="cuda"))
    assert batch.device.type == "cpu"
    assert Preprocessing(size=32).resize(batch[0]).shape == (3, 32, 32)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (torch.zeros(3, 4, 4), r"shape \(3, 4, 4\) was given: give images as \(n, 3, height, width\)"),
        (torch.zeros(1, 1, 4, 4), "shape"),
        (torch.zeros(1, 3, 0, 4), "shape"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.int64), "torch.int64 was given: give uint8"),
        (torch.full((1, 3, 4, 4), 1.5), "from 1.5 to 1.5 was given: give pixels from 0 to 1, not normalised"),
        (torch.full((1, 3, 4, 4), -0.1), "not normalised"),
        (torch.full((1, 3, 4, 4), float("nan")), "not normalised"),
    ],
)
def test_tensors_that_are_no_images(batch: torch.Tensor, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        from_tensor(batch)


# Reading


def test_reading_what_is_not_there(tmp_path: Path) -> None:
    path = str(tmp_path / "cat.jpg")
    assert reason(lambda: read_image(path)) == "no such file"
    with pytest.raises(ImageError, match=r"cannot read image '.*cat\.jpg': no such file") as caught:
        read_bytes(path)
    assert caught.value.path == path
    assert reason(lambda: read_image("a\0b.jpg"))
    assert "too long" in reason(lambda: read_image("x" * 5000)).lower()
    assert image_file(path) == images.ImageFile(path, 0, 0)
    assert image_file("a\0b") == images.ImageFile("a\0b", 0, 0)


def test_reading_a_folder_or_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "empty.jpg").touch()
    assert reason(lambda: read_image(tmp_path / "folder.jpg")) == "not a regular file"
    assert reason(lambda: read_image(tmp_path / "empty.jpg")) == "empty file"


@posix
@pytest.mark.timeout(20)
def test_a_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.jpg")
    found = list(find_images(tmp_path))
    assert [Path(file.path).name for file in found] == ["x.jpg"]
    assert reason(lambda: read_image(found[0].path)) == "not a regular file"


def test_a_file_of_absurd_size_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "big.jpg").open("wb") as file:
        file.truncate(images.MAX_FILE_BYTES + 1)
    assert reason(lambda: read_image(tmp_path / "big.jpg")) == "536,870,913 bytes, more than 536,870,912"


def test_a_file_deleted_after_listing(photos: Path) -> None:
    files = list(find_images(photos))
    os.unlink(files[0].path)
    assert reason(lambda: read_image(files[0].path)) == "no such file"
    assert read_image(files[1].path).shape == (3, 36, 45)


# Finding


def names(folder: Path, **arguments: Any) -> list[str]:
    return [os.path.relpath(file.path, folder) for file in find_images(folder, **arguments)]


def test_images_are_found_in_one_order(tmp_path: Path) -> None:
    made = ["b.png", "a.JPG", "Z.jpeg", "c/1.webp", "c/0.gif", "a/z/deep.tiff", "a/b.bmp", "é.png"]
    dice = random.Random(1)
    for name in dice.sample(made, len(made)):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    for name in ("notes.txt", "jpg", "x.jpg.part", "a/b.h5"):
        (tmp_path / name).touch()
    expected = ["Z.jpeg", "a.JPG", "b.png", "é.png", "a/b.bmp", "a/z/deep.tiff", "c/0.gif", "c/1.webp"]
    assert names(tmp_path) == [name.replace("/", os.sep) for name in expected]
    first = next(iter(find_images(tmp_path)))
    assert os.path.isabs(first.path)
    assert first.size == len("Z.jpeg")
    assert first.mtime_ns == os.stat(first.path).st_mtime_ns


def test_hidden_files_and_folders_are_passed_over(photos: Path) -> None:
    before = names(photos)
    for name in (".hidden.jpg", "cat/._0.jpg", ".git/x.jpg", ".jpg"):
        (photos / name).parent.mkdir(exist_ok=True)
        (photos / name).write_bytes(b"x")
    assert names(photos) == before
    assert len(before) == 12


def test_a_folder_named_like_an_image_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").mkdir()
    (tmp_path / "x.jpg" / "y.png").write_bytes(b"y")
    assert names(tmp_path) == [os.path.join("x.jpg", "y.png")]


@posix
def test_listing_looks_at_each_image_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(30):
        (tmp_path / f"{number:02}.jpg").touch()
        (tmp_path / f"{number:02}.txt").touch()
    (tmp_path / "in").mkdir()
    looked: list[str] = []
    look = os.stat
    monkeypatch.setattr(os, "stat", lambda path, **options: looked.append(str(path)) or look(path, **options))
    monkeypatch.setattr(os.path, "isdir", lambda path: stat.S_ISDIR(os.stat(path).st_mode))
    assert len(list(find_images(tmp_path))) == 30
    once = [str(tmp_path / f"{number:02}.jpg") for number in range(30)]
    assert [path for path in looked if path.endswith((".jpg", ".txt"))] == once


@posix
def test_broken_links_and_links_to_themselves_are_no_folders(tmp_path: Path) -> None:
    (tmp_path / "gone.jpg").symlink_to("nowhere")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "z").mkdir()
    (tmp_path / "z" / "a.jpg").touch()
    told: list[str] = []
    found = list(find_images(tmp_path, lambda path, why: told.append(path)))
    assert [os.path.relpath(file.path, tmp_path) for file in found] == ["gone.jpg", "loop.jpg", "z/a.jpg"]
    assert [(file.size, file.mtime_ns) for file in found[:2]] == [(0, 0)] * 2
    assert told == []


def test_of_a_large_folder_only_names_are_kept(tmp_path: Path) -> None:
    for number in range(2000):
        (tmp_path / f"{number:04}.jpg").touch()
    tracemalloc.start()
    try:
        files = find_images(tmp_path)
        next(files)
        assert tracemalloc.get_traced_memory()[1] < 2000 * 130  # a name takes 57 bytes, its place in the list 9
    finally:
        tracemalloc.stop()


def test_folders_that_are_none(tmp_path: Path) -> None:
    assert list(find_images(tmp_path)) == []
    with pytest.raises(ArgumentError, match="missing' does not exist: give a folder of images"):
        find_images(tmp_path / "missing")
    (tmp_path / "a.jpg").touch()
    with pytest.raises(ArgumentError, match=r"a\.jpg' is a file: give a folder of images"):
        find_images(tmp_path / "a.jpg")
    with pytest.raises(ArgumentError, match="does not exist"):
        find_images("x" * 5000)


def test_a_folder_given_relative_to_the_working_folder(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos)
    assert [file.path for file in find_images("cat")] == [
        str(photos / "cat" / name) for name in ("0.jpg", "1.png", "2.jpg", "3.png")
    ]


@posix
def test_linked_folders_are_followed_but_not_into_themselves(tmp_path: Path) -> None:
    (tmp_path / "real" / "in").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "real" / "in" / "a.jpg").write_bytes(b"a")
    (tmp_path / "real" / "in" / "up").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "self").symlink_to(".")
    (tmp_path / "other" / "there").symlink_to(tmp_path / "real" / "in")
    assert names(tmp_path) == ["other/there/a.jpg", "real/in/a.jpg"]


@posix
def test_links_that_lead_nowhere_are_told_when_read(tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").symlink_to(tmp_path / "gone.jpg")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "target").write_bytes(encoded(NOISE, "PNG"))
    (tmp_path / "good.png").symlink_to("target")
    files = list(find_images(tmp_path))
    assert [(Path(file.path).name, file.size > 0) for file in files] == [
        ("broken.jpg", False),
        ("good.png", True),
        ("loop.jpg", False),
    ]
    assert reason(lambda: read_image(files[0].path)) == "no such file"
    assert "symbolic links" in reason(lambda: read_image(files[2].path))
    assert read_image(files[1].path).shape == (3, 24, 32)


@posix
def test_names_that_are_not_text(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path)
    raw = [b"line\nbreak.png", b"\xff\xfe not utf-8.png", b" space .png", b"-rf.png"]
    for name in raw:
        with open(os.path.join(folder, name), "wb") as file:
            file.write(encoded(NOISE, "PNG"))
    files = list(find_images(tmp_path))
    assert sorted(os.fsencode(os.path.basename(file.path)) for file in files) == sorted(raw)
    for file in files:
        assert read_image(file.path).shape == (3, 24, 32)
        os.unlink(file.path)
        with pytest.raises(ImageError) as caught:
            read_image(file.path)
        str(caught.value).encode()  # the message can be printed
        assert "\n" not in str(caught.value)


def test_a_folder_that_cannot_be_listed_is_told(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locked = str(photos / "cat")
    if os.name == "posix" and os.geteuid() != 0:
        os.chmod(locked, 0)
    else:  # root reads anything
        scandir = os.scandir

        def refusing(path: str) -> Any:
            if path == locked:
                raise PermissionError(13, "Permission denied", path)
            return scandir(path)

        monkeypatch.setattr(images.os, "scandir", refusing)
    told: list[tuple[str, str]] = []
    try:
        found = names(photos, on_skip=lambda path, why: told.append((path, why)))
        assert len(names(photos)) == 8  # and nobody need listen
    finally:
        os.chmod(locked, 0o755)
    assert len(found) == 8
    assert told == [(locked, "folder cannot be listed: Permission denied")]


def test_a_folder_removed_during_the_walk_is_told(photos: Path) -> None:
    told: list[str] = []
    walk = find_images(photos, lambda path, why: told.append(f"{os.path.basename(path)}: {why}"))
    assert os.path.basename(os.path.dirname(next(walk).path)) == "bird"
    os.rename(photos / "dog", photos.parent / "elsewhere")
    assert len(list(walk)) == 3 + 4
    assert told == ["dog: folder cannot be listed: No such file or directory"]


# Preprocessing


def image_of(pixels: Pixels) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1)


@pytest.mark.parametrize("size", [8, 32, 61])
@pytest.mark.parametrize("shape", [(24, 32), (90, 41), (33, 200), (100, 100), (9, 9)])
@pytest.mark.parametrize("margin", [False, True])
@pytest.mark.parametrize("fit", ["crop", "stretch"])
def test_resizing_is_what_pillow_does(size: int, shape: tuple[int, int], margin: bool, fit: Any) -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (*shape, 3)).astype(np.uint8)
    found = Preprocessing(size, fit).resize(image_of(pixels), margin)
    side = round(size * 256 / 224) if margin else size
    picture = Image.fromarray(pixels)
    if fit == "crop":
        kept = min(shape) if margin else round(min(shape) * 224 / 256)
        top, left = (shape[0] - kept) // 2, (shape[1] - kept) // 2
        picture = picture.crop((left, top, left + kept, top + kept))
    expected = np.array(picture.resize((side, side), Image.Resampling.BILINEAR)).astype(int)
    assert found.dtype == torch.uint8
    assert found.shape == (3, side, side)
    assert abs(found.permute(1, 2, 0).numpy() - expected).max() <= 1


@pytest.mark.parametrize(("size", "margin"), [(8, 9), (32, 37), (224, 256), (4096, 4681)])
def test_margin_size(size: int, margin: int) -> None:
    assert Preprocessing(size).margin_size == margin


def test_an_image_of_the_right_size_is_left_as_it_is() -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    found = Preprocessing(32, "stretch").resize(image_of(pixels))
    assert found.is_contiguous()
    assert (found.permute(1, 2, 0).numpy() == pixels).all()


@pytest.mark.parametrize("fit", ["crop", "stretch"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (1, 1_000_000), (1_000_000, 1), (2, 500_000)])
def test_thin_images_ask_for_little_memory(shape: tuple[int, int], fit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    largest = 0
    interpolate = images.interpolate

    def seen(image: torch.Tensor, **arguments: Any) -> torch.Tensor:
        nonlocal largest
        result = interpolate(image, **arguments)
        largest = max(largest, result.numel())
        if fit == "crop":
            assert image.shape[-1] == image.shape[-2] <= min(shape)
        return result

    monkeypatch.setattr(images, "interpolate", seen)
    grey = torch.full((3, *shape), 77, dtype=torch.uint8)
    for margin in (False, True):
        side = 37 if margin else 32
        found = Preprocessing(32, fit).resize(grey, margin)
        assert found.shape == (3, side, side)
        assert (found == 77).all()
    assert largest == 3 * 37 * 37


def test_normalise() -> None:
    pixels = np.random.default_rng(4).integers(0, 256, (2, 3, 8, 8)).astype(np.uint8)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    found = Preprocessing(8, "crop", mean, std).normalise(torch.from_numpy(pixels))
    assert found.dtype == torch.float32
    expected = (pixels / 255 - np.reshape(mean, (1, 3, 1, 1))) / np.reshape(std, (1, 3, 1, 1))
    assert np.allclose(found.numpy(), expected, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(8, 4096), st.sampled_from(["crop", "stretch"]), st.tuples(*[st.floats(0.01, 1)] * 3))
def test_preprocessing_travels_as_plain_values(size: int, fit: Any, values: tuple[float, float, float]) -> None:
    preprocessing = Preprocessing(size, fit, values, values[::-1])
    plain = preprocessing.to_dict()
    assert {type(value) for value in plain.values()} <= {int, str, list}
    assert Preprocessing.from_dict(plain) == preprocessing


@pytest.mark.parametrize("size", [7, 4097, 0, -1, 32.0, "32", None, True])
def test_preprocessing_refuses_a_size(size: Any) -> None:
    with pytest.raises(ArgumentError, match="whole number of pixels from 8 to 4096"):
        Preprocessing(size)


def test_preprocessing_refuses_a_fit() -> None:
    with pytest.raises(ArgumentError, match="fit is 'squash': give 'crop' or 'stretch'"):
        Preprocessing(32, "squash")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        {"size": 0},
        {"size": None},
        {"fit": "other"},
        {"fit": []},
        {"mean": [0.5, 0.5]},
        {"mean": None},
        {"mean": ["a", "b", "c"]},
        {"std": [1, 1, 1, 1]},
        {"std": [0.0, 1, 1]},
        {"std": 3},
        {"mean": [float("nan"), 0, 0]},
        {"std": [float("inf"), 1, 1]},
        {"std": [10**400, 1, 1]},
    ],
)
def test_preprocessing_of_a_file_that_cannot_be_used(change: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="the model file's preprocessing cannot be used"):
        Preprocessing.from_dict(Preprocessing().to_dict() | change)


@pytest.mark.parametrize("values", [None, 5, "text", [], {}, {"size": 32}, torch.zeros(3)])
def test_preprocessing_that_is_none(values: Any) -> None:
    with pytest.raises(ModelError, match="preprocessing cannot be used"):
        Preprocessing.from_dict(values)


def test_decoding_in_threads_gives_the_same_pixels() -> None:
    sources = [encoded(np.roll(SMOOTH, shift, 0), kind) for shift in range(4) for kind in ("JPEG", "PNG", "GIF")]
    expected = [decode_image(source) for source in sources]
    wrong: list[int] = []

    def work() -> None:
        for number, source in enumerate(sources * 3):
            if not torch.equal(decode_image(source), expected[number % len(sources)]):
                wrong.append(number)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
