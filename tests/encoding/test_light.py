"""Codes without importing torch are the encoder's, and come from nobody but this user."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from encoders import altered
from PIL import Image

from hashfaiss.encoding import engine_cache
from hashfaiss.encoding.encoder import Encoder
from hashfaiss.encoding.learned import LearnedCodes
from hashfaiss.encoding.light import LightEncoder
from hashfaiss.files import content_digest
from hashfaiss.library.image_index import ImageIndex
from hashfaiss.library.stored_encoder import light_encoder
from hashfaiss.library.sync import LIGHT_FROM

pytestmark = pytest.mark.skipif(find_spec("openvino") is None, reason="OpenVINO is not installed")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "hashfaiss"


@pytest.fixture
def many(tmp_path: Path) -> Path:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(LIGHT_FROM):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 50, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.{('jpg', 'png')[number % 2]}")
    return folder


@pytest.fixture
def index(encoder: Encoder, many: Path, tmp_path: Path) -> Path:
    altered(encoder, engine="openvino").to_index(many, tmp_path / "x.index")
    return tmp_path / "x.index"


def test_a_query_imports_no_torch(index: Path, many: Path) -> None:
    code = (
        "import sys; from hashfaiss import ImageIndex\n"
        f"hits = ImageIndex.open({str(index)!r}).query([{str(many / '3.png')!r}, {str(many / '4.jpg')!r}], k=3)\n"
        "print([[(hit.path, hit.distance) for hit in found] for found in hits], 'torch' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    opened = ImageIndex.open(index)
    assert opened.encoder is not None  # which then answers
    hits = opened.query([str(many / "3.png"), str(many / "4.jpg")], k=3)
    assert told.strip() == f"{[[(hit.path, hit.distance) for hit in found] for found in hits]} False"
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "hashfaiss", "query", str(many / "5.png"), "--index", str(index)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "5.png" in done.stdout
    assert "openvino" in done.stderr
    assert "| torch\n" not in done.stderr


def test_codes_are_those_of_the_encoder(index: Path, many: Path) -> None:
    light = light_encoder(ImageIndex.open(index).store)
    assert light is not None
    files = sorted(map(str, many.iterdir()))
    codes = [light.code(file) for file in files]
    assert sum(code is not None for code in codes) > len(codes) // 2
    expected = ImageIndex.open(index).encoder.encode(files)
    for code, right in zip(codes, expected, strict=True):
        assert code is None or code.tolist() == [right.tolist()]


def test_what_is_not_clear_is_left_to_the_encoder(index: Path, many: Path, tmp_path: Path) -> None:
    opened = ImageIndex.open(index)
    cache = engine_cache.EngineCache(
        lambda: {"identity": opened.store.manifest["encoder"]["identity"]}, index / "engine"
    )
    found = cache.read_all()
    assert found is not None
    about, learned, data = found
    unsure = engine_cache.Learned(learned.fast_seconds, learned.full_seconds, 1, 1e6, True)
    cache.write(unsure, data)
    assert about["preprocessing"] == opened.encoder.preprocessing.to_dict()
    wary = LightEncoder.find(engine_cache.EngineCache(lambda: {"identity": about["identity"]}, index / "engine"))
    assert wary is None  # written without what it needs to know
    cache.about = lambda: {name: about[name] for name in ("identity", "preprocessing", "bits")}
    cache.write(unsure, data)
    wary = LightEncoder.find(cache)
    assert wary is not None
    assert wary.code(str(many / "0.jpg")) is None
    again = ImageIndex.open(index)
    assert again.query(many / "0.jpg", k=1)[0].distance == 0
    assert again._encoder is not None
    text = tmp_path / "text.jpg"
    text.write_bytes(b"no image")
    assert wary.code(str(text)) is None
    assert wary.code(str(tmp_path / "missing.jpg")) is None


def test_many_images_are_the_encoders(index: Path, many: Path) -> None:
    opened = ImageIndex.open(index)
    files = sorted(many.iterdir())
    assert opened._encoder is None
    assert [hits[0].distance for hits in opened.query(files, k=1)] == [0] * len(files)
    assert opened._encoder is not None
    assert opened._light_encoder() is None


def test_nothing_that_another_user_compiled_is_run(
    index: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ImageIndex.open(index).store
    assert light_encoder(store) is not None
    (file,) = (index / "engine").glob("*.openvino")
    monkeypatch.setattr("openvino.Core.import_model", lambda *_: pytest.fail("run"))
    line, _, data = (whole := file.read_bytes()).partition(b"\n")
    about = json.loads(line)
    for other in (
        line + b"\n" + data[:-1] + bytes([data[-1] ^ 1]),
        json.dumps({**about, "learned": {**about["learned"], "squares": 0}}).encode() + b"\n" + data,
        json.dumps({**about, "mac": engine_cache._mac(b"guess", about, data)}).encode() + b"\n" + data,
        json.dumps({name: value for name, value in about.items() if name != "mac"}).encode() + b"\n" + data,
        b"[" * 100_000,
        b"{" + b" " * 100_000,
        b"",
    ):
        file.write_bytes(other)
        assert light_encoder(store) is None
    file.write_bytes(whole)
    key = own_cache / "key"
    kept = key.read_bytes()
    key.unlink()
    assert light_encoder(store) is None  # another key was made
    assert key.read_bytes() != kept
    if os.name == "posix":
        assert key.stat().st_mode & 0o777 == 0o600
        key.write_bytes(kept)
        key.chmod(0o644)  # others may have read it
        assert light_encoder(store) is None
        key.unlink()
        key.symlink_to(file)
        assert light_encoder(store) is None
    monkeypatch.undo()


def test_small_indexes_and_other_devices_do_without(encoder: Encoder, index: Path, many: Path, tmp_path: Path) -> None:
    altered(encoder, engine="openvino").to_index(sorted(many.iterdir())[:3], tmp_path / "small.index")
    assert not (tmp_path / "small.index" / "engine").exists()
    assert ImageIndex.open(index, device="cpu")._light_encoder() is None
    altered(encoder, engine="torch").to_index(many, tmp_path / "torch.index")
    assert light_encoder(ImageIndex.open(tmp_path / "torch.index").store) is None


def test_images_whose_codes_are_remembered_are_learned_of_too(encoder: Encoder, many: Path, tmp_path: Path) -> None:
    made = altered(encoder, engine="openvino")
    files = sorted(map(str, many.iterdir()))
    made.remembered = LearnedCodes([content_digest(Path(file).read_bytes()) for file in files], made.encode(files))
    made.to_index(many, tmp_path / "y.index")
    assert light_encoder(ImageIndex.open(tmp_path / "y.index").store) is not None


def test_without_openvino_there_is_none(index: Path, many: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    opened = ImageIndex.open(index)
    assert opened._light_encoder() is None
    assert opened.query(many / "0.jpg", k=1)[0].distance == 0


def test_a_build_that_adds_keeps_what_was_compiled(index: Path, many: Path) -> None:
    (file,) = (index / "engine").glob("*.openvino")
    before = file.stat().st_mtime_ns, file.stat().st_ino
    buffer = io.BytesIO()
    Image.new("RGB", (30, 30), "red").save(buffer, "PNG")
    (many / "red.png").write_bytes(buffer.getvalue())
    opened = ImageIndex.open(index)
    assert opened.build(many).encoded == 1
    assert (file.stat().st_mtime_ns, file.stat().st_ino) == before
