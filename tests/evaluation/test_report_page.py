"""The page of an evaluation, read as a browser reads it, and seen by one."""

from __future__ import annotations

import base64
import io
import os
import shutil
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from commands import run
from pages import Page, thumbnail
from pictures import posix
from PIL import Image

from hashfaiss.codes import hamming
from hashfaiss.encoding.encoder import Encoder
from hashfaiss.errors import ArgumentError, HashfaissError
from hashfaiss.evaluation import report_page
from hashfaiss.evaluation.confusion import confusions
from hashfaiss.evaluation.index_report import evaluate_index
from hashfaiss.evaluation.report_page import write_report
from hashfaiss.library.image_index import ImageIndex

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def written(index: ImageIndex, folder: Path, **asked: object) -> Page:
    return Page.read(write_report(folder / "report.html", evaluate_index(index, **asked), index))  # type: ignore[arg-type]


def titles(page: Page, kind: str) -> list[str]:
    return [about["title"] for about in page.of("li", kind)]


def test_confusions_are_counted_hit_by_hit() -> None:
    rng = np.random.default_rng(1)
    names = ["ant", "bee", "cat", "dog"]

    def draw() -> tuple[str, ...]:
        return tuple(name for name in names if rng.random() < 0.4)

    queries = [draw() for _ in range(30)]
    hits = [[draw() for _ in range(rng.integers(0, 6))] for _ in queries]
    found: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for asked in names:
        for other in names:
            for query, images in zip(queries, hits, strict=True):
                if asked in query:
                    found[asked, other] += [not set(query) & set(image) and other in image for image in images]
    plain = {pair: sum(told) / len(told) for pair, told in found.items() if any(told)}
    pairs = confusions(queries, hits)
    assert {(pair.asked, pair.found): pair.share for pair in pairs} == pytest.approx(plain)
    order = [(-pair.share, pair.asked, pair.found) for pair in pairs]
    assert order == sorted(order)
    assert all(pair.queries == sum(pair.asked in query for query in queries) for pair in pairs)
    assert confusions([("a",)], [[("a", "b"), ()]]) == []


def test_best_and_worst_queries_with_their_hits(encoder: Encoder, photos: Path, tmp_path: Path) -> None:
    index = encoder.to_index(photos, tmp_path / "x.index")
    report = evaluate_index(index)
    page = Page.read(write_report(tmp_path / "report.html", report, index))
    codes, _ = index.store.codes()
    paths = [index.store.full_path(row) or "" for _, row in index.store.rows()]
    assert report.retrieval is not None
    values = report.retrieval.average_precisions
    ranked = sorted(range(12), key=lambda row: (-values[row], row))
    chosen = [*ranked[::-1][:5], *ranked[:5]]  # the worst stand first
    assert titles(page, "asked") == [paths[row] for row in chosen]
    assert page.texts("h3") == [f"{Path(paths[row]).parent.name} AP {values[row]:.3f}" for row in chosen]
    distances = hamming(codes, codes)
    tiles = [(about["class"], about["title"]) for tag, about, _ in page.elements if tag == "li" and "class" in about]
    wanted = []
    for row in chosen:
        near = sorted((int(distances[row, other]), other) for other in range(12) if other != row)[:8]
        folder = Path(paths[row]).parent
        wanted.append(("asked", paths[row]))
        wanted += [("right" if Path(paths[at]).parent == folder else "wrong", paths[at]) for _, at in near]
    assert tiles == wanted
    first = [text for text in page.texts("p", "distance") if text != "query"][:8]
    assert [int(text.split()[1]) for text in first] == sorted(distances[chosen[0]].tolist())[1:9]
    pictures = [image for image in page.of("img") if image["src"].startswith("data:image/jpeg")]
    assert len(pictures) == 10 * 9
    assert all(max(thumbnail(image).size) == 160 for image in pictures)


def test_tables_curves_and_confused_classes(encoder: Encoder, photos: Path, tmp_path: Path) -> None:
    encoder.to_index(photos, tmp_path / "x.index")
    printed = run("evaluate", "--index", str(tmp_path / "x.index"), "--html", str(tmp_path / "r.html"))
    page = Page.read(tmp_path / "r.html")
    cells = [text.strip() for text in page.texts("td")]
    rows = [line for line in printed.splitlines() if line.startswith(" ") and "─" not in line]
    shown = {part.strip() for row in rows for part in row.split("  ")} - {""}
    assert len(shown) > 40
    assert shown <= {*cells, *page.texts("th")}
    plots = [image for image in page.of("img") if image["src"].startswith("data:image/png;base64,")]
    names = ["precision-recall", "neighbours", "buckets", "precision-recall-at", "health"]
    assert [plot["alt"] for plot in plots] == [f"Plot: {name}" for name in names]
    for plot in plots:
        with Image.open(io.BytesIO(base64.b64decode(plot["src"].split(",")[1], validate=True))) as image:
            assert image.width * int(plot["height"]) == pytest.approx(image.height * int(plot["width"]), rel=0.01)
    assert page.texts("th")[:4] == ["queries of", "find", "share of what they find", "queries"]
    shares = [float(cell[:-2]) for cell in cells[2:24:4]]
    assert shares == sorted(shares, reverse=True)
    assert set(cells[0:24:4]) | set(cells[1:24:4]) == {"bird", "cat", "dog"}


def test_held_out_queries_keep_all_their_hits(encoder: Encoder, photos: Path, tmp_path: Path) -> None:
    index = encoder.to_index(photos)
    queries = tmp_path / "held"
    for label in ("cat", "lynx"):
        (queries / label).mkdir(parents=True)
        shutil.copy(photos / "cat/0.jpg", queries / label / "a.jpg")
    shutil.copy(photos / "cat/2.jpg", queries / "cat/b.jpg")
    (queries / "cat/empty.png").touch()
    page = written(index, tmp_path, queries=queries)
    # nothing shows a lynx, so its query is not the worst
    assert sorted(titles(page, "asked")) == [str(queries / "cat/a.jpg"), str(queries / "cat/b.jpg")]
    assert "3 queries: held out" in page.texts("p", "found")[0]
    assert "Evaluation of an index in memory" in page.texts("h1")
    assert len(titles(page, "right") + titles(page, "wrong")) == 2 * report_page.DRAWN
    assert str(photos / "cat/0.jpg") in titles(page, "right")  # a copy of the query is not left out
    assert [str(queries / "cat/empty.png"), "empty file"] == page.texts("td")[-2:]


@posix
def test_nothing_gets_out_of_its_place_or_is_asked_of_others(encoder: Encoder, photos: Path, tmp_path: Path) -> None:
    hostile = photos / "<script>alert(1)"
    (photos / "cat").rename(hostile)
    strange = os.fsdecode(os.fsencode(hostile) + b"/\"'><img src=x onerror=y>\n\xff.png")
    os.rename(hostile / "1.png", strange)
    index = encoder.to_index(photos, tmp_path / '<b onload="x">.index')
    (photos / "dog/1.png").unlink()
    page = written(index, tmp_path)
    allowed = (
        "html head meta title style body header main h1 h2 h3 p section dl div dt dd img ul li figure figcaption span"
    )
    allowed += " table thead tbody tr th td"
    assert {tag for tag, _, _ in page.elements} <= set(allowed.split())
    assert not [key for _, about, _ in page.elements for key in about if key.startswith("on")]
    policies = [about["content"] for about in page.of("meta") if about.get("http-equiv") == "Content-Security-Policy"]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    assert all(image["src"].startswith("data:image/") for image in page.of("img"))
    assert "://" not in page.source
    assert "url(" not in page.source
    shown = [*titles(page, "asked"), *titles(page, "right"), *titles(page, "wrong")]
    assert strange.replace("\n", "\\n").replace("\udcff", "\\udcff") in shown
    assert "<script>alert(1)" in "".join(page.texts("td"))
    assert "no such file" in page.texts("div", "frame missing")
    assert page.texts("h1") == ['Evaluation of <b onload="x">.index']


def test_without_labels_there_are_curves_and_tables(encoder: Encoder, photos: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for number, path in enumerate(sorted(photos.rglob("*.*"))):
        path.rename(flat / f"{number}{path.suffix}")
    page = written(encoder.to_index(flat, tmp_path / "x.index"), tmp_path)
    assert page.texts("h2") == ["Curves", "All figures"]
    assert "No labels on both sides: no retrieval metrics." in "".join(page.texts("p", "about"))
    assert any(text.startswith("neighbours kept, recall@10") for text in page.texts("dt"))


def test_page_is_refused_before_the_work(
    encoder: Encoder, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = encoder.to_index(photos, tmp_path / "x.index")
    asked = ["evaluate", "--index", str(tmp_path / "x.index"), "--html"]
    assert "is no folder that can be written" in run(*asked, str(tmp_path / "gone/r.html"), code=1)
    assert "is a folder" in run(*asked, str(photos), code=1)
    report = evaluate_index(index)
    with pytest.raises(HashfaissError, match="cannot write the page"):
        write_report(tmp_path / "gone/r.html", report, index)
    report.__dict__["asked"] = None
    with pytest.raises(ArgumentError, match="the report has no queries"):
        write_report(tmp_path / "r.html", report, index)


@pytest.fixture
def browser() -> Iterator[object]:
    pytest.importorskip("playwright", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        with_root = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=with_root)
        yield browser
        browser.close()


@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_shows_it_whole_and_asks_for_nothing(
    browser, encoder: Encoder, photos: Path, tmp_path: Path, width: int
) -> None:
    written(encoder.to_index(photos, tmp_path / "x.index"), tmp_path)
    page = browser.new_context(viewport={"width": width, "height": 800}).new_page()
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("request", lambda request: asked.append(request.url))
    page.goto((tmp_path / "report.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("[...document.images].every(one => one.complete && one.naturalWidth > 0)")
    assert [url for url in asked if not url.startswith("data:")] == [(tmp_path / "report.html").as_uri()]
    assert said == []
