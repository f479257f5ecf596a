"""The page of near-duplicates, read as a browser reads it."""

from __future__ import annotations

import base64
import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pages import Page, thumbnail
from pictures import NOISE, encoded, posix
from PIL import Image

from hashfaiss.encoding.encoder import Encoder
from hashfaiss.errors import HashfaissError
from hashfaiss.library import duplicates_page, thumbnails
from hashfaiss.library.duplicates_page import write_duplicates_page
from hashfaiss.library.hits import Hit

RED, BLUE = (210, 40, 40), (30, 60, 200)
TIMES = "\N{MULTIPLICATION SIGN}"


def near(pixel: object, colour: tuple[int, int, int]) -> bool:
    return bool(np.abs(np.subtract(pixel, colour)).max() < 12)


def save(path: Path, colour: tuple[int, int, int] = RED, size: tuple[int, int] = (48, 36)) -> str:
    Image.new("RGB", size, colour).save(path)
    return str(path)


def group(*paths: str | None) -> tuple[Hit, ...]:
    return tuple(Hit(path, distance, (), 10 + distance) for distance, path in enumerate(paths))


def written(folder: Path, *groups: tuple[Hit, ...], radius: int = 2) -> Page:
    return Page.read(write_duplicates_page(folder / "page.html", groups, radius))


def test_groups_are_drawn_in_their_order(tmp_path: Path) -> None:
    tall = save(tmp_path / "tall.png", BLUE, (300, 1200))
    wide = save(tmp_path / "wide.png", RED, (400, 100))
    tiny = save(tmp_path / "tiny.png", RED, (8, 6))
    page = written(tmp_path, group(tall, wide), group(tiny, wide, tall))
    assert page.texts("h1") == ["Near-duplicate images"]
    assert page.texts("p", "found") == ["2 groups of 5 images within Hamming distance 2"]
    assert page.texts("h2") == ["Group 1 2 images", "Group 2 3 images"]
    assert page.paths() == [[tall, wide], [tiny, wide, tall]]
    assert page.texts("p", "path") == [tall, wide, tiny, wide, tall]
    distances = ["distance 0 first", "distance 1", "distance 0 first", "distance 1", "distance 2"]
    assert page.texts("p", "distance") == distances
    facts = [
        f"{width:,} {TIMES} {height:,} · {duplicates_page._bytes(os.path.getsize(path))}"
        for path, width, height in ((tall, 300, 1200), (wide, 400, 100), (tiny, 8, 6))
    ]
    assert page.texts("p", "facts") == [facts[at] for at in (0, 1, 2, 1, 0)]
    images = page.of("img")
    assert [thumbnail(image).size for image in images] == [(40, 160), (160, 40), (160, 120), (160, 40), (40, 160)]
    colours = [BLUE, RED, RED, RED, BLUE]
    assert all(near(thumbnail(image).getpixel((20, 20)), colour) for image, colour in zip(images, colours, strict=True))
    assert [image["alt"] for image in images[:2]] == ["Thumbnail of tall.png", "Thumbnail of wide.png"]


def test_thumbnails_are_upright_and_tell_nothing_else(tmp_path: Path) -> None:
    pixels = np.zeros((60, 120, 3), np.uint8)
    pixels[:, :60], pixels[:, 60:] = RED, BLUE
    about = Image.Exif()
    about[0x0112] = 6  # to be turned a quarter right
    about[0x010E] = "taken at home"
    path = tmp_path / "turned.jpg"
    path.write_bytes(encoded(pixels, "JPEG", exif=about, quality=95))
    page = written(tmp_path, group(str(path), str(path)))
    made = thumbnail(page.of("img")[0])
    assert made.size == (80, 160)
    assert near(made.getpixel((40, 20)), RED)
    assert near(made.getpixel((40, 140)), BLUE)
    assert page.texts("p", "facts")[0].startswith(f"60 {TIMES} 120 ·")
    data = base64.b64decode(page.of("img")[0]["src"].split(",")[1])
    assert b"home" in path.read_bytes()
    assert b"home" not in data
    assert b"Exif" not in data


@posix
def test_no_name_gets_out_of_its_place(tmp_path: Path) -> None:
    names = [b"<script>alert(1).png", b"\"quotes\" onerror='x'.png", b"&lt;&amp;.png"]
    names += [b"]]><!--.png", b"two\nlines\r.png", b"latin-\xe9t\xe9.png", b"  spaces  .png", "größe-日本.png".encode()]
    names += ["turned-\u202egnp.exe.png".encode(), b"-->.png"]
    hostile = os.fsencode(tmp_path) + b"/<b title='/"
    os.mkdir(hostile)
    paths = [os.fsdecode(hostile + name) for name in names]
    for path in paths:
        Path(path).write_bytes(encoded(NOISE, "PNG"))
    page = written(tmp_path, group(*paths), group(os.fsdecode(b"/gone/</textarea><script>\xff"), None))
    assert len(page.of("img")) == len(names)
    assert not [tag for tag, _, _ in page.elements if tag in ("script", "link", "iframe", "a", "object")]
    assert not [name for _, about, _ in page.elements for name in about if name.startswith("on")]
    shown = [os.fsdecode(name) for name in names]
    shown[4], shown[5], shown[8] = "two\\nlines\\r.png", "latin-\\udce9t\\udce9.png", "turned-\\u202egnp.exe.png"
    folder = os.fsdecode(hostile)
    assert page.paths()[0] == [folder + name for name in shown]
    assert page.texts("p", "path")[: len(names)] == [folder + name for name in shown]
    assert [image["alt"] for image in page.of("img")] == [f"Thumbnail of {name}" for name in shown]
    assert page.paths()[1] == ["/gone/</textarea><script>\\udcff"]
    assert len([note for note in page.texts("p") if "written as an escape" in note]) == 2


def test_what_cannot_be_read_is_grey_with_the_reason(tmp_path: Path) -> None:
    sound, gone = save(tmp_path / "sound.png"), str(tmp_path / "gone.png")
    damaged, empty = tmp_path / "damaged.jpg", tmp_path / "empty.png"
    damaged.write_bytes(encoded(NOISE, "JPEG")[:300])
    empty.write_bytes(b"")
    page = written(tmp_path, group(gone, str(damaged), sound, str(empty), str(tmp_path), None))
    missing = page.texts("div", "frame missing")
    assert missing[0] == "no such file"
    assert missing[1].startswith("damaged: ")
    assert missing[2:] == ["empty file", "not a regular file", "in memory"]
    assert len(page.of("li")) == 6
    assert [about["alt"] for about in page.of("img")] == ["Thumbnail of sound.png"]
    facts = page.texts("p", "facts")
    assert [facts[0], facts[2]] == ["300 bytes", "0 bytes"]
    assert len(facts) == 3
    assert page.texts("p", "path")[5] == "image 15"
    assert len(page.paths()[0]) == 5


def test_of_many_the_first_are_drawn_and_the_rest_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.png")
    monkeypatch.setattr(duplicates_page, "MOST_GROUPS", 2)
    monkeypatch.setattr(duplicates_page, "MOST_IMAGES", 3)
    groups = [group(*[path] * size) for size in (15, 3, 2, 1004)]
    page = written(tmp_path, *groups)
    assert page.texts("p", "found") == ["4 groups of 1,024 images within Hamming distance 2"]
    assert page.texts("h2") == ["Group 1 15 images", "Group 2 3 images"]
    assert len(page.of("li")) == len(page.of("img")) == 6
    assert [len(paths) for paths in page.paths()] == [3, 3]
    assert page.texts("summary") == ["Paths of group 1 as text (the first 3)", "Paths of group 2 as text"]
    assert page.texts("p", "more") == ["and 12 more images", "and 2 more groups of 1,006 images"]
    assert "Only the first 2 groups and the first 3 images of a group are drawn" in page.texts("p", "about")[1]

    images_only = written(tmp_path, group(*[path] * 4), groups[1])
    assert images_only.texts("p", "more") == ["and 1 more image"]
    assert "Only the first 3 images of a group are drawn" in images_only.texts("p", "about")[1]
    groups_only = written(tmp_path, *groups[1:3], groups[2])
    assert groups_only.texts("p", "more") == ["and 1 more group of 2 images"]
    assert "Only the first 2 groups are drawn" in groups_only.texts("p", "about")[1]
    all_drawn = written(tmp_path, *groups[1:3])
    assert all_drawn.texts("p", "more") == []
    assert "Only" not in "".join(all_drawn.texts("p", "about"))


def test_groups_beyond_the_first_take_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates_page, "MOST_GROUPS", 2)
    monkeypatch.setattr(duplicates_page, "MOST_IMAGES", 2)

    def many(count: int) -> Iterator[tuple[Hit, ...]]:
        for number in range(count):
            yield group(*(f"/gone/{number}-{place}{'x' * 1000}" for place in range(10)))

    write_duplicates_page(tmp_path / "page.html", many(3), 0)  # what is loaded once is not counted
    tracemalloc.start()
    write_duplicates_page(tmp_path / "page.html", many(3000), 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000  # of 30 MB


def test_no_duplicates_are_said(tmp_path: Path) -> None:
    page = written(tmp_path, radius=3)
    assert page.texts("p", "found") == ["No duplicates: no two images have codes within Hamming distance 3."]
    assert page.texts("p", "about") == ["Nothing has been deleted."]
    assert not page.of("section")
    assert "no two images have the same code." in written(tmp_path, radius=0).source


def test_page_needs_nothing_and_is_for_everybody(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png")
    page = written(tmp_path, group(path, path))
    metas = {about.get("http-equiv") or about.get("name") or "charset": about for about in page.of("meta")}
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert metas["Content-Security-Policy"]["content"] == policy
    assert metas["viewport"]["content"] == "width=device-width, initial-scale=1"
    assert next(about for tag, about, _ in page.elements if tag == "html")["lang"] == "en"
    assert "prefers-color-scheme: dark" in page.source
    assert "://" not in page.source
    assert "url(" not in page.source
    assert "Nothing has been deleted" in page.source
    (section,) = page.of("section")
    (title,) = page.of("h2")
    assert section["aria-labelledby"] == title["id"]
    (paths,) = page.of("textarea")
    assert "readonly" in paths
    assert paths["aria-label"] == "Paths of group 1"


def test_same_page_whatever_the_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = [
        group(*(save(tmp_path / f"{row}-{place}.png", (9 * row, 200, 30 * place)) for place in range(5)))
        for row in range(4)
    ]
    told: list[tuple[int, int]] = []
    one = write_duplicates_page(tmp_path / "one.html", groups, 1, lambda *at: told.append(at))
    assert told == [(done, 20) for done in range(1, 21)]
    monkeypatch.setattr(thumbnails, "MOST_THREADS", 1)
    other = write_duplicates_page(tmp_path / "other.html", iter(groups), 1)
    assert one.read_bytes() == other.read_bytes()


def test_page_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.html"
    page.write_text("before")

    def broken() -> Iterator[tuple[Hit, ...]]:
        yield group("a.png", "b.png")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_duplicates_page(page, broken(), 0)
    with pytest.raises(HashfaissError, match=r"cannot write the page '.*gone/page.html': No such file"):
        write_duplicates_page(tmp_path / "gone/page.html", [], 0)

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(HashfaissError, match="No space left on device"):
        write_duplicates_page(page, [], 0)
    assert page.read_text() == "before"
    assert os.listdir(tmp_path) == ["page.html"]


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (999, "999 bytes"),
        (1000, "1.00 kB"),
        (9_994, "9.99 kB"),
        (9_996, "10.0 kB"),
        (99_960, "100 kB"),
        (999_499, "999 kB"),
        (999_500, "1.00 MB"),
        (31_240_000, "31.2 MB"),
    ],
)
def test_sizes_have_three_figures(size: int, text: str) -> None:
    assert duplicates_page._bytes(size) == text


def test_groups_of_an_index(encoder: Encoder, photos: Path, tmp_path: Path) -> None:
    (photos / "dog/copy.jpg").write_bytes((photos / "cat/2.jpg").read_bytes())
    index = encoder.to_index(photos)
    groups = list(index.duplicates(1))
    page = Page.read(write_duplicates_page(tmp_path / "page.html", index.duplicates(1), 1))
    assert page.paths() == [[hit.path for hit in group] for group in groups]
    assert len(page.of("img")) == sum(map(len, groups))
    assert any(str(photos / "dog/copy.jpg") in paths for paths in page.paths())
