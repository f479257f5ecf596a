"""Precision, recall and numbers of pairs by radius, against plain loops over pairs."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from commands import run, runner
from PIL import Image

from hashfaiss.cli import app
from hashfaiss.codes import hamming, pack
from hashfaiss.encoding.encoder import Encoder
from hashfaiss.errors import ArgumentError, HashfaissError, LabelError
from hashfaiss.evaluation.index_radii import evaluate_radius
from hashfaiss.evaluation.radii import radii_of_codes, radii_of_pairs
from hashfaiss.images.pairs import Pair, read_pairs


def drawn(n: int, bits: int) -> tuple[np.ndarray, list[tuple[str, ...]]]:
    rng = np.random.default_rng(n)
    codes = pack(rng.normal(size=(n, bits)) + 0.8 * rng.normal(size=(1, bits)))
    labels = [tuple(name for name in "abc" if rng.random() < 0.3) for _ in range(n)]
    return codes, labels


def test_pairs_are_counted_one_by_one() -> None:
    rng = np.random.default_rng(3)
    for bits in (1, 12, 64):
        distances = rng.integers(0, bits + 1, 50).tolist()
        same = (rng.random(50) < 0.4).tolist()
        report = radii_of_pairs(distances, same, bits)
        best = (-1.0, -1)
        for radius in range(bits + 1):
            found = [alike for distance, alike in zip(distances, same, strict=True) if distance <= radius]
            precision = sum(found) / len(found) if found else None
            recall = sum(found) / sum(same)
            assert report.precision[radius] == precision
            assert report.recall[radius] == recall
            f1 = 2 * precision * recall / (precision + recall) if precision and recall else 0
            assert report.f1[radius] == pytest.approx(f1)
            if f1 > best[0] + 1e-12:
                best = f1, radius
        assert report.best == best[1]
        assert (report.bits, report.expected) == (bits, None)
    with pytest.raises(ArgumentError, match="none of the pairs is the same"):
        radii_of_pairs([1, 2], [False, False], 8)


def test_labels_are_counted_pair_by_pair() -> None:
    codes, labels = drawn(60, 20)
    distances = hamming(codes, codes)
    report, expected = radii_of_codes(codes, 20, labels, sample=0)
    assert report is not None
    assert report.expected == expected
    assert any(not of for of in labels)
    for radius in range(21):
        near = [(a, b) for a, b in combinations(range(60), 2) if distances[a, b] <= radius]
        told = [(a, b) for a, b in near if labels[a] and labels[b]]
        same = [(a, b) for a, b in told if set(labels[a]) & set(labels[b])]
        assert expected[radius] == len(near)
        assert report.within[radius] == 2 * len(told)  # from either end
        assert report.same[radius] == 2 * len(same)
    assert (report.images, report.sampled) == (60, sum(map(bool, labels)))


def test_a_sample_expects_what_there_is() -> None:
    codes, labels = drawn(60, 20)
    _, exact = radii_of_codes(codes, 20, sample=0)
    estimates = []
    for seed in range(60):
        rows = np.sort(np.random.default_rng(seed).choice(60, 15, replace=False))
        report, expected = radii_of_codes(codes, 20, sample=15, seed=seed)
        assert report is None
        near = [sum(d <= 8 for d in np.delete(hamming(codes[[row]], codes)[0], row)) for row in rows]
        assert expected[8] == pytest.approx(sum(near) * 60 / 15 / 2)
        assert expected[20] == 60 * 59 / 2
        estimates.append(expected[8])
    assert abs(np.mean(estimates) - exact[8]) < 0.1 * exact[8]
    assert radii_of_codes(codes, 20, [()] * 60)[0] is None
    with pytest.raises(ArgumentError, match="no two images share a label"):
        radii_of_codes(codes[:3], 20, [("a",), ("b",), ()])
    first, _ = radii_of_codes(codes, 20, labels, 15, 4)
    assert first == radii_of_codes(codes, 20, labels, 15, 4)[0]


def test_files_of_pairs(tmp_path: Path) -> None:
    file = tmp_path / "pairs.csv"
    here = str(tmp_path)
    wanted = [Pair(f"{here}/a.jpg", f"{here}/b/c.jpg", True), Pair("/x.png", f"{here}/größe.png", False)]
    lines = ["a.jpg,b/./c.jpg,1", "", "/x.png,größe.png, 0 "]
    for head in ([], ["path,path,same"], ["left,right,is it"]):
        for mark in ",;\t":
            file.write_text("\n".join([*head, *lines]).replace(",", mark), "utf-8")
            assert read_pairs(file) == wanted
    file.write_text("\n".join(lines), "utf-16")
    assert read_pairs(file) == wanted
    for text, error in [
        ("a.jpg,b.jpg,yes\n", r"line 1 of .* expected path,path,same"),
        ("a.jpg,b.jpg,1\nc,d,2\n", "line 2 of"),
        ("a.jpg,b.jpg,1\n,d,1\n", "line 2 of"),
        ("a.jpg,b.jpg,1\na.jpg,b.jpg\n", "line 2 of"),
        ('a.jpg,b.jpg,1\n"a.jpg,b.jpg,1', "line 2 of .* is not CSV"),
        ("path,path,same\n", "lists no pairs"),
        ("", "lists no pairs"),
    ]:
        file.write_text(text)
        with pytest.raises(LabelError, match=error):
            read_pairs(file)
    file.write_bytes(b"\0\xff\0")
    with pytest.raises(LabelError, match="not a text file: give a CSV of path,path,same"):
        read_pairs(file)
    with pytest.raises(LabelError, match="cannot read the file of pairs"):
        read_pairs(tmp_path / "gone.csv")


@pytest.fixture
def judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoder: Encoder, photos: Path) -> Path:
    """pairs.csv of photos and their copies, and hashfaiss.index; in the current folder."""
    monkeypatch.chdir(tmp_path)
    encoder.save("model.pt")
    encoder.to_index(photos, "hashfaiss.index")
    lines = []
    for number in range(4):
        kind = "jpg" if number % 2 == 0 else "png"
        with Image.open(photos / f"cat/{number}.{kind}") as image:
            image.resize((40, 40)).save(f"{number}.png")
        lines += [f"{photos}/cat/{number}.{kind},{number}.png,1", f"{photos}/dog/{number}.{kind},{number}.png,0"]
    Path("pairs.csv").write_text("\n".join([*lines, "gone.png,0.png,1"]))
    return Path("pairs.csv")


def test_a_file_of_pairs_as_a_person_asks(judged: Path, encoder: Encoder) -> None:
    pairs = read_pairs(judged)[:-1]
    distances = [int(hamming(*encoder.encode([pair.one, pair.other])[:, None])[0, 0]) for pair in pairs]
    plain = radii_of_pairs(distances, [pair.same for pair in pairs], 20)
    found = json.loads(run("radius", "--pairs", str(judged), "--json"))
    assert [row["precision"] for row in found["radii"]] == plain.precision
    assert [row["recall"] for row in found["radii"]] == plain.recall
    assert (found["pairs"], found["same"], found["images"], found["best_f1"]) == (8, 4, 12, plain.best)
    assert found["radii"][20]["expected_pairs"] == 66
    assert [image["reason"] for image in found["skipped"]] == ["no such file"]
    alone = json.loads(run("radius", "--pairs", str(judged), "--model", "model.pt", "--json"))
    assert alone["images"] is None
    assert [row["f1"] for row in alone["radii"]] == plain.f1
    result = runner.invoke(app, ["radius", "--pairs", str(judged), "--plots", "plots"])
    assert "skipped gone.png: no such file" in result.stderr
    assert f"Radius {plain.best} has the greatest F1" in result.stdout
    assert "4 of 8 pairs are the same" in result.stdout
    with Image.open("plots/radius.png") as plot:
        assert "hashfaiss" in str(plot.info)


def test_labels_of_an_index_as_a_person_asks(judged: Path, encoder: Encoder, photos: Path) -> None:
    found = json.loads(run("radius", "--json"))
    assert (found["judged"], found["pairs"], found["same"]) == ("labels", 12 * 11, 12 * 3)
    assert "estimated from 5 of 12 images" in run("radius", "--sample", "5", "--plots", "plots")
    assert Path("plots/radius.png").is_file()
    flat = encoder.to_index([str(path) for path in photos.rglob("*.png")])
    with pytest.raises(ArgumentError, match="no image of the index has a label"):
        evaluate_radius(flat)
    with pytest.raises(ArgumentError, match="an encoder alone has no labels"):
        evaluate_radius(encoder)
    with pytest.raises(ArgumentError, match="fewer than two images"):
        evaluate_radius(encoder.to_index([str(photos / "cat/1.png")]))
    with pytest.raises(HashfaissError, match=r"no pair can be read: of '/gone.png', no such file"):
        evaluate_radius(encoder, [Pair("/gone.png", "/gone.png", True)])
    assert "--model is for --pairs" in run("radius", "--model", "model.pt", code=2)
    assert "sample is -1" in run("radius", "--sample", "-1", code=2)
    Path("file").touch()
    assert "no folder that can be written" in run("radius", "--plots", "file", code=1)
