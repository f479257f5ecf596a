"""Several indexes of one encoder answer as one index of all their images."""

from __future__ import annotations

import json
from itertools import chain

import pytest
import torch
from commands import run
from drawn import draw_photos

from hashfaiss.encoding.encoder import Encoder
from hashfaiss.errors import ArgumentError, EncoderMismatchError
from hashfaiss.images.preprocessing import Preprocessing
from hashfaiss.library.image_index import ImageIndex
from hashfaiss.library.several import Several
from hashfaiss.library.stored_encoder import NO_ENCODER
from hashfaiss.networks import build_network
from hashfaiss.storage.store import CodeStore


@pytest.fixture
def whole(encoder, photos):
    """One index of all images."""
    return encoder.to_index(photos, photos.parent / "whole.index")


@pytest.fixture
def several(encoder, photos):
    """Indexes of one folder each, in the order in which the whole one numbers their images."""
    kinds = {"bird": "flat", "cat": "hash:b=4,flips=0", "dog": "ivf:lists=2,probes=1"}
    made = {
        n: encoder.to_index(photos / n, photos.parent / f"{n}.index", kind, labels(photos, n))
        for n, kind in kinds.items()
    }
    return Several(list(made.values()))


def labels(photos, name):
    """A label file of a folder, whose own name is the label."""
    file = photos.parent / f"{name}.csv"
    file.write_text("".join(f"{path.name},{name}\n" for path in sorted((photos / name).iterdir())))
    return file


def plain(hits):
    return hits.query, hits.exact, [(hit.path, hit.distance, hit.labels, hit.score) for hit in hits]


def test_answers_are_those_of_one_index(whole, several, encoder, photos):
    images = [str(path) for path in sorted(photos.rglob("*.*"))]
    codes = encoder.encode(images)
    assert len(several) == len(whole)
    for how in ({}, {"labels": "cat"}, {"labels": ["cat", "dog"], "paths": "*.png"}, {"rerank": "asymmetric"}):
        for k in (1, 5, 30):
            assert list(map(plain, several.query(images, k, **how))) == list(map(plain, whole.query(images, k, **how)))
        for radius in (0, 7, 20):
            found, true = several.within(images, radius, **how), whole.within(images, radius, **how)
            assert list(map(plain, found)) == list(map(plain, true))
        assert plain(several.combined(images[:2], images[9], 7, **how)) == plain(
            whole.combined(images[:2], images[9], 7, **how)
        )
        if "rerank" not in how:
            assert list(map(plain, several.search(codes, k=4, **how))) == list(
                map(plain, whole.search(codes, k=4, **how))
            )
    assert several.compare(images[0], images[9]) == whole.compare(images[0], images[9])
    for hits in several.stream(images, k=12):
        assert hits.exact
        for hit in hits:  # each is of the index it names, by its own id
            index = next(one for one in several.indexes if str(one.path) == hit.index)
            assert index.hit(hit.id, hit.distance) == type(hit)(hit.path, hit.distance, hit.labels, hit.id)
    for hits in several.query(images, 3, exact=False):
        assert not hits.exact or plain(hits) == plain(whole.query(hits.query, 3))


def test_an_image_whose_file_is_gone_is_known_in_any(several, whole, photos):
    dog = photos / "dog/1.png"
    before = plain(several.query(dog, 5))
    dog.unlink()
    assert plain(several.query(dog, 5)) == before == plain(whole.query(dog, 5))
    with pytest.raises(ArgumentError, match="id 3 may be an image's in each of 3 indexes"):
        several.query(3)
    with pytest.raises(ArgumentError, match="has label 'cow': it has bird, cat, dog"):
        several.query(dog, labels="cow")
    with pytest.raises(ArgumentError, match="no image of the index has label 'cat' and path 'dog"):
        several.query(dog, labels="cat", paths="dog/*")


def test_what_an_index_takes_up_counts_from_the_next_question_on(several, encoder, photos):
    cat = photos / "cat/0.jpg"
    assert {hit.labels for hit in several.query(cat, 20, labels="cat")} == {("cat",)}
    more = draw_photos(photos.parent / "more")
    several.indexes[0].add(more)
    other = ImageIndex.open(several.indexes[1].path, encoder)
    other.remove(cat)
    several.indexes[1].refresh()
    hits = several.query(cat, 50)
    assert len(hits) == len(several) == 12 + 12 - 1
    assert len(several.query(cat, 50, labels="cat")) == 4 + 4 - 1
    assert {hit.index for hit in hits if str(more) in hit.path} == {str(several.indexes[0].path)}


def test_indexes_that_do_not_go_together_are_refused(several, encoder, photos, tmp_path):
    one = several.indexes[0]
    with pytest.raises(ArgumentError, match="no index to ask"):
        Several([])
    (tmp_path / "link.index").symlink_to(one.path)
    with pytest.raises(ArgumentError, match=r"link.index' was given twice"):
        Several([one, ImageIndex.open(tmp_path / "link.index")])
    alone = ImageIndex.create(encoder)
    with pytest.raises(ArgumentError, match=r"memory.* was given twice"):
        Several([alone, one, alone])
    arguments = {"backbone": "resnet-small", "bits": 20}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = build_network("hash", arguments).eval()
    stranger = Encoder(network, "hash", arguments, Preprocessing(32, "stretch"), "dpsh", device="cpu")
    other = stranger.to_index(photos / "cat", tmp_path / "other.index")
    with pytest.raises(EncoderMismatchError, match=r"bird.index' \(dhida, .*other.index' \(dpsh, .*ask each alone"):
        Several([one, other])
    CodeStore.create(tmp_path / "codes.index", 20, encoder=NO_ENCODER, kind="flat")
    with pytest.raises(EncoderMismatchError, match=r"codes.index' holds codes that were imported"):
        Several([one, ImageIndex.open(tmp_path / "codes.index")])


def test_the_command(several, whole, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ["bird.index", "cat.index", "dog.index"]
    given = [part for name in names for part in ("--index", name)]
    image = str(photos / "cat/0.jpg")
    for how in (
        [],
        ["--radius", "8"],
        ["--label", "dog"],
        ["--rerank", "asymmetric"],
        ["--not", str(photos / "dog/0.jpg")],
    ):
        lines = [
            [json.loads(line) for line in run("query", image, "--json", *how, *where).splitlines()]
            for where in (given, ["--index", "whole.index"])
        ]
        for found in lines[0]:
            assert found.pop("index") == str(tmp_path / names[["bird", "cat", "dog"].index(found["labels"][0])])
        for found in chain(*lines):
            del found["id"]
        assert lines[0] == lines[1]
    table = run("query", image, *given, "--montage", "hits.png")
    assert "index" in table
    assert "cat.index" in table
    assert (tmp_path / "hits.png").exists()
    assert "--id is an image of one index, and 3 were given" in run("query", "--id", "1", *given, code=2)
    assert "'cat.index' was given twice" in run("query", image, "--index", "cat.index", *given, code=2).replace(
        f"{tmp_path}/", ""
    )
