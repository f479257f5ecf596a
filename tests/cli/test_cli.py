"""The command line, as a person or a pipe uses it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from commands import run, runner

from hashfaiss.cli import app
from hashfaiss.encoding.encoder import Encoder
from hashfaiss.library.image_index import ImageIndex
from hashfaiss.train.methods import METHODS

ROOT = Path(__file__).parents[2]
COMMANDS = sorted(
    [
        *(command.name or command.callback.__name__ for command in app.registered_commands),  # type: ignore[union-attr]
        *(
            f"{group.name} {command.name}"
            for group in app.registered_groups
            for command in group.typer_instance.registered_commands  # type: ignore[union-attr]
        ),
    ]
)


def test_help_needs_no_torch_and_answers_at_once() -> None:
    code = "import sys; from hashfaiss.cli import app; app(['--help'], standalone_mode=False); print(*sys.modules)"
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert "Usage" in printed
    assert not {"torch", "faiss", "numpy", "rich"} & set(printed.split())


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_an_example_and_a_place_in_the_pages(command: str) -> None:
    text = run(*command.split(), "--help")
    assert "Usage: hashfaiss" in text or "Usage: root" in text
    assert f"hashfaiss {command}" in text
    assert any(f"hashfaiss {command}" in page.read_text() for page in (ROOT / "docs").glob("*.md"))


def test_methods_are_listed() -> None:
    lines = run("methods").splitlines()
    assert sum(line.split()[:1] == [name] for line in lines for name in METHODS) == len(METHODS)
    told = [json.loads(line) for line in run("methods", "--json").splitlines()]
    assert [method["name"] for method in told] == list(METHODS)
    assert told[0]["options"]["gamma"] == 0.1
    one = run("methods", "dbdh")
    assert re.search(r"ste +true", one)
    assert re.search(r"learning_rate +1e-05", one)


def test_bench_train_measures_both_in_one_run() -> None:
    asked = ["--backbone", "resnet-small", "--size", "16", "--batch", "8", "--batches", "2", "--rounds", "3"]
    found = json.loads(run("bench", "train", *asked, "--json"))
    assert len(found["trainer"]) == len(found["bare"]) == 3
    assert min(*found["trainer"], *found["bare"]) > 0
    ratios = [ours / bare for ours, bare in zip(found["trainer"], found["bare"], strict=True)]
    assert found["ratio"] == sorted(ratios)[1]
    assert "median" in run("bench", "train", *asked)


def test_version() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", run("--version"))


def test_build_then_nothing_to_do(here: Path, photos: Path) -> None:
    first = run("build", "--model", "model.pt", "--images", str(photos), "--index", "new.index")
    assert first.startswith("12 encoded, 0 unchanged, 0 removed, 0 skipped, ")
    again = run("build", "--model", "model.pt", "--images", str(photos), "--index", "new.index")
    assert again.startswith("0 encoded, 12 unchanged, 0 removed, 0 skipped, ")


def test_build_reports_what_it_left_out(here: Path, photos: Path) -> None:
    (photos / "cat" / "bad.jpg").write_bytes(b"no image")
    result = runner.invoke(app, ["build", "--model", "model.pt", "--images", str(photos), "--index", "photos.index"])
    assert result.exit_code == 0
    assert "1 skipped (see photos.index/skipped.jsonl)" in result.stdout
    assert "bad.jpg: not an image" in result.stderr
    (line,) = Path("photos.index/skipped.jsonl").read_text().splitlines()
    assert json.loads(line)["path"].endswith("bad.jpg")
    strict = run("build", "--model", "model.pt", "--images", str(photos), "--index", "s.index", "--strict", code=1)
    assert "bad.jpg" in strict


def test_evaluate_with_plots_and_json(here: Path, photos: Path) -> None:
    text = run("evaluate", "--index", "photos.index", "--plots", "plots")
    assert re.search(r"ids equal at every rank +100.00 %", text)
    assert sorted(path.name for path in Path("plots").iterdir()) == [
        "buckets.png",
        "health.png",
        "neighbours.png",
        "precision-recall-at.png",
        "precision-recall.png",
    ]
    report = json.loads(run("evaluate", "--index", "photos.index", "--json", "--queries", str(photos)))
    assert report["agreement"]["queries"] == 12
    assert report["leaks"] == 12
    assert 0 < report["retrieval"]["mean_average_precision"] <= 1


def test_evaluate_without_labels_shows_neighbours_or_what_they_take(here: Path, photos: Path) -> None:
    Path("flat").mkdir()
    for number, path in enumerate(sorted(photos.rglob("*.*"))):
        path.rename(f"flat/{number}{path.suffix}")
    run("build", "--model", "model.pt", "--images", "flat", "--index", "flat.index")
    text = run("evaluate", "--index", "flat.index", "--plots", "plots")
    assert "No labels on both sides: no retrieval metrics." in text
    assert re.search(r"Neighbours by the network's real features +12 images of the index", text)
    found = json.loads(run("evaluate", "--index", "flat.index", "--json"))["neighbours"]
    assert (found["images"], found["k"]) == (12, 10)
    shown = rf"recall@10 of float neighbours +{found['recall']:.4f} \(by chance 0\.9091\)"
    assert re.search(shown, text)
    assert sorted(path.name for path in Path("plots").iterdir()) == ["buckets.png", "health.png", "neighbours.png"]
    few = run("evaluate", "--index", "flat.index", "--sample", "2")
    assert re.search(r"No neighbours .* at least 3 of its images in the sample, unaltered\.", few)
    assert "Neighbours by" not in few
    Path("flat/0.jpg").write_bytes(b"")
    result = runner.invoke(app, ["evaluate", "--index", "flat.index"])
    assert "skipped flat/0.jpg: empty file" in result.stderr
    assert "11 images of the index" in result.stdout


def test_info_verify_remove(here: Path, photos: Path) -> None:
    assert json.loads(run("info", "--index", "photos.index", "--json"))["images"] == 12
    assert "sound" in run("verify", "--index", "photos.index")
    assert run("remove", str(photos / "cat"), "--index", "photos.index").startswith("4 removed, 8 left")
    (segment, *_) = Path("photos.index/codes").iterdir()
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 1
    segment.write_bytes(data)
    result = runner.invoke(app, ["verify", "--index", "photos.index"])
    assert result.exit_code == 1


WRONG = [
    (["query", "x.png", "-k", "0", "--index", "photos.index"], 2, "k is 0"),
    (["query", "x.png", "--radius", "-1", "--index", "photos.index"], 2, "radius is -1"),
    (["query", "x.png", "--radius", "1", "-k", "1", "--index", "photos.index"], 2, "both -k and --radius"),
    (["query", "x.png"], 1, "there is no index at"),
    (["query", "x.png", "--index", "photos.index", "--device", "cuda:99"], 2, "device 'cuda:99'"),
    (["build", "--model", "model.pt", "--images", "gone"], 2, "does not exist"),
    (["build", "--model", "model.pt", "--images", "empty"], 1, "holds no images"),
    (["build", "--model", "gone.pt", "--images", "empty"], 1, "cannot read the model"),
    (["build", "--model", "note.txt", "--images", "empty"], 1, "is not a hashfaiss model"),
    (["build", "--model", "model.pt", "--images", "photos", "--kind", "fast"], 2, "no index kind"),
    (["build", "--model", "model.pt", "--images", "photos", "--kind", ""], 2, "no index kind ''"),
    (["bench", "evaluate", "--queries", "0"], 2, "0 queries"),
    (["bench", "search", "--size", "9"], 2, "size is 9: give 10 or more"),
    (["build", "--model", "model.pt", "--images", "empty", "--labels", "gone.csv"], 1, "cannot read the label file"),
    (["build", "--model", "model.pt", "--images", "empty", "--labels", "names.csv"], 1, "none of them is in"),
    (["build", "--model", "other.pt", "--images", "empty", "--index", "photos.index"], 1, "made by another model"),
    (["query", "x.png", "--model", "other.pt", "--index", "photos.index"], 1, "made by another model"),
    (["train", "--images", "empty", "--bits", "0"], 2, "bits is 0"),
    (["train", "--images", "empty", "--bits", "4096"], 2, "bits is 4096"),
    (["train", "--images", "empty", "--weights", "none"], 1, "holds no images"),
    (["train", "--images", "empty", "--method", "magic"], 2, "unknown method"),
    (["train", "--images", "empty", "--labels", "names.csv", "--weights", "none"], 1, "none of them is in"),
    (["split", "--images", "empty", "--out", "s"], 1, "holds no images"),
    (["split", "--images", "photos", "--out", "s", "--protocol", "x"], 2, "unknown protocol 'x'"),
    (["train", "--images", "photos", "--recipe", "dhida-mnist"], 2, "there is no recipe 'dhida-mnist'"),
    (["train", "--method", "dhida"], 2, "give either --images"),
    (["methods", "magic"], 2, "unknown method 'magic'"),
    (["train", "--images", "photos", "--option", "gamma"], 2, "is not of the form name=value"),
    (["bench", "train", "--rounds", "0"], 2, "rounds is 0"),
    (["bench", "train", "--method", "itq"], 2, "itq is fitted, not trained"),
    (["evaluate", "--index", "photos.index", "--queries", "empty"], 2, "holds no image"),
    (["evaluate", "--index", "photos.index", "--norm", "x"], 2, "norm is 'x'"),
    (["evaluate", "--index", "photos.index", "--seed", "-1"], 2, "seed is -1"),
    (["evaluate", "--index", "photos.index", "--labels", "names.csv"], 2, "without queries"),
    (["build", "--model", "model.pt", "--images", "note.txt"], 2, "is a file"),
    (["evaluate", "--index", "empty"], 1, "there is no index at"),
    (["remove", "x.png", "--index", "photos.index"], 2, "no image at"),
]


@pytest.mark.parametrize(("arguments", "code", "sentence"), WRONG, ids=lambda value: str(value)[:60])
def test_wrong_input_gets_one_sentence(here: Path, arguments: list[str], code: int, sentence: str) -> None:
    Path("empty").mkdir()
    Path("note.txt").write_text("not a model")
    Path("names.csv").write_text("path,label\na.png,cat\n")
    other = Encoder.load("model.pt")
    next(other.network.parameters()).data.add_(1)
    other.save("other.pt")
    before = ImageIndex.open("photos.index").store.manifest
    printed = run(*arguments, code=code)
    assert sentence in printed
    assert "Traceback" not in printed
    assert printed.count("\n") == 1
    assert ImageIndex.open("photos.index").store.manifest == before
    assert not Path("hashfaiss.index").exists()


def test_numbers_of_any_size(here: Path, photos: Path) -> None:
    image, huge = str(next((photos / "cat").iterdir())), str(10**20)
    assert run("query", image, "--index", "photos.index", "-k", huge, "--json").count("\n") == 12
    assert run("query", image, "--index", "photos.index", "--radius", huge, "--json").count("\n") == 12
    assert "mAP@12" in run("evaluate", "--index", "photos.index", "--depth", huge, "-R", huge)


def test_wrong_usage_exits_with_2(here: Path) -> None:
    assert "Missing option" in run("build", code=2)
    assert "No such command" in run("biuld", code=2)


def test_a_reader_that_has_seen_enough_is_no_error(here: Path, photos: Path) -> None:
    image = str(next((photos / "cat").iterdir()))
    command = f"{sys.executable} -m hashfaiss query - --index photos.index --json -k 12 | head -n 1"
    done = subprocess.run(command, shell=True, input=f"{image}\n" * 400, capture_output=True, text=True)
    assert done.stdout.count("\n") == 1
    assert "Traceback" not in done.stderr


# A command line in which no dog is read before the file "go" is there, and that tells when images were encoded.
SLOW = """
import os, time
from hashfaiss.cli import app
from hashfaiss.encoding import pipeline
read, stream = pipeline.read_bytes, pipeline.encode_stream
def slow(path):
    while "/dog/" in path and not os.path.exists("go"):
        time.sleep(0.01)
    return read(path)
def told(*given, **named):
    for batch in stream(*given, **named):
        yield batch
        print("encoded some", flush=True)
pipeline.read_bytes, pipeline.encode_stream = slow, told
app(prog_name="hashfaiss")
"""


@pytest.mark.slow
def test_ctrl_c_ends_a_build_that_the_next_one_continues(here: Path, photos: Path) -> None:
    source = next((photos / "cat").glob("*.png"))
    for number in range(300):  # several batches before the dogs
        (photos / "cat" / f"copy{number}.png").write_bytes(source.read_bytes())
    command = [sys.executable, "-c", SLOW, "build", "--model", "model.pt", "--images", str(photos), "--device", "cpu"]
    building = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert building.stdout is not None
        assert building.stderr is not None
        assert building.stdout.readline() == "encoded some\n"
        building.send_signal(2)
        assert any("hashfaiss: stopped" in line for line in building.stderr)
        Path("go").touch()  # threads that read end only now
        building.communicate()
    finally:
        building.kill()
    assert building.returncode == 130
    kept = len(ImageIndex.open("hashfaiss.index"))
    assert 0 < kept < 312
    last = run("build", "--model", "model.pt", "--images", str(photos))
    # copies of what was committed take its code over: how many depends on when the signal came
    encoded, recognised = int(last.split()[0]), int(last.split(", ")[1].split()[0])
    assert encoded + recognised == 312 - kept
    assert f"recognised by their contents, {kept} unchanged, 0 removed" in last
