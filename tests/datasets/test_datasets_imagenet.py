"""ImageNet-100 out of ImageNet's published layouts, written here in small: read whole, and refused where it is not."""

from __future__ import annotations

import hashlib
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from layouts import relative, small, touch

from hashfaiss.datasets.layouts import read_dataset, split_dataset
from hashfaiss.errors import LabelError

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

    def classes() -> set[str]:
        return {label for _, (label,) in read_dataset("imagenet100", tmp_path).images}

    assert read_dataset("imagenet100", tmp_path).facts["chosen"] == "drawn from 120, no published list"
    order = sorted(WNIDS[:120], key=lambda wnid: hashlib.sha256(f"0/{wnid}".encode()).digest())
    assert classes() == set(order[:100])  # the same whatever is drawn from them
    touch(tmp_path / "classes.txt", "".join(f"{wnid}\r\n" for wnid in WNIDS[:100]))
    assert classes() == set(WNIDS[:100])
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
