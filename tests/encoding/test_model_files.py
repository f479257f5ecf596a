"""Model files that are none, damaged or hostile: refused in one sentence, and never run."""

from __future__ import annotations

import contextlib
import copy
import io
import math
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoders import ARGUMENTS
from PIL import Image

from hashfaiss.encoding.encoder import Encoder
from hashfaiss.errors import ModelError
from hashfaiss.networks.weights import read_state


@pytest.fixture
def values(model: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = torch.load(model, weights_only=True)
    return loaded


def refusal(path: Path, *expected: str) -> str:
    with pytest.raises(ModelError) as caught:
        Encoder.load(path, device="cpu")
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    assert caught.value.__cause__ is None
    for part in expected:
        assert part in message
    return message


def saved(folder: Path, content: Any) -> Path:
    path = folder / "hostile.pt"
    torch.save(content, path)
    return path


def test_no_file_and_no_content(tmp_path: Path) -> None:
    refusal(tmp_path / "gone.pt", "cannot read the model", "gone.pt", "No such file or directory")
    refusal(tmp_path, "cannot read the model", "it is no regular file")
    (tmp_path / "m.pt").touch()
    refusal(tmp_path / "m.pt", "m.pt' is not a hashfaiss model, but empty: give a file that `hashfaiss train` wrote")


def test_other_kinds_of_files(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    picture = io.BytesIO()
    Image.new("RGB", (9, 9)).save(picture, "PNG")
    for data, kind in (
        (picture.getvalue(), "a PNG image"),
        (b"\xff\xd8\xff\xe0" + bytes(99), "a JPEG image"),
        (b"\x89HDF\r\n\x1a\n" + bytes(99), "an HDF5 file"),
        (b"just text\n" * 20, "a file of unknown kind"),
        (b"\0" * 5000, "a file of unknown kind"),
        (np.random.default_rng(0).bytes(5000), "a file of unknown kind"),
    ):
        path.write_bytes(data)
        refusal(path, "is not a hashfaiss model", kind)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "no model")
    refusal(path, "is not a hashfaiss model", "archive")


def test_truncated_models(model: Path) -> None:
    data = model.read_bytes()
    for cut in (1, 3, 10, 100, len(data) // 2, len(data) - 200, len(data) - 1):
        model.write_bytes(data[:cut])
        message = refusal(model, "is not a hashfaiss model")
        if cut >= 10:
            assert "a truncated or damaged archive" in message


def test_flipped_bytes_never_end_in_another_error(model: Path) -> None:
    data = model.read_bytes()
    dice = np.random.default_rng(0)
    refused = 0
    for number in range(40):
        broken = bytearray(data)
        end = len(data) if number % 2 else 3000
        for place in dice.integers(0, end, 3):
            broken[place] ^= int(dice.integers(1, 256))
        model.write_bytes(broken)
        try:
            Encoder.load(model, device="cpu")
        except ModelError:
            refused += 1
    assert refused > 5


class Hostile:
    """Leaves a file where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("how", ["pickle", "old pickle", "torch", "old torch", "inside"])
def test_code_in_a_model_file_is_not_run(tmp_path: Path, values: dict[str, Any], how: str) -> None:
    path, mark = tmp_path / "hostile.pt", tmp_path / "it ran"
    content: Any = {"format": "hashfaiss-model", "version": 1, "x": Hostile(mark)}
    if how == "inside":
        values["facts"]["note"] = Hostile(mark)
        content = values
    if "torch" in how or how == "inside":
        torch.save(content, path, _use_new_zipfile_serialization=how != "old torch")
    else:
        path.write_bytes(pickle.dumps(content, protocol=0 if "old" in how else 4))
    message = refusal(path, "is not a hashfaiss model")
    assert not mark.exists()
    if how != "old pickle":
        assert "(it was not run)" in message
    if "pickle" in how:
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert mark.exists()  # the file is as hostile as it claims


def test_torch_files_of_something_else(tmp_path: Path, encoder: Encoder) -> None:
    for content, kind in (
        ([1, 2], "a torch file that holds a list"),
        (torch.zeros(3), "a torch file that holds a Tensor"),
        ({"epoch": 3}, "a torch file that holds a dict"),
        ({}, "a torch file that holds a dict"),
        ({"format": "other"}, "a torch file that holds a dict"),
        (encoder.network.state_dict(), f"a bare state dict of {len(encoder.network.state_dict())} tensors"),
        ({"format": torch.zeros(3)}, "a bare state dict of 1 tensors"),
    ):
        refusal(saved(tmp_path, content), "is not a hashfaiss model", kind)


@pytest.mark.parametrize("version", [0, 2, "1", None, torch.zeros(3), torch.ones(1)])
def test_other_versions(tmp_path: Path, values: dict[str, Any], version: Any) -> None:
    path = saved(tmp_path, {**values, "version": version})
    refusal(path, "has format version", "this hashfaiss reads 1: install the hashfaiss that wrote it")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"name": "transformer"}, "unknown network 'transformer': this version has hash"),
        ({"arguments": {**ARGUMENTS, "bits": 0}}, "bits is 0: give a whole number from 1 to 1024"),
        ({"arguments": {**ARGUMENTS, "bits": 4096}}, "bits is 4096"),
        ({"arguments": {**ARGUMENTS, "bits": 24}}, "size mismatch"),
        ({"arguments": {**ARGUMENTS, "backbone": "resnet18"}}, "damaged or incomplete"),
        ({"arguments": {**ARGUMENTS, "backbone": "vgg"}}, "vgg"),
        ({"arguments": {**ARGUMENTS, "colour": "red"}}, "colour"),
        ({"arguments": {"backbone": "resnet-small"}}, "bits"),
        ({"arguments": {**ARGUMENTS, "attention": "ida"}}, "damaged or incomplete"),
    ],
)
def test_networks_that_cannot_be(tmp_path: Path, values: dict[str, Any], change: dict[str, Any], expected: str) -> None:
    values["network"].update(change)
    refusal(saved(tmp_path, values), expected)


JUNK: list[Any] = [None, 5, -1, "x", [1, 2, 3], {"name": []}, torch.zeros(3), math.nan, 10**400, b"x"]


@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence")
@pytest.mark.parametrize(
    "place",
    [
        ("network",),
        ("network", "name"),
        ("network", "arguments"),
        ("network", "arguments", "backbone"),
        ("network", "arguments", "bits"),
        ("preprocessing",),
        ("preprocessing", "size"),
        ("preprocessing", "fit"),
        ("preprocessing", "std"),
        ("state_dict",),
        ("state_dict", "hash_layer.weight"),
        ("state_dict", "extra"),
    ],
)
def test_junk_anywhere_is_refused(tmp_path: Path, values: dict[str, Any], place: tuple[str, ...]) -> None:
    for junk in JUNK:
        changed = copy.deepcopy(values)
        holder = changed
        for key in place[:-1]:
            holder = holder[key]
        if place[-1] == "std" and junk == [1, 2, 3]:
            continue  # a good one
        holder[place[-1]] = junk
        with pytest.raises(ModelError) as caught:
            Encoder.load(saved(tmp_path, changed), device="cpu")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["network", "preprocessing", "state_dict", "method", "labels", "facts"])
def test_missing_parts_are_refused(tmp_path: Path, values: dict[str, Any], key: str) -> None:
    del values[key]
    refusal(saved(tmp_path, values), "is damaged or incomplete", key, "train or copy it again")


def test_no_weight_can_change_unnoticed(encoder, tmp_path):
    encoder.save(tmp_path / "model.pt")
    sound = (tmp_path / "model.pt").read_bytes()
    loaded = 0
    for at in np.random.default_rng(0).integers(0, len(sound), 40):
        changed = bytearray(sound)
        changed[at] ^= 255
        (tmp_path / "model.pt").write_bytes(changed)
        with contextlib.suppress(ModelError):
            loaded += Encoder.load(tmp_path / "model.pt").identity != encoder.identity
    assert loaded == 0


def again(path: Path, compression: int) -> None:
    """The same archive, its records compressed."""
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in records.items():
            archive.writestr(name, data)


def test_an_archive_that_holds_more_than_its_bytes_is_not_unpacked(
    tmp_path: Path, values: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path, {**values, "state_dict": {"x": torch.zeros(1 << 24)}})
    again(path, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1 << 20
    small = saved(tmp_path, values).read_bytes()
    again(path, zipfile.ZIP_STORED)
    Encoder.load(path, device="cpu")  # stored anew, it is as good
    path = saved(tmp_path, {**values, "state_dict": {"x": torch.zeros(1 << 24)}})
    again(path, zipfile.ZIP_DEFLATED)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was unpacked"))
    refusal(path, "an archive that torch.save does not make (its records are compressed)")
    with pytest.raises(ModelError, match="is not a file of weights"):
        read_state(str(path), "advice")
    directory = small.rindex(b"PK\x01\x02")
    path.write_bytes(small[: directory + 24] + (1 << 31).to_bytes(4, "little") + small[directory + 28 :])
    refusal(path, "its records are larger than it is")


def test_a_tensor_that_repeats_what_is_stored_is_refused(tmp_path: Path, values: dict[str, Any]) -> None:
    values["state_dict"]["hash_layer.weight"] = torch.zeros(1).expand(1 << 20, 1 << 20)
    refusal(saved(tmp_path, values), "a tensor repeats what is stored of it")


def test_a_network_larger_than_what_is_stored_is_not_made(tmp_path: Path, values: dict[str, Any]) -> None:
    values["network"] = {
        "name": "features",
        "arguments": {"backbone": "resnet-small", "bits": 20, "kind": "kernel", "anchors": 1 << 40},
    }
    values["state_dict"]["anchors"] = torch.zeros(3, 3)
    refusal(saved(tmp_path, values), "3 anchors for a network of other many")


def test_a_header_longer_than_any_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    for header in (1 << 62, (1 << 24) + 1):
        path.write_bytes(header.to_bytes(8, "little") + b"{}")
        with pytest.raises(ModelError, match="is not a file of weights"):
            read_state(str(path), "advice")


@pytest.mark.skipif(os.name != "posix", reason="makes a pipe")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    for name in ("x.pt", "x.safetensors"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(ModelError):
            read_state(str(tmp_path / name), "advice")
    refusal(tmp_path / "x.pt", "cannot read the model")
