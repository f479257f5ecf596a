"""Copies, workers, forks and progress of encoders and indexes."""

from __future__ import annotations

import copy
import os
import pickle
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
import torch
from builds import content
from PIL import Image

from hashfaiss import CodeIndex
from hashfaiss.errors import HashfaissError, ModelError
from hashfaiss.images import probes
from hashfaiss.library import made_with, progress
from hashfaiss.library.image_index import ImageIndex


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing))])
def test_copies_answer_as_the_original(index, encoder, photos, copied):
    again = copied(encoder)
    assert again.identity == encoder.identity
    files = sorted(photos.rglob("*.jpg"))
    np.testing.assert_array_equal(again.encode(files), encoder.encode(files))
    memory = encoder.to_index(photos)
    expected = [(hit.path, hit.distance) for hit in index.query(files[0], 12)]
    for each in (index, memory):
        assert [(hit.path, hit.distance) for hit in copied(each).query(files[0], 12)] == expected
    assert content(copied(index)) == content(index)
    codes, ids = index.store.codes()
    for kind in ("flat", "hash:b=4,flips=1", "ivf:lists=3,probes=2"):
        one = CodeIndex(codes, ids, index.bits, kind)
        two = copied(one)
        assert str(two.kind) == str(one.kind)
        for found, wanted in zip(two.search(codes, 5), one.search(codes, 5), strict=True):
            assert [part.tolist() for part in found] == [part.tolist() for part in wanted]


def test_a_copy_of_an_index_that_is_gone_says_so(index):
    data = pickle.dumps(index)
    os.rename(index.path, index.path.parent / "elsewhere")
    with pytest.raises(HashfaissError, match="there is no index at"):
        pickle.loads(data)


def test_a_damaged_copy_of_an_encoder_is_refused(encoder):
    restore, (data, *how), *_ = encoder.__reduce__()
    with pytest.raises(ModelError, match="a copy in memory"):
        restore(data[:-2000], *how)


def asked(index, path):
    torch.set_num_threads(1)
    return [hit.path for hit in index.query(path, 3)]


@pytest.mark.slow
def test_a_worker_process_is_given_an_index(index, photos):
    path = photos / "cat/0.jpg"
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        assert pool.submit(asked, index, path).result() == [hit.path for hit in index.query(path, 3)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_fork_after_use_answers(encoder, photos):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for number in range(40):
            Image.new("RGB", (40, 40), (number * 6, 0, 90)).save(photos / f"{number}.png")
        index = encoder.to_index(photos)
        path = str(photos / "cat/0.jpg")
        expected = [hit.id for hit in index.query(path, 3)]
        child = os.fork()
        if not child:
            os._exit(0 if [hit.id for hit in index.query(path, 3)] == expected else 3)
        assert os.waitpid(child, 0)[1] == 0
    finally:
        torch.set_num_threads(before)


def test_progress_is_shown_if_asked_for(encoder, photos, capsys, monkeypatch):
    encoder.to_index(photos, progress=False)
    encoder.to_index(photos, progress=True)
    assert capsys.readouterr().err == ""  # too short for a line
    monkeypatch.setattr(progress, "EVERY", 0.0)
    index = encoder.to_index(photos, progress=True)
    assert "encode: 12 of 12 (100 %), " in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    index.build(photos, progress=True, check_content=True)
    index.add([photos / "cat/0.jpg"], [["x"]], progress=True)
    lines = capsys.readouterr().err
    assert lines.startswith("\rencode: ")
    assert lines.endswith("\n")
    seen = []
    encoder.to_index(photos, progress=lambda done, todo: seen.append((done, todo)))
    assert seen[-1] == (12, 12)


def test_the_libraries_that_made_the_codes_are_told(index, photos, monkeypatch):
    assert f"torch {torch.__version__.split('+')[0]}" in index.info()["made_with"]
    monkeypatch.setattr(made_with, "versions", lambda: {"torch": "99.1"})
    index.build(photos)
    assert "99.1" not in ImageIndex.open(index.path).info()["made_with"]  # nothing was encoded
    Image.new("RGB", (40, 40)).save(photos / "new.png")
    index.build(photos)
    told = ImageIndex.open(index.path).info()["made_with"]
    assert "then 99.1" in told
    index.store.manifest.pop("made_with")
    assert index.info()["made_with"] == "not stored"


def test_a_decoder_that_gives_other_pixels_is_told(index, photos, monkeypatch):
    assert len(index.store.manifest["decoders"]) == 10
    assert all(index.store.manifest["decoders"].values())
    assert index.build(photos, check_content=True).decoders is None
    decode = probes.decode_image
    monkeypatch.setattr(probes, "decode_image", lambda data: decode(data) ^ (data[:2] == b"\xff\xd8"))
    Image.new("RGB", (40, 40)).save(photos / "new.png")
    told = index.build(photos).decoders
    assert told.startswith("JPEG, progressive JPEG, grey JPEG, CMYK JPEG files give other pixels here")
    assert dict(index.verify())["decoders"] == told
    monkeypatch.undo()
    assert dict(ImageIndex.open(index.path).verify())["decoders"] is None  # the first to make codes count
