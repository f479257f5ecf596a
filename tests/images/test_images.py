"""Images: every odd file is decoded as it should be, or refused with a short reason."""

from __future__ import annotations

import io
import os
import random
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pictures import NOISE, ORIENTATION, SMOOTH, WORDS, decoded, encoded, over_white, png, png_rows, posix, reason
from PIL import Image, ImageOps

from hashfaiss.errors import ArgumentError, ImageError
from hashfaiss.images import decoding, finding
from hashfaiss.images.decoding import decode_image, from_pillow, from_tensor, read_bytes, read_image
from hashfaiss.images.finding import find_images, image_file
from hashfaiss.images.preprocessing import Preprocessing

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
    assert reason(lambda: decode_image(data)).startswith("claims more than 178,956,970 pixels (--max-megapixels")


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
    script = "import sys; from hashfaiss.images.decoding import read_image; print(tuple(read_image(sys.argv[1]).shape))"
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "a.jpg")], capture_output=True, text=True)
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
    assert image_file(path) == finding.ImageFile(path, 0, 0)
    assert image_file("a\0b") == finding.ImageFile("a\0b", 0, 0)


def test_reading_a_folder_or_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "empty.jpg").touch()
    assert reason(lambda: read_image(tmp_path / "folder.jpg")) == "not a regular file"
    assert reason(lambda: read_image(tmp_path / "empty.jpg")) == "empty file"


@posix
def test_a_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.jpg")
    found = list(find_images(tmp_path))
    assert [Path(file.path).name for file in found] == ["x.jpg"]
    assert reason(lambda: read_image(found[0].path)) == "not a regular file"


def test_a_file_of_absurd_size_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "big.jpg").open("wb") as file:
        file.truncate(decoding.MAX_FILE_BYTES + 1)
    assert reason(lambda: read_image(tmp_path / "big.jpg")) == "536,870,913 bytes, more than 536,870,912"


def test_a_file_deleted_after_listing(photos: Path) -> None:
    files = list(find_images(photos))
    os.unlink(files[0].path)
    assert reason(lambda: read_image(files[0].path)) == "no such file"
    assert read_image(files[1].path).shape == (3, 36, 45)


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
