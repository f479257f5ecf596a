"""Whatever is changed in an index folder behind its back is found by `verify`, and never answers wrongly.

`--mutations 2000` tries as many as the figure in docs/reliability.md; more need `--timeout 0`.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter

import numpy as np
import pytest
from builds import flip, later

from hashfaiss.errors import HashfaissError
from hashfaiss.library.image_index import ImageIndex
from hashfaiss.library.verifying import verify_folder

HOW = ["flip", "flips", "cut", "zeros", "longer", "moved", "swap"]


@pytest.fixture
def folders(encoder, photos):
    """An index of three segments, itself one generation before, and an index of other images by the same encoder."""
    index = ImageIndex.create(encoder, photos.parent / "x.index", "ivf:lists=4,probes=2")
    index.build(photos)
    flip(photos / "cat/0.jpg", photos / "cat/0.jpg")
    later(photos / "cat/0.jpg")
    index.build(photos)
    shutil.copytree(index.path, photos.parent / "older")
    flip(photos / "dog/0.jpg", photos / "dog/new.jpg")
    index.build(photos)
    assert len(index.store.manifest["segments"]) == 3
    shutil.copytree(photos, photos.parent / "others")
    for name in ("bird/0.jpg", "dog/1.png"):
        flip(photos.parent / "others" / name, photos.parent / "others" / name)
    other = ImageIndex.create(encoder, photos.parent / "other", "ivf:lists=4,probes=2")
    other.build(photos.parent / "others")
    return index.path, photos.parent / "older", other.path


def promised(folder):
    """The files of what is committed. Others, as of a generation before that a reader may have open, do not count."""
    manifest = json.loads((folder / "manifest.json").read_bytes())
    named = [entry["file"] for entry in manifest["segments"]]
    return [
        folder / name
        for name in ("manifest.json", "manifest.copy.json", "encoder.pt", manifest["index"]["file"], *named)
    ]


def changed(file, strangers, random):
    """How a file is changed, and its bytes then."""
    data = bytearray(file.read_bytes())
    at, how = int(random.integers(len(data))), random.choice(HOW)
    if how == "flip":
        data[at] ^= 1 << int(random.integers(8))
    elif how == "flips":
        for place in random.integers(0, len(data), 20):
            data[place] ^= int(random.integers(1, 256))
    elif how == "cut":
        del data[at:]
    elif how == "zeros":
        data[at : at + 512] = bytes(len(data[at : at + 512]))
    elif how == "longer":
        data += bytes(int(random.integers(1, 600)))
    elif how == "moved":
        data[at : at + 64] = data[at : at + 64][::-1]
    else:
        alike = [other for other in strangers if other.suffix == file.suffix and other.name != "encoder.pt"]
        data = bytearray(random.choice(alike).read_bytes()) if alike else data[::-1]
    return str(how), bytes(data)


def answers(folder, photos):
    """What is answered to a stored image, and to one that the folder's own encoder must see; or the error's name."""
    told = []
    for query in (7, str(photos / "cat/2.jpg")):
        try:
            hits = ImageIndex.open(folder, device="cpu").query(query, 20)
            told.append([(hit.id, hit.path, hit.distance, hit.labels) for hit in hits])
        except HashfaissError as error:
            told.append(type(error).__name__)
    return told


def test_nothing_that_is_changed_goes_unnoticed_or_is_answered(folders, photos, request):
    folder, *strangers = folders
    files, others = promised(folder), [file for stranger in strangers for file in promised(stranger)]
    right, random, told = answers(folder, photos), np.random.default_rng(0), Counter()
    assert not any(trouble for _, trouble in verify_folder(folder, "cpu"))
    for number in range(request.config.getoption("--mutations")):
        file = files[number % len(files)]
        sound = file.read_bytes()
        how, data = changed(file, others, random)
        if data == sound:
            continue
        file.unlink()
        file.write_bytes(data)
        try:
            troubles = [name for name, trouble in verify_folder(folder, "cpu") if trouble]
        except HashfaissError:
            troubles = ["refused"]
        found = answers(folder, photos)
        file.unlink()
        file.write_bytes(sound)
        # an encoder is known by all that decides a code, not by its bytes
        assert troubles or (file.name == "encoder.pt" and found == right), (file, how, number)
        for expected, given in zip(right, found, strict=True):
            assert given == expected or isinstance(given, str), (file, how, number)
            told[given if isinstance(given, str) else "answered"] += 1
        told[how] += 1
    print(f"{sum(told[how] for how in HOW):,} changes: {dict(told)}")
    assert told["answered"] > 0
    assert told["CorruptIndexError"] > 0
    assert answers(folder, photos) == right
