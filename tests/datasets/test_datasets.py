"""Data sets in their published layouts, written here in small: read whole, and refused where they are not."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from layouts import relative, small, split, touch
from typer.testing import CliRunner

from hashfaiss.cli import app
from hashfaiss.datasets import layouts as published
from hashfaiss.datasets.layouts import DATASETS, NUSWIDE21, read_dataset, split_dataset
from hashfaiss.datasets.protocols import PROTOCOLS, make_split, read_split
from hashfaiss.errors import ArgumentError, LabelError
from hashfaiss.images.labels import labelled_images

CONCEPTS = sorted({*NUSWIDE21, *(f"concept{number:02}" for number in range(60))})


# --- NUS-WIDE


def nuswide(folder: Path, images: dict[str, set[str]], end: str = "\n") -> Path:
    """Image names with backslashes, as published, and their concepts."""
    touch(folder / "ImageList/Imagelist.txt", "".join(f"{path}{end}" for path in images))
    touch(folder / "ConceptsList/Concepts81.txt", "".join(f"{concept}{end}" for concept in CONCEPTS))
    for concept in CONCEPTS:
        flags = "".join(f"{int(concept in labels)}{end}" for labels in images.values())
        touch(folder / f"Groundtruth/AllLabels/Labels_{concept}.txt", flags)
    for path in images:
        touch(folder / "Flickr" / path.replace("\\", "/"))
    return folder


def some_images(count: int = 400, seed: int = 0) -> dict[str, set[str]]:
    draw = random.Random(seed)
    return {
        f"{draw.choice(CONCEPTS)}\\{n:04}_{draw.randrange(10**9)}.jpg": set(draw.sample(CONCEPTS, draw.randrange(4)))
        for n in range(count)
    }


@pytest.mark.parametrize("name", ["nuswide21", "nuswide81"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_nuswide(name: str, end: str, tmp_path: Path) -> None:
    images = some_images()
    known = set(NUSWIDE21) if name == "nuswide21" else set(CONCEPTS)
    found = read_dataset(name, nuswide(tmp_path, images, end))
    expected = {
        "Flickr/" + path.replace("\\", "/"): tuple(sorted(labels & known))
        for path, labels in images.items()
        if labels & known
    }
    assert relative(found) == sorted(expected.items())
    without = len(images) - len(expected)
    assert found.facts["left_out"] == {f"none of the {len(known)} labels": without}
    assert without > 50
    assert found.facts["classes"] == len(known)


def test_nuswide21_is_the_21_concepts() -> None:
    assert len(set(NUSWIDE21)) == 21


def test_nuswide_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nuswide(tmp_path / "data", some_images(2000))
    small(monkeypatch, "nuswide21", query=2, train=5)
    found = read_dataset("nuswide21", tmp_path / "data")
    split = split_dataset(found, None, 0, tmp_path / "21")
    assert split.facts["counts"] == {"query": 42, "train": 105, "database": len(found.images) - 42}
    assert split.facts["leaks"] == {"queries_in_database": 0, "queries_in_train": 0, "train_outside_database": 0}
    assert split.facts["cutoff"] == 5000
    assert split.facts["source"] == found.facts
    small(monkeypatch, "nuswide81", query=50, train=100)
    found = read_dataset("nuswide81", tmp_path / "data")
    split = split_dataset(found, None, 0, tmp_path / "81")
    assert split.facts["counts"] == {"query": 50, "train": 100, "database": len(found.images) - 50}
    with pytest.raises(ArgumentError, match="'nuswide21' is not of nuswide81: give nuswide81 or random:query="):
        split_dataset(found, "nuswide21", 0, tmp_path / "no")
    assert split_dataset(found, "random:query=3", 0, tmp_path / "own").facts["counts"]["query"] == 3


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("ImageList/Imagelist.txt", None, "has no ImageList/Imagelist.txt: nuswide81 is ImageList/"),
        ("ConceptsList/Concepts81.txt", None, "has no ConceptsList/Concepts81.txt"),
        ("ConceptsList/Concepts81.txt", "one\ntwo\n", "does not list 81 concepts"),
        ("ConceptsList/Concepts81.txt", "\n".join(["../../x", *CONCEPTS[1:]]), "does not list 81 concepts"),
        ("Groundtruth/AllLabels/Labels_sky.txt", None, "has no Groundtruth/AllLabels/Labels_sky.txt"),
        ("Groundtruth/AllLabels/Labels_sky.txt", "1\n0\n", "is not 3 lines of 0 or 1"),
        ("Groundtruth/AllLabels/Labels_sky.txt", "1\n0\n2\n", "is not 3 lines of 0 or 1"),
        ("Groundtruth/AllLabels/Labels_sky.txt", "10\n\n1\n", "is not 3 lines of 0 or 1"),
        ("Groundtruth/AllLabels/Labels_sky.txt", "10\n0\n1\n", "is not 3 lines of 0 or 1"),
        ("Flickr/a/1.jpg", None, "1 of 3 images that 'ImageList/Imagelist.txt' lists are not in .* 'Flickr/a/1.jpg'"),
        ("ImageList/Imagelist.txt", "a\\1.jpg\na\\1.jpg\na\\2.jpg\n", "lists an image twice"),
        ("ImageList/Imagelist.txt", "a\\1.jpg\na\\2.jpg\n..\\..\\etc\\passwd\n", "line 3 .* leads out of the folder"),
        ("ImageList/Imagelist.txt", "a/1.jpg\na/2.jpg\n/etc/passwd\n", "line 3 .* leads out of the folder"),
        ("ImageList/Imagelist.txt", "a/1.jpg\na/2.jpg\nC:\\x.jpg\n", "line 3 .* leads out of the folder"),
        ("ImageList/Imagelist.txt", b"a/1.jpg\na/2.jpg\na/\xff\0.jpg\n", "line 3 .* leads out of the folder"),
    ],
)
def test_nuswide_pieces(file: str, content: str | bytes | None, told: str, tmp_path: Path) -> None:
    nuswide(tmp_path, {f"a\\{n}.jpg": {"sky"} for n in range(3)})
    (tmp_path / file).unlink()
    if content is not None:
        touch(tmp_path / file, content)
    with pytest.raises(LabelError, match=told) as caught:
        read_dataset("nuswide81", tmp_path)
    assert "\n" not in str(caught.value)


def test_links_that_lead_out_of_a_listing(tmp_path: Path) -> None:
    folder = nuswide(tmp_path / "data", {f"a\\{n}.jpg": {"sky"} for n in range(3)})
    secret = touch(tmp_path / "secret.jpg")
    inside = touch(folder / "Flickr/b/there.jpg")
    image = folder / "Flickr/a/1.jpg"
    image.unlink()
    image.symlink_to(inside)
    assert len(read_dataset("nuswide21", folder).images) == 3
    image.unlink()
    image.symlink_to(secret)
    with pytest.raises(LabelError, match=r"'Flickr/a/1.jpg' of 'ImageList/Imagelist.txt' leads out of .*secret.jpg"):
        read_dataset("nuswide21", folder)
    image.unlink()
    touch(image)
    (folder / "Flickr/a").rename(tmp_path / "a")
    (folder / "Flickr/a").symlink_to(tmp_path / "a")
    with pytest.raises(LabelError, match=r"'Flickr/a' of 'ImageList/Imagelist.txt' leads out of"):
        read_dataset("nuswide21", folder)
    (folder / "Flickr/a").unlink()
    (tmp_path / "a").rename(folder / "Flickr/a")
    (folder / "Flickr").rename(tmp_path / "other disk")
    (folder / "Flickr").symlink_to(tmp_path / "other disk")  # the whole folder elsewhere: its owner's choice
    assert len(read_dataset("nuswide21", folder).images) == 3


# --- ImageNet-100

WNIDS = [f"n{number * 7:08}" for number in range(120)]
THOUSAND = sorted({*WNIDS, *(f"n9{number:07}" for number in range(880))})


def imagenet(folder: Path, train: int = 3, val: int = 2, wnids: list[str] = WNIDS) -> dict[str, str]:
    """Training folders, and flat validation images; returns the wnid of each of these."""
    order = [wnid for wnid in wnids for _ in range(val)]
    random.Random(0).shuffle(order)
    flat = {f"ILSVRC2012_val_{number:08}.JPEG": wnid for number, wnid in enumerate(order, start=1)}
    for wnid in wnids:
        for number in range(train):
            touch(folder / f"train/{wnid}/{wnid}_{number}.JPEG")
    for file in flat:
        touch(folder / "val" / file)
    return flat


def in_folders(folder: Path, flat: dict[str, str]) -> None:
    for file, wnid in flat.items():
        (folder / "val" / wnid).mkdir(exist_ok=True)
        (folder / "val" / file).rename(folder / "val" / wnid / file)


def caffe(folder: Path, flat: dict[str, str]) -> None:
    touch(folder / "val.txt", "".join(f"{file} {THOUSAND.index(wnid)}\n" for file, wnid in flat.items()))
    touch(folder / "synsets.txt", "".join(f"{wnid}\n" for wnid in THOUSAND))


def caffe_with_all_folders(folder: Path, flat: dict[str, str]) -> None:
    touch(folder / "val.txt", "".join(f"{file} {THOUSAND.index(wnid)}\n" for file, wnid in flat.items()))
    touch(folder / "classes.txt", "".join(f"{wnid}\n" for wnid in WNIDS[5:105]))
    for wnid in THOUSAND:
        (folder / "train" / wnid).mkdir(exist_ok=True)


def named(folder: Path, flat: dict[str, str]) -> None:
    touch(folder / "val.txt", "".join(f"{file} {wnid}\n" for file, wnid in flat.items()))


def kaggle(folder: Path, flat: dict[str, str]) -> None:
    rows = [f"{file[:-5]},{wnid} 1 2 3 4 {wnid} 5 6 7 8 \n" for file, wnid in flat.items()]
    touch(folder / "LOC_val_solution.csv", "ImageId,PredictionString\n" + "".join(reversed(rows)))


def devkit(folder: Path, flat: dict[str, str]) -> None:
    order = random.Random(1).sample(WNIDS, len(WNIDS))
    touch(folder / "map_clsloc.txt", "".join(f"{wnid} {n} name_of\n" for n, wnid in enumerate(order, start=1)))
    numbers = "".join(f"{order.index(wnid) + 1}\n" for wnid in flat.values())
    touch(folder / "ILSVRC2012_validation_ground_truth.txt", numbers)


@pytest.mark.parametrize("arrange", [in_folders, caffe, caffe_with_all_folders, named, kaggle, devkit])
def test_imagenet100(arrange: Callable[[Path, dict[str, str]], None], tmp_path: Path) -> None:
    flat = imagenet(tmp_path)
    arrange(tmp_path, flat)
    found = read_dataset("imagenet100", tmp_path)
    chosen = {label for _, (label,) in found.images}
    assert len(chosen) == found.facts["classes"] == 100
    assert Counter(labels for _, labels in found.images) == {(wnid,): 5 for wnid in chosen}
    for path, (label,) in relative(found):
        part, *_, file = path.split("/")
        assert (flat[file] if part == "val" else path.split("/")[1]) == label
        assert (found.folder / path).is_file()


def test_imagenet100_classes_are_listed_or_drawn(tmp_path: Path) -> None:
    in_folders(tmp_path, imagenet(tmp_path))

    def classes(**how: int) -> set[str]:
        return {label for _, (label,) in read_dataset("imagenet100", tmp_path, **how).images}

    assert read_dataset("imagenet100", tmp_path, seed=3).facts["chosen"] == "drawn from 120 with seed 3"
    assert classes() == classes(seed=0) != classes(seed=1)
    touch(tmp_path / "classes.txt", "".join(f"{wnid}\r\n" for wnid in WNIDS[:100]))
    assert classes() == classes(seed=1) == set(WNIDS[:100])
    assert read_dataset("imagenet100", tmp_path).facts["chosen"] == "classes.txt"


def test_imagenet100_queries_are_validation_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_folders(tmp_path / "data", imagenet(tmp_path / "data"))
    small(monkeypatch, "imagenet100", query=2, train=2)
    split = split_dataset(read_dataset("imagenet100", tmp_path / "data"), None, 0, tmp_path / "out")
    assert split.facts["counts"] == {"query": 200, "train": 200, "database": 300}
    assert {path.split("/")[0] for path, _ in split.query} == {"val"}
    assert {path.split("/")[0] for path, _ in split.database} == {"train"}
    assert set(split.train) < set(split.database)
    assert set(Counter(labels for _, labels in split.train).values()) == {2}
    small(monkeypatch, "imagenet100", query=3)
    with pytest.raises(LabelError, match=r"class 'n\d+' has 2 images in val/: the protocol 'imagenet100' needs 3"):
        split_dataset(read_dataset("imagenet100", tmp_path / "data"), None, 0, tmp_path / "no")
    small(monkeypatch, "imagenet100", query=2, train=4)
    with pytest.raises(LabelError, match=r"class 'n\d+' has 3 images in train/: the protocol 'imagenet100' needs 4"):
        split_dataset(read_dataset("imagenet100", tmp_path / "data"), None, 0, tmp_path / "no")
    assert not (tmp_path / "no").exists()


def remove(name: str) -> Callable[[Path], object]:
    return lambda folder: shutil.rmtree(folder / name)


def write(name: str, content: str) -> Callable[[Path], object]:
    return lambda folder: touch(folder / name, content)


HUNDRED = "\n".join(WNIDS[:100])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (remove("train"), "has no train: imagenet100 is train/<wnid>"),
        (remove("val"), "has no val: imagenet100 is"),
        (lambda folder: (folder / "val.txt").unlink(), "has no val/<wnid>/ and no list of the validation images"),
        (write("classes.txt", "n00000007\n"), "does not list 100 different wnids"),
        (write("classes.txt", HUNDRED.replace(WNIDS[3], WNIDS[4])), "does not list 100 different wnids"),
        (write("classes.txt", HUNDRED.replace(WNIDS[3], "../../etc")), "does not list 100 different wnids"),
        (write("classes.txt", HUNDRED.replace(WNIDS[3], "n99999999")), "has no train/n99999999"),
        (lambda folder: [remove(f"train/{wnid}")(folder) for wnid in WNIDS[:21]], "has 99 folders of classes"),
        (lambda folder: (folder / "val" / WNIDS[0]).mkdir(), "has no val/n"),
        (lambda folder: (folder / "synsets.txt").unlink(), "classes by their place among 1,000, and 120 are known"),
        (write("val.txt", "a.JPEG\n"), "line 1 of 'val.txt' is 'a.JPEG'"),
        (write("val.txt", "a.JPEG 1000\n"), "line 1 of 'val.txt' is 'a.JPEG 1000'"),
        (write("val.txt", f"../../x.JPEG {WNIDS[0]}\n"), "image 1 of 'val.txt' is .* leads out of the folder"),
        (write("val.txt", f"gone.JPEG {WNIDS[0]}\n"), "1 of 1 images that 'val.txt' lists are not in"),
    ],
)
def test_imagenet100_pieces(change: Callable[[Path], object], told: str, tmp_path: Path) -> None:
    caffe(tmp_path, imagenet(tmp_path, train=1, val=1))
    if "val" in told:
        touch(tmp_path / "classes.txt", HUNDRED)
    change(tmp_path)
    with pytest.raises(LabelError, match=told):
        read_dataset("imagenet100", tmp_path)


# --- COCO


def coco(folder: Path, each: int = 30) -> tuple[dict[str, set[str]], int]:
    """Returns the labels of each image that has one, and how many have none."""
    draw = random.Random(0)
    categories = [{"supercategory": "x", "id": 90 - n, "name": f"thing {n}"} for n in range(80)]
    labels: dict[str, set[str]] = {}
    bare = 0
    for part in ("train2014", "val2014"):
        images, annotations = [], []
        for number in range(each):
            file = f"COCO_{part}_{number:012}.jpg"
            images.append({"id": number, "file_name": file, "license": 3, "width": 640, "height": 480})
            touch(folder / part / file)
            of = draw.choices(categories, k=draw.randrange(4))
            annotations += [
                {"segmentation": [[1.5, 2.5]], "iscrowd": 0, "image_id": number, "bbox": [1, 2, 3, 4], **ids}
                for ids in ({"category_id": category["id"], "id": draw.randrange(10**6)} for category in of)
            ]
            bare += not of
            if of:
                labels[f"{part}/{file}"] = {str(category["name"]) for category in of}
        draw.shuffle(annotations)
        content = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
        touch(folder / f"annotations/instances_{part}.json", json.dumps(content))
    return labels, bare


def test_coco(tmp_path: Path) -> None:
    labels, bare = coco(tmp_path)
    found = read_dataset("coco", tmp_path)
    assert {path: set(names) for path, names in relative(found)} == labels
    assert all(len(set(names)) == len(names) for _, names in found.images)
    assert found.images == sorted(found.images)
    assert found.facts["left_out"] == {"no annotation": bare}
    assert bare > 5


def annotated(image: Any, category: Any) -> Callable[[Any], object]:
    return lambda content: content["annotations"].append({"image_id": image, "category_id": category})


def renamed(pattern: str) -> Callable[[Any], object]:
    """Rename every image; {} is its number."""
    return lambda content: [image.update(file_name=pattern.format(image["id"])) for image in content["images"]]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda content: content.pop("images"), "is not COCO's: KeyError"),
        (annotated(999, 90), "is not COCO's: KeyError 999"),
        (annotated(0, 1000), "is not COCO's: KeyError 'category 1000'"),
        (annotated([], 90), "is not COCO's: TypeError"),
        (lambda content: content["annotations"].append(7), "is not COCO's: TypeError"),
        (lambda content: content["images"][4].update(file_name="../../etc/passwd"), "image 5 of .* leads out of"),
        (renamed("/etc/passwd"), "image 1 of .* leads out of"),
        (renamed("\ud800{}.jpg"), "images that .* are not in"),
        (renamed("\ud800/{}.jpg"), "images that .* are not in"),
        (renamed("gone/{}.jpg"), "images that .* are not in"),
        (renamed("same.jpg"), "lists an image twice"),
    ],
)
def test_coco_pieces(change: Callable[[Any], object], told: str, tmp_path: Path) -> None:
    coco(tmp_path)
    file = tmp_path / "annotations/instances_val2014.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    with pytest.raises(LabelError, match=told):
        read_dataset("coco", tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "7", "{", "[" * 100_000, b"\xff\xfe{}"])
def test_coco_annotations_that_are_none(content: str | bytes, tmp_path: Path) -> None:
    coco(tmp_path)
    touch(tmp_path / "annotations/instances_train2014.json", content)
    with pytest.raises(LabelError, match=r"'annotations/instances_train2014.json' in .* is not COCO's"):
        read_dataset("coco", tmp_path)
    (tmp_path / "annotations/instances_train2014.json").unlink()
    with pytest.raises(LabelError, match=r"has no annotations/instances_train2014.json: coco is annotations/"):
        read_dataset("coco", tmp_path)


# --- What they share


def test_every_data_set_has_a_layout_and_protocols() -> None:
    assert set(DATASETS) == set(published.LAYOUTS) == {protocol.dataset for protocol in PROTOCOLS.values()}


def test_what_cannot_be_asked(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="unknown data set 'mnist': give one of cifar10, nuswide21"):
        read_dataset("mnist", tmp_path)
    with pytest.raises(ArgumentError, match="is no folder: give the one that coco was unpacked in"):
        read_dataset("coco", tmp_path / "gone")
    with pytest.raises(ArgumentError, match="seed is -1"):
        read_dataset("imagenet100", tmp_path, seed=-1)


def test_a_split_does_not_depend_on_where_the_images_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    coco(tmp_path / "a/coco")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    small(monkeypatch, "coco", query=10, train=20)
    one = split_dataset(read_dataset("coco", tmp_path / "a/coco"), None, 5, tmp_path / "one")
    monkeypatch.chdir(tmp_path / "b")
    two = split_dataset(read_dataset("coco", "coco"), "coco", 5, tmp_path / "two")
    for name in ("query.csv", "train.csv", "database.csv", "split.json"):
        assert (one.folder / name).read_bytes() == (two.folder / name).read_bytes()
    assert all(path.startswith(("train2014/", "val2014/")) for path, _ in one.query)


# --- hashfaiss split

runner = CliRunner()


def test_command_on_a_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, bare = coco(tmp_path / "coco")
    small(monkeypatch, "coco", query=10, train=20)
    arguments = ["split", "--dataset", "coco", "--data", str(tmp_path / "coco"), "--out", str(tmp_path / "out")]
    result = runner.invoke(app, arguments)
    assert result.exit_code == 0
    assert f"{bare} images left out: no annotation" in result.stderr
    assert f"--images {tmp_path / 'coco'}" in result.stderr
    made = read_split(tmp_path / "out")
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["query", "10", "images", "sha256", made.facts["sha256"]["query"]]
    assert lines[3:] == [
        "coco, seed 0, mAP@5,000",
        "leaks: no query in the database or the training set; training images outside the database: 0",
    ]


def test_command_on_own_images(photos: Path, tmp_path: Path) -> None:
    own = ["--images", str(photos), "--out", str(tmp_path / "out")]
    text = split(*own, "--protocol", "random:query=3,train=6,cutoff=5", "--seed", "4")
    assert "random:query=3,train=6,cutoff=5, seed 4, mAP@5\n" in text
    expected = make_split(labelled_images(photos), "random:query=3,train=6,cutoff=5", 4, tmp_path / "same", photos)
    assert read_split(tmp_path / "out").facts == expected.facts
    listed = touch(tmp_path / "labels.csv", "cat/0.jpg,a;b\ndog/0.jpg,a\nbird/0.jpg,b\n")
    assert "query          1 images" in split(*own, "--labels", str(listed), "--protocol", "random:query=1")
    assert "class 'bird' has 4 images: the protocol 'cifar10-1' needs 600 or more" in split(*own, code=1)


@pytest.mark.parametrize(
    "given",
    [
        [],
        ["--images", "x", "--dataset", "coco", "--data", "x"],
        ["--dataset", "coco"],
        ["--images", "x", "--data", "x"],
        ["--dataset", "coco", "--data", "x", "--labels", "x"],
    ],
)
def test_command_asked_wrongly(given: list[str]) -> None:
    assert "give either --images, with --labels or without, or both --dataset and --data" in split(
        *given, "--out", "y", code=2
    )


def test_command_explains_every_protocol_and_data_set() -> None:
    text = split("--help")
    for name, protocol in PROTOCOLS.items():
        (row,) = (line for line in text.splitlines() if line.strip().startswith(f"{name} "))
        assert f"{protocol.query:,}" in row
        assert row.endswith("ALL" if protocol.cutoff is None else f"{protocol.cutoff:,}")
        assert protocol.train is None or f"{protocol.train:,}" in row
        assert protocol.dataset in text
