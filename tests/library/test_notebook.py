"""Hits and progress bars in notebooks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from kernels_of_notebooks import run_notebook, shown, written
from pages import Page, thumbnail
from pictures import NOISE, encoded, posix

from hashfaiss.encoding.encoder import Encoder
from hashfaiss.library import notebook
from hashfaiss.library.hits import Hit, Hits


def badges(page: Page) -> list[str]:
    return ["".join(text) for _, about, text in page.elements if about.get("style") == notebook.BADGE]


def tiles(page: Page) -> list[dict[str, str]]:
    return [about for _, about, _ in page.elements if "title" in about]


def test_hits_are_tiles_with_distances(encoder: Encoder, photos: Path) -> None:
    index = encoder.to_index(photos)
    hits = index.query(str(photos / "cat/0.jpg"), k=5)
    page = Page(hits._repr_html_())
    assert badges(page) == [str(hit.distance) for hit in hits]
    assert [tile["title"] for tile in tiles(page)] == [hit.path for hit in hits]
    query, *found = page.of("img")
    assert query["src"] == found[0]["src"]
    assert max(thumbnail(query).size) == notebook.SIDE
    assert [image["alt"] for image in found] == [f"Thumbnail of {os.path.basename(hit.path or '')}" for hit in hits]
    text = page.texts("div")[0]
    assert str(photos / "cat/0.jpg") in text
    assert "5 hits, certified exact; on each its Hamming distance" in text
    assert all(label in text for hit in hits for label in hit.labels)


@posix
def test_nothing_gets_out_of_its_place_or_is_asked_of_others(tmp_path: Path) -> None:
    name = os.fsdecode(os.fsencode(tmp_path) + b"/'\"><script>alert(1)\n\xff.png")
    Path(name).write_bytes(encoded(NOISE, "PNG"))
    hits = Hits(name, False, (Hit(name, 3, ("<b>", '" onload="x'), 7), Hit(None, 4, (), 8), Hit("/gone.png", 5, (), 9)))
    page = Page(hits._repr_html_())
    assert not [tag for tag, _, _ in page.elements if tag not in {"div", "span", "b", "br", "img"}]
    assert not [key for _, about, _ in page.elements for key in about if key.startswith("on")]
    assert tiles(page)[0]["title"] == name.replace("\n", "\\n").replace("\udcff", "\\udcff")
    assert "not certified exact" in page.texts("div")[0]
    assert '<b>, " onload="x' in page.texts("div")[0]
    assert "image 8" in page.texts("div")[0]
    assert len(page.of("img")) == 2
    assert all(image["src"].startswith("data:image/jpeg;base64,") for image in page.of("img"))
    assert "://" not in page.source
    assert "<style" not in page.source  # it would change the page around it
    reasons = [text for text in page.texts("span") if text in ("in memory", "no such file")]
    assert reasons == ["in memory", "no such file"]


def test_of_many_the_first_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notebook, "MOST_HITS", 3)
    hits = Hits(None, True, tuple(Hit(None, distance, (), distance) for distance in range(7)))
    page = Page(hits._repr_html_())
    assert badges(page) == ["0", "1", "2"]
    assert "7 hits, of which the first 3 are drawn" in page.texts("div")[0]
    assert "0 hits" in Hits(None, True, ())._repr_html_()


def test_a_kernel_shows_hits_and_one_line_of_progress(tmp_path: Path) -> None:
    cells = [
        "import sys, hashfaiss.library.progress as progress\n"
        "progress.IN_NOTEBOOK = 0\n"
        "with progress.bar('encode') as call:\n    for done in (1, 2, 3):\n        call(done, 3)\n"
        "'torch' in sys.modules",
        "from hashfaiss import Hit, Hits\nHits(None, True, (Hit(None, 6, (), 1),))",
    ]
    about = {"cell_type": "code", "execution_count": None, "outputs": [], "metadata": {}}
    made = [{**about, "id": f"c{number}", "source": source} for number, source in enumerate(cells)]
    progress, hits = run_notebook({"cells": made, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}, tmp_path)
    lines = written(progress, "stderr").split("\r")  # each is written over the one before
    assert lines[0] == ""
    assert [line.split("(")[0] for line in lines[1:]] == [f"encode: {n} of 3 " for n in (1, 2, 3, 3)]
    assert [line.count("\n") for line in lines] == [0, 0, 0, 0, 1]
    assert len({len(line.rstrip("\n")) for line in lines[1:]}) == 1
    assert badges(Page(shown(hits, "text/html"))) == ["6"]
    assert shown(hits, "text/plain").startswith("Hits(query=None")
