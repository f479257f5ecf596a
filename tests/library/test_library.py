"""ImageIndex: one answer whatever it is read from, and errors for what is not the index's."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor

import faiss
import numpy as np
import pytest
import torch
from PIL import Image

from hashfaiss.codes import hamming
from hashfaiss.encoding.encoder import Encoder
from hashfaiss.errors import ArgumentError, CorruptIndexError, EncoderMismatchError, ImageError, IndexFolderError
from hashfaiss.images.finding import find_images
from hashfaiss.indexes import CodeIndex
from hashfaiss.library.image_index import ImageIndex
from hashfaiss.networks import build_network
from hashfaiss.storage.manifest import read_manifest, write_manifest


@pytest.fixture
def index(encoder, photos):
    for number in range(5):  # images that are there more than once
        shutil.copy(photos / "cat/1.png", photos / f"dog/copy{number}.png")
    return encoder.to_index(photos, photos.parent / "x.index", kind="hash:b=8,flips=8")


@pytest.fixture
def other():
    """An encoder of the same shape and other weights."""
    arguments = {"backbone": "resnet-small", "bits": 20}
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return arguments, build_network("hash", arguments).eval()


def paths(photos):
    return [file.path for file in find_images(photos)]


def flipped(file, place):
    data = bytearray(file.read_bytes())
    data[place] ^= 0x11
    file.write_bytes(data)


def test_queries_answer_as_comparing_every_code_does(index, encoder, photos):
    names = paths(photos)
    codes = encoder.encode(names)
    stored, ids = index.store.codes()
    row = dict(index.store.rows())
    near = hamming(codes, stored).astype(int)
    for kind in ("flat", "hash:b=20,flips=8", "hash:b=6,flips=6"):
        index.build(photos, kind=kind)
        for name, hits, within, distances in zip(
            names, index.query(names, k=7), index.within(names, 5), near, strict=True
        ):
            order = np.lexsort((ids, distances))
            assert hits.query == within.query == name
            if kind != "hash:b=20,flips=8":
                assert hits.exact
            if hits.exact:
                assert [(hit.id, hit.distance) for hit in hits] == [(ids[i], distances[i]) for i in order[:7]]
            assert within.exact
            assert [hit.id for hit in within] == [ids[i] for i in order if distances[i] <= 5]
            assert (hits[0].distance, within[0].distance) == (0, 0)
            for hit in hits:
                assert hit.path == index.store.full_path(row[hit.id])
                assert hit.labels == (hit.path.split("/")[-2],)


def test_copies_of_one_image_are_all_found(index, photos):
    copies = {str(photos / "cat/1.png")} | {str(photos / f"dog/copy{number}.png") for number in range(5)}
    within = index.within(photos / "cat/1.png", 0)
    nearest = index.query(photos / "cat/1.png", k=len(within))
    assert nearest == within
    assert copies <= {hit.path for hit in within}
    assert [hit.id for hit in nearest] == sorted(hit.id for hit in nearest)
    assert index.query(photos / "cat/1.png", k=3)[:] == nearest[:3]
    assert index.faiss.ntotal == index.info()["distinct_codes"] <= len(index) - 5
    assert isinstance(index.faiss, faiss.IndexBinary)


def test_one_or_many_paths_or_pillow_images(index, photos):
    one = index.query(str(photos / "cat/1.png"), 4)
    assert index.query(photos / "cat/1.png", 4) == one
    assert index.query([photos / "cat/1.png"], 4) == [one]
    assert index.query((photos / "cat/1.png", photos / "dog/0.jpg"), 4) == [one, index.query(photos / "dog/0.jpg", 4)]
    assert index.query([], 4) == []
    with Image.open(photos / "cat/1.png") as picture:
        for hits in (index.query(picture, 4), index.query([picture], 4)[0]):
            assert (hits.query, hits.found) == (None, one.found)
        assert index.within(picture, 3).found == index.within(photos / "cat/1.png", 3).found
    names = paths(photos) * 5  # more than a batch
    assert [hits.query for hits in index.query(names, 1)] == names
    assert index.query(names, 3) == [index.query(name, 3) for name in paths(photos)] * 5


def test_bad_queries_are_told(index, photos):
    (photos / "bad.jpg").write_bytes(b"no image")
    for ask in (lambda image: index.query(image), lambda image: index.within(image, 3)):
        for image in (
            photos / "bad.jpg",
            [photos / "cat/1.png", photos / "bad.jpg"],
            photos / "nowhere.jpg",
            photos,
            "",
        ):
            with pytest.raises(ImageError):
                ask(image)
        for image in (5.0, [5.0], True, torch.zeros(2, 3, 8, 8), None):
            with pytest.raises(ArgumentError, match="was given as an image"):
                ask(image)
    for k in (0, -1, 2.0, None, "3"):
        with pytest.raises(ArgumentError, match="k is"):
            index.query(photos / "nowhere.jpg", k)  # told before the image is read
    for radius in (-1, 1.5, None):
        with pytest.raises(ArgumentError, match="radius is"):
            index.within(photos / "nowhere.jpg", radius)


def test_a_stream_keeps_the_order_of_what_it_is_asked(index, photos):
    (photos / "bad.jpg").write_bytes(b"no image")
    good = paths(photos / "dog")
    asked = [good[0], str(photos / "bad.jpg"), *good, "/nowhere.jpg", *good * 5, str(photos / "bad.jpg")]
    for settings in ({"k": 3}, {"radius": 4}, {"radius": 0}):
        answers = list(index.stream(iter(asked), **settings))
        assert [a.path if isinstance(a, ImageError) else a.query for a in answers] == asked
        for answer, name in zip(answers, asked, strict=True):
            if isinstance(answer, ImageError):
                assert answer.reason == (
                    "no such file" if "nowhere" in name else "not an image, or of a format that is not known here"
                )
            elif "k" in settings:
                assert answer == index.query(name, 3)
            else:
                assert answer == index.within(name, settings["radius"])
    for settings in ({}, {"k": 3, "radius": 1}):
        with pytest.raises(ArgumentError, match="either k or radius"):
            index.stream(asked, **settings)
    with pytest.raises(ArgumentError, match="k is 0"):
        next(index.stream(asked, k=0))

    def endless():
        while True:
            yield good[0]

    stream = index.stream(endless(), k=1)
    assert [next(stream).query for _ in range(40)] == [good[0]] * 40
    stream.close()


def test_in_memory_and_in_a_folder_are_the_same(index, encoder, photos):
    memory = encoder.to_index(photos, kind="hash:b=8,flips=8")
    assert (memory.path, len(memory)) == (None, len(index))
    names = paths(photos)
    for opened in (ImageIndex.open(index.path), ImageIndex.open(index.path, encoder)):
        assert opened.query(names, 6) == memory.query(names, 6) == index.query(names, 6)
        assert opened.within(names, 4) == memory.within(names, 4)
        same = {key: value for key, value in opened.info().items() if key not in ("generation", "segments")}
        assert same.items() <= memory.info().items()
    assert memory.info()["kind"] == "hash:b=8,flips=8"
    memory.build(photos, kind="flat")
    assert (memory.info()["kind"], memory.remove([photos / "cat"])) == ("flat", 4)
    assert len(memory.query(names[0], 100)) == len(memory) == len(index) - 4
    tensors = torch.zeros(3, 3, 32, 32, dtype=torch.uint8)
    memory.add(tensors, [["black"]] * 3)
    assert [hit.labels for hit in memory.query(Image.new("RGB", (32, 32)), 3)] == [("black",)] * 3
    assert all(trouble is None for _, trouble in memory.verify())
    memory.refresh()
    assert "in memory" in repr(memory)


def test_an_empty_index_answers_nothing(encoder, photos):
    for index in (ImageIndex.create(encoder), ImageIndex.create(encoder, photos.parent / "x.index")):
        hits = index.query(photos / "cat/0.jpg")
        assert (len(hits), hits.exact, len(index), index.info()["images"]) == (0, True, 0, 0)


def test_an_index_moves_with_its_images(index, photos, tmp_path):
    before = index.query(photos / "cat/0.jpg", 30)
    home = tmp_path / "new" / "home"
    home.mkdir(parents=True)
    shutil.move(photos, home / "photos")
    shutil.move(tmp_path / "x.index", home / "x.index")
    moved = ImageIndex.open(home / "x.index")
    hits = moved.query(home / "photos/cat/0.jpg", 30)
    assert [hit.path for hit in hits] == [hit.path.replace(str(tmp_path), str(home)) for hit in before]
    assert [(hit.id, hit.distance) for hit in hits] == [(hit.id, hit.distance) for hit in before]
    report = moved.build(home / "photos")
    assert (report.encoded, report.unchanged, report.removed) == (0, 17, 0)


def test_another_encoder_is_refused(index, encoder, photos, other):
    arguments, network = other
    stranger = Encoder(network, "hash", arguments, encoder.preprocessing, "dhida", device="cpu")
    for use in (lambda: ImageIndex.open(index.path, stranger), lambda: stranger.to_index(photos, index.path)):
        with pytest.raises(EncoderMismatchError, match="made by another model"):
            use()
    assert ImageIndex.create(encoder, index.path).query(photos / "cat/0.jpg") == index.query(photos / "cat/0.jpg")
    shutil.rmtree(index.path)
    stranger.to_index(photos, index.path)  # somebody builds anew while `index` is open
    for use in (index.refresh, lambda: index.build(photos), lambda: index.add([photos / "cat/0.jpg"])):
        with pytest.raises(EncoderMismatchError):
            use()
    assert all(trouble is None for _, trouble in ImageIndex.open(index.path).verify())


def test_a_damaged_encoder_is_told(index, encoder, photos, other, monkeypatch):
    arguments, network = other
    # what was compiled answers without encoder.pt
    monkeypatch.setattr("hashfaiss.library.searching.light_encoder", lambda store: None)
    file = index.path / "encoder.pt"
    sound = file.read_bytes()
    Encoder(network, "hash", arguments, encoder.preprocessing, "dhida", device="cpu").save(file)
    swapped = file.read_bytes()
    for data in (swapped, sound[: len(sound) // 2], b"", b"text", None):
        file.unlink(missing_ok=True)
        if data is not None:
            file.write_bytes(data)
        for use in (lambda i: i.query(photos / "cat/0.jpg"), lambda i: i.build(photos)):
            with pytest.raises(CorruptIndexError, match="encoder"):
                use(ImageIndex.open(index.path))
        for opened in (ImageIndex.open(index.path), ImageIndex.open(index.path, encoder)):
            assert [name for name, trouble in opened.verify() if trouble] == ["encoder.pt"]
    file.write_bytes(sound)
    flipped(file, len(sound) // 2)  # among the weights
    with pytest.raises(CorruptIndexError, match="encoder"):
        _ = ImageIndex.open(index.path).encoder
    # the codes can be searched without it
    assert len(ImageIndex.open(index.path).codes.search(index.store.codes()[0], 3)) == 17


def test_a_faiss_file_that_is_not_sound_is_never_read_and_is_made_anew(index, photos, monkeypatch):
    wanted = index.query(photos / "cat/0.jpg", 20)
    entry = index.store.manifest["index"]
    file = index.path / entry["file"]
    sound = file.read_bytes()
    loads = []
    load = CodeIndex.restore
    monkeypatch.setattr(CodeIndex, "restore", lambda *given: loads.append(1) or load(*given))
    assert ImageIndex.open(index.path).query(photos / "cat/0.jpg", 20) == wanted
    assert loads == [1]
    for data in (None, b"", sound[:-1], sound + b"x", sound[:30] + b"\xff" + sound[31:], b"IBxF" + b"\xff" * 99):
        file.unlink(missing_ok=True)
        if data is not None:
            file.write_bytes(data)
        opened = ImageIndex.open(index.path)
        assert opened.query(photos / "cat/0.jpg", 20) == wanted
        assert [name for name, trouble in opened.verify() if trouble] == [entry["file"]]
    assert loads == [1]
    assert opened.build(photos).encoded == 0  # as verify says: the next build writes it anew
    again = ImageIndex.open(index.path)
    assert all(trouble is None for _, trouble in again.verify())
    assert again.query(photos / "cat/0.jpg", 20) == wanted
    assert loads == [1, 1]


def test_a_sound_faiss_file_of_other_codes_is_made_anew(index, encoder, photos):
    """The digest in the manifest fits, the codes do not."""
    wanted = index.query(photos / "cat/0.jpg", 20)
    few = encoder.to_index([photos / "cat/0.jpg"], photos.parent / "few.index")
    manifest = read_manifest(index.path)
    manifest["index"]["xxh3"] = few.store.manifest["index"]["xxh3"]
    write_manifest(index.path, manifest)
    shutil.copy(few.path / few.store.manifest["index"]["file"], index.path / manifest["index"]["file"])
    assert ImageIndex.open(index.path).query(photos / "cat/0.jpg", 20) == wanted


def test_verify_and_open_find_damage(index):
    checked = dict(index.verify())
    assert set(checked.values()) == {None}
    assert {
        "manifest.json",
        "manifest.copy.json",
        "images",
        "decoders",
        "encoder.pt",
        index.store.manifest["index"]["file"],
        index.store.manifest["segments"][0]["file"],
    } == set(checked)
    flipped(index.path / index.store.manifest["segments"][0]["file"], 5000)
    assert [name for name, trouble in index.verify() if trouble] == [index.store.manifest["segments"][0]["file"]]
    with pytest.raises(CorruptIndexError):
        ImageIndex.open(index.path)


def test_open_where_there_is_no_index(tmp_path, encoder):
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(IndexFolderError, match="no index at"):
            ImageIndex.open(place)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(IndexFolderError, match="holds other things"):
        ImageIndex.create(encoder, tmp_path)
    with pytest.raises(ArgumentError, match="no index kind"):
        ImageIndex.create(encoder, tmp_path / "x", kind="tree")
    assert not (tmp_path / "x").exists()


def test_a_reader_sees_what_others_commit_after_refresh(index, photos):
    reader = ImageIndex.open(index.path)
    before = reader.query(photos / "cat/0.jpg", 30)
    index.remove([photos / "dog"])
    assert reader.query(photos / "cat/0.jpg", 30) == before
    reader.refresh()
    assert reader.query(photos / "cat/0.jpg", 30) == index.query(photos / "cat/0.jpg", 30)
    assert len(reader) == len(before) - 9
    assert "8 images, 20 bits" in repr(reader)


def test_a_refused_change_leaves_an_index_that_answers(index, photos, monkeypatch):
    """Taking the lock takes up what others committed; answers must follow even when the change is refused."""
    reader = ImageIndex.open(index.path)
    reader.query(photos / "cat/0.jpg")
    monkeypatch.setattr("hashfaiss.storage.store.MANY_SEGMENTS", 0)
    index.remove([photos / "dog"])
    with pytest.raises(ArgumentError, match="nothing was removed"):
        reader.remove(["nowhere"])
    assert reader.query(photos / "cat/0.jpg", 30) == index.query(photos / "cat/0.jpg", 30)


def test_to_index_sets_the_kind_of_an_index_that_is_there(index, encoder, photos):
    assert encoder.to_index(photos, index.path).info()["kind"] == "hash:b=8,flips=8"  # none was asked for
    assert encoder.to_index(photos, index.path, kind="flat").info()["kind"] == "flat"


def test_queries_from_many_threads_answer_the_same(index, photos):
    names = paths(photos)
    wanted = {name: index.query(name, 8) for name in names}
    fresh = ImageIndex.open(index.path)  # everything is loaded by whoever comes first
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda name: (name, fresh.query(name, 8), fresh.within(name, 3)), names * 6))
    assert all(hits == wanted[name] for name, hits, _ in answers)
    assert all(within == index.within(name, 3) for name, _, within in answers[: len(names)])
