"""Commands that ask an index: query, duplicates, and what they draw."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from commands import run, runner
from PIL import Image

from hashfaiss.cli import app


def test_query_table_and_json_agree(here: Path, photos: Path) -> None:
    image = str(next((photos / "cat").iterdir()))
    table = run("query", image, "--index", "photos.index", "-k", "3")
    assert "3 hits, certified exact" in table
    lines = [
        json.loads(line) for line in run("query", image, "--index", "photos.index", "-k", "3", "--json").splitlines()
    ]
    assert [line["rank"] for line in lines] == [1, 2, 3]
    assert lines[0]["path"] == image
    assert lines[0]["distance"] == 0
    assert lines[0]["labels"] == ["cat"]
    assert all(line["exact"] for line in lines)
    for line in lines:
        assert os.path.relpath(line["path"]) in table


def test_query_radius_is_inclusive(here: Path, photos: Path) -> None:
    image = str(next((photos / "cat").iterdir()))
    asked = ["query", image, "--index", "photos.index", "--json"]
    everything = [json.loads(line)["distance"] for line in run(*asked, "-k", "12").splitlines()]
    for radius in (0, 3, 20):
        within = [json.loads(line)["distance"] for line in run(*asked, "--radius", str(radius)).splitlines()]
        assert within == [distance for distance in everything if distance <= radius]


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\0"])
def test_query_reads_paths_from_stdin(here: Path, photos: Path, end: str, last: bool) -> None:
    images = sorted(str(path) for path in (photos / "dog").iterdir())
    given = end.join(images) + end * last
    printed = run("query", "-", "--index", "photos.index", "-k", "1", "--json", stdin=given)
    assert [json.loads(line)["query"] for line in printed.splitlines()] == images


def test_paths_ended_by_nul_may_hold_line_ends(here: Path, photos: Path) -> None:
    strange = photos / "dog" / "two\nlines\r"
    (photos / "dog/0.jpg").rename(strange)
    asked = ["query", "-", "--index", "photos.index", "-k", "1", "--json"]
    printed = run(*asked, stdin=f"{strange}\0{photos / 'dog/1.png'}\0")
    assert [json.loads(line)["query"] for line in printed.splitlines()] == [str(strange), str(photos / "dog/1.png")]


def test_what_is_to_be_done_with_duplicates_is_asked_whole(here: Path) -> None:
    asked = ["duplicates", "--index", "photos.index"]
    for alone in (["--keep", "oldest"], ["--no-dry-run"]):
        assert "give --move-to DIR or --hard-link as well" in run(*asked, *alone, code=2)
    assert "'model.pt' is a file: give a folder" in run(*asked, "--move-to", "model.pt", code=2)


def test_what_cannot_be_drawn_is_told_before_the_work(here: Path, photos: Path) -> None:
    asked = ["query", "gone.png", "--index", "photos.index"]
    assert "'gone' is no folder" in run(*asked, "--montage", "gone/hits.png", code=1)
    (here / "folder.png").mkdir()
    assert "'folder.png' is a folder" in run(*asked, "--montage", "folder.png", code=1)
    assert "give it a name that ends in .png" in run(*asked, "--montage", "hits.jpg", code=2)
    assert not (here / "hits.jpg").exists()
    assert "'gone' is no folder" in run("duplicates", "--index", "gone.index", "--html", "gone/page.html", code=1)
    assert "'photos.index' is a folder" in run("duplicates", "--index", "gone.index", "--html", "photos.index", code=1)
    assert "model.pt' is no folder" in run("evaluate", "--index", "photos.index", "--plots", "model.pt/plots", code=1)


@pytest.mark.skipif(os.name != "posix", reason="SIGPIPE is of POSIX")
def test_a_reader_who_has_seen_enough(here: Path, photos: Path) -> None:
    asked = f"yes {photos / 'dog/0.jpg'} | {sys.executable} -m hashfaiss query - --index photos.index --json"
    command = f"{asked} | head -n 1; echo ${{PIPESTATUS[1]}}"  # without end, so that no pipe is large enough
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (done.stdout.splitlines()[1], done.stderr) == ("141", "")


def test_query_goes_on_after_an_unreadable_image(here: Path, photos: Path) -> None:
    image = str(next((photos / "cat").iterdir()))
    result = runner.invoke(app, ["query", "gone.jpg", image, "--index", "photos.index", "--json", "-k", "1"])
    assert result.exit_code == 1
    assert "gone.jpg': no such file" in result.stderr
    assert json.loads(result.stdout)["query"] == image


def test_query_among_some_exactly_and_reranked(here: Path, photos: Path) -> None:
    asked = [str(photos / "cat/0.jpg"), "--index", "photos.index", "-k", "20", "--json"]
    some = [json.loads(line) for line in run("query", *asked, "--label", "cat", "--label", "dog").splitlines()]
    assert len(some) == 8
    assert {tuple(hit["labels"]) for hit in some} == {("cat",), ("dog",)}
    png = [json.loads(line) for line in run("query", *asked, "--path", "cat/*.png").splitlines()]
    assert {Path(hit["path"]).name for hit in png} == {"1.png", "3.png"}
    assert all(hit["exact"] for hit in png)
    ordered = [json.loads(line) for line in run("query", *asked, "--rerank", "asymmetric").splitlines()]
    scores = [hit["asymmetric_distance"] for hit in ordered]
    assert (len(scores), scores) == (12, sorted(scores))
    table = run("query", *asked[:-1], "--rerank", "asymmetric")
    assert "asymmetric" in table
    assert f"{scores[-1]:.3f}" in table


def test_query_by_id_and_with_several_images_at_once(here: Path, photos: Path) -> None:
    cat, dog, at = str(photos / "cat/0.jpg"), str(photos / "dog/0.jpg"), ["--index", "photos.index", "--json"]
    number = json.loads(run("query", cat, *at, "-k", "1"))["id"]
    by_id = json.loads(run("query", "--id", str(number), *at, "-k", "1"))
    assert (by_id["id"], by_id["distance"], by_id["query"]) == (number, 0, cat)
    both = [json.loads(line) for line in run("query", cat, dog, *at, "-k", "3").splitlines()]
    assert [hit["query"] for hit in both] == [cat] * 3 + [dog] * 3  # one by one
    together = [json.loads(line) for line in run("query", cat, dog, *at, "-k", "3", "--combine").splitlines()]
    assert [hit["query"] for hit in together] == [f"{cat} + {dog}"] * 3
    away = run("query", cat, "--not", dog, "--not", str(photos / "bird/0.jpg"), "--index", "photos.index")
    assert "photos/cat/0.jpg - photos/dog/0.jpg - photos/bird/0.jpg: 10 hits, certified exact" in away
    assert "nothing to ask with" in run("query", "--index", "photos.index", code=2)
    assert "gone.jpg" in run("query", cat, "--not", "gone.jpg", "--index", "photos.index", code=1)


def test_query_is_exact_unless_asked_otherwise(here: Path, photos: Path) -> None:
    run("build", "--model", "model.pt", "--images", str(photos), "--index", "photos.index", "--kind", "hash:b=12")
    asked = [str(photos / "cat/0.jpg"), "--index", "photos.index"]
    assert "12 hits, certified exact" in run("query", *asked, "-k", "12")
    assert "not certified exact" in run("query", *asked, "-k", "12", "--approximate")
    assert "certified exact" in run("query", *asked, "--radius", "20")
    assert "not certified exact" in run("query", *asked, "--radius", "20", "--approximate")
    assert "No such option" in run("query", *asked, "--exact", code=2)
    assert "exact by default" in run("info", "--index", "photos.index")


def test_duplicates_are_listed_by_group(here: Path, photos: Path) -> None:
    (photos / "dog/copy.jpg").write_bytes((photos / "cat/2.jpg").read_bytes())
    run("build", "--model", "model.pt", "--images", str(photos), "--index", "photos.index")
    lines = [json.loads(line) for line in run("duplicates", "--index", "photos.index", "--json").splitlines()]
    groups = [{Path(image["path"]).name for image in line["images"]} for line in lines]
    assert any({"2.jpg", "copy.jpg"} <= group for group in groups)
    assert [line["group"] for line in lines] == list(range(1, len(lines) + 1))
    table = run("duplicates", "--index", "photos.index", "--radius", "20")
    assert "group 1: 13 images" in table
    assert "1 group of 13 images within distance 20" in table
    told = run("duplicates", "--index", "photos.index", "--radius", "21", code=2)
    assert "radius is 21: give a whole number from 0 to 20" in told


def test_duplicates_across_folders_and_near_one(here: Path, photos: Path) -> None:
    (photos / "dog/copy.jpg").write_bytes((photos / "cat/2.jpg").read_bytes())
    run("build", "--model", "model.pt", "--images", str(photos), "--index", "photos.index")
    asked = ["duplicates", "--index", "photos.index", "--json"]
    for how in (["--between", str(photos / "cat"), str(photos / "dog")], ["--reference", str(photos / "cat")]):
        lines = [json.loads(line) for line in run(*asked, *how, "--radius", "0").splitlines()]
        groups = [{Path(image["path"]).name for image in line["images"]} for line in lines]
        assert any({"2.jpg", "copy.jpg"} <= group for group in groups)
    assert run(*asked, "--link", "complete", "--radius", "20") == run(*asked, "--radius", "20")
    assert "link is 'x': give chain or complete" in run(*asked, "--link", "x", code=2)
    assert "no image below 'cow'" in run(*asked, "--reference", "cow", code=2)


def test_duplicates_are_drawn_as_a_page_beside_what_is_printed(here: Path, photos: Path) -> None:
    asked = ["duplicates", "--index", "photos.index"]
    everything = [*asked, "--radius", "20"]
    for more in ([], ["--json"]):
        drawn = runner.invoke(app, [*everything, *more, "--html", "page.html"])
        assert drawn.exit_code == 0
        assert drawn.stdout == run(*everything, *more)
        assert drawn.stderr == "page: page.html\n"
        page = Path("page.html").read_text()
        assert "1 group of 12 images within Hamming distance 20" in page
        assert page.count("<img ") == 12
        assert str(photos / "dog/0.jpg") in page
        Path("page.html").unlink()
    run("remove", str(photos), "--index", "photos.index")
    assert "0 groups of 0 images" in run(*asked, "--html", "page.html")
    assert "No duplicates" in Path("page.html").read_text()
    assert "radius is 21" in run(*asked, "--radius", "21", "--html", "other.html", code=2)
    assert not Path("other.html").exists()


def test_montage_is_a_sheet_of_query_and_hits(here: Path, photos: Path) -> None:
    image = next((photos / "cat").iterdir())
    run("query", str(image), "--index", "photos.index", "-k", "4", "--montage", "hits.png")
    with Image.open("hits.png") as sheet:
        colours = {colour for _, colour in sheet.convert("RGB").getcolors(1 << 24)}
        assert 1100 < sheet.width <= 1200
    assert (0x2E, 0x9E, 0x4F) in colours  # the query itself is indexed: at least one hit is right


def test_names_of_any_bytes_survive_the_pipe(here: Path, photos: Path) -> None:
    strange = os.fsencode(photos / "cat") + b"/new\nline-\xff[red].png"
    Path(os.fsdecode(strange)).write_bytes(next((photos / "cat").glob("*.png")).read_bytes())
    run("build", "--model", "model.pt", "--images", str(photos), "--index", "photos.index")
    asked = ["query", os.fsdecode(strange), "--index", "photos.index", "-k", "12"]
    paths = [json.loads(line)["path"] for line in run(*asked, "--json").splitlines()]
    assert strange in [os.fsencode(path) for path in paths]
    assert "new\\nline-\\udcff[red].png" in run(*asked).replace("\n", "")
