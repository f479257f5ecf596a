"""Asking with images of the index whose files are gone, by id, and with several images at once."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from hashfaiss.codes import pack, unpack
from hashfaiss.errors import ArgumentError, ImageError
from hashfaiss.indexes import CodeIndex, nearest_by_outputs
from hashfaiss.library.answering import combine_outputs
from hashfaiss.library.image_index import ImageIndex


@pytest.fixture
def index(encoder, photos):
    return encoder.to_index(photos, photos.parent / "x.index")


def plain(hits):
    return [(hit.id, hit.distance) for hit in hits]


def test_an_image_of_the_index_is_asked_with_without_its_file(index, encoder, photos):
    cat, dog, bird = photos / "cat/0.jpg", photos / "dog/1.png", photos / "bird/2.jpg"
    whole = {path: plain(index.query(path, 5)) for path in (cat, dog, bird)}
    ids = {path: whole[path][0][0] for path in whole}
    assert plain(index.query(ids[cat], 5)) == whole[cat]
    assert index.query(np.int64(ids[cat]), 5).query == str(cat)
    near = plain(index.within(dog, 6))
    dog.unlink()
    assert plain(index.query(dog, 5)) == whole[dog]
    assert plain(index.within(str(dog), 6)) == near
    mixed = index.query([cat, ids[bird], dog, ids[cat], bird], 5)  # in their order, however they are answered
    assert [plain(hits) for hits in mixed] == [whole[path] for path in (cat, bird, dog, cat, bird)]
    assert [hits.query for hits in mixed] == [str(path) for path in (cat, bird, dog, cat, bird)]
    reranked = index.query(dog, 5, rerank="asymmetric")  # +-1: the asymmetric distance is Hamming's
    assert [hit.score for hit in reranked] == [float(distance) for _, distance in whole[dog]]
    index.remove(dog)
    with pytest.raises(ImageError):
        index.query(dog)
    for number in (ids[dog], 99, -1, 2**70):
        with pytest.raises(ArgumentError, match=f"no image of id {number}"):
            index.query(number)


def test_an_image_of_the_index_needs_no_network(index, photos):
    asked = (
        "import sys\nfrom hashfaiss import ImageIndex\n"
        f"index = ImageIndex.open({str(index.path)!r})\n"
        "hits = index.query(3, 4)\n"
        "print(hits[0].id, hits[0].distance, hits.exact, 'torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["3", "0", "True", "False"]


def test_outputs_are_combined_by_a_plain_loop():
    rng = np.random.default_rng(0)
    images, unlike = rng.standard_normal((3, 16)).astype(np.float32), rng.standard_normal((2, 16)).astype(np.float32)
    images[1] *= 40  # however sure
    expected = []
    for bit in range(16):
        total = sum(image[bit] / np.mean([abs(x) for x in image]) for image in images) / 3
        away = sum(image[bit] / np.mean([abs(x) for x in image]) for image in unlike) / 2
        expected.append(total - 0.5 * away)
    assert np.allclose(combine_outputs(images, unlike), expected, atol=1e-6)
    assert np.isfinite(combine_outputs(np.zeros((1, 16), np.float32), unlike[:0])).all()


def test_several_images_are_one_query(index, encoder, photos):
    cat, dog, bird = photos / "cat/0.jpg", photos / "dog/1.png", photos / "bird/2.jpg"
    codes, ids = index.store.codes()
    signs = unpack(codes, 20).astype(float)
    outputs = {path: encoder.outputs(_resized(encoder, path)).numpy()[0] for path in (cat, dog, bird)}

    def ranked(wanted):
        differ = signs != np.where(wanted >= 0, 1, -1)
        score = ((np.abs(wanted) * differ).sum(axis=1) / np.abs(wanted).mean()).round(4)
        order = np.lexsort((ids, differ.sum(axis=1), score))
        return [(ids[row], differ[row].sum()) for row in order], score[order]

    wanted = combine_outputs(np.array([outputs[cat], outputs[dog]]), np.array([outputs[bird]]))
    hits = index.combined([cat, dog], bird, k=7)
    expected, scores = ranked(wanted)
    assert plain(hits) == expected[:7]
    assert np.allclose([hit.score for hit in hits], scores[:7], atol=1e-3)
    assert (hits.exact, hits.query) == (True, f"{cat} + {dog} - {bird}")
    near = index.combined([cat, dog], [bird], radius=8)
    assert plain(near) == [(number, distance) for number, distance in expected if distance <= 8]
    assert {hit.labels for hit in index.combined([cat, dog], labels="dog")} == {("dog",)}
    assert plain(index.combined(cat, k=12)) == ranked(outputs[cat])[0]
    bird.unlink()  # its code's signs in place of its outputs
    number = ids[[index.store.row(i).path.endswith(b"bird/2.jpg") for i in ids.tolist()].index(True)]
    stored = signs[ids == number].astype(np.float32)
    expected = ranked(combine_outputs(outputs[cat][None], stored))[0]
    assert plain(index.combined(cat, unlike=bird, k=12)) == plain(index.combined(cat, unlike=number, k=12)) == expected


def _resized(encoder, path):
    from hashfaiss.images.decoding import read_image

    return encoder.preprocessing.resize(read_image(path))[None]


def test_what_cannot_be_combined_is_told(index, photos):
    for images, how, error, message in [
        ([], {}, ArgumentError, "no image to be like"),
        ((), {"unlike": photos / "cat/0.jpg"}, ArgumentError, "no image to be like"),
        (photos / "no.jpg", {}, ImageError, "no.jpg"),
        (photos / "cat/0.jpg", {"unlike": photos / "no.jpg"}, ImageError, "no.jpg"),
        (photos / "cat/0.jpg", {"k": 0}, ArgumentError, "k is 0"),
        (photos / "cat/0.jpg", {"k": 1, "radius": 1}, ArgumentError, "either k or radius"),
        (photos / "cat/0.jpg", {"radius": -1}, ArgumentError, "radius is -1"),
        (photos / "cat/0.jpg", {"nots": 1}, ArgumentError, "no way to search"),
        (77, {}, ArgumentError, "no image of id 77"),
    ]:
        with pytest.raises(error, match=message):
            index.combined(images, **how)


def test_all_codes_are_compared_with_outputs_by_a_plain_loop():
    rng = np.random.default_rng(1)
    codes = pack(rng.standard_normal((300, 12)))[rng.integers(0, 90, 300)]
    ids, outputs = np.arange(300) * 2, rng.standard_normal((4, 12))
    index = CodeIndex(codes, ids, 12, "hash:b=6,flips=1")
    for k in (1, 7, 299, 1000):
        answers = nearest_by_outputs(index, outputs, k)
        assert answers.exact.all()
        for number, output in enumerate(outputs):
            rows = []
            for code, name in zip(unpack(codes, 12), ids.tolist(), strict=True):
                differ = [abs(u) for u, b in zip(output, code, strict=True) if (u >= 0) != (b > 0)]
                rows.append((round(sum(differ) / np.abs(output).mean(), 4), len(differ), name))
            found = answers[number]
            assert list(zip(found[1].tolist(), found[0].tolist(), strict=True)) == [r[1:] for r in sorted(rows)[:k]]
    assert len(nearest_by_outputs(index, outputs[:0], 3)) == 0
    assert nearest_by_outputs(CodeIndex(bits=12), outputs, 3).ids.tolist() == []
    with pytest.raises(ArgumentError, match="give 12 finite outputs"):
        nearest_by_outputs(index, outputs[:, :5], 3)
    with pytest.raises(ArgumentError, match="k is 0"):
        nearest_by_outputs(index, outputs, 0)


def test_an_index_in_memory_is_asked_by_id(encoder, photos):
    from PIL import Image

    images = [Image.open(path) for path in sorted(photos.glob("cat/*"))]
    index = encoder.to_index(images)
    assert index.query(2, 1)[0].id == 2
    assert index.query(2, 1).query == "id 2"
    assert isinstance(index, ImageIndex)


def test_codes_are_asked_with_as_their_images_are(index, photos):
    ids = index.store.ids()
    codes, _ = index.store.codes()
    for how in ({}, {"labels": "cat"}, {"paths": "bird/*"}, {"exact": False}):
        for asked in ({"k": 3}, {"radius": 6}):
            found = index.search(codes, **asked, **how)
            ask = index.query if "k" in asked else index.within
            assert [hits.found for hits in found] == [ask(int(i), **asked, **how).found for i in ids]
    assert index.search(codes[:0], k=3) == []
    for asked, reason in (
        ({}, "either k or radius"),
        ({"k": 1, "radius": 1}, "either k or radius"),
        ({"k": 1, "rerank": "asymmetric"}, "leave it out"),
        ({"k": 0}, "k is 0"),
    ):
        with pytest.raises(ArgumentError, match=reason):
            index.search(codes, **asked)
    for wrong in (codes[:, :-1], codes[0], codes.astype(np.int64)):
        with pytest.raises(ArgumentError):
            index.search(wrong, k=1)


def test_an_image_is_found_by_its_path_as_it_was(index, photos):
    path = str(photos / "cat" / "0.jpg")
    found = index.find(path)
    (photos / "cat" / "0.jpg").unlink()
    assert index.find(path) == found
    assert index.hit(found, 0).path == path
    index.remove(path)
    assert index.find(path) is None
    assert index.find("cat/0.jpg") is None
