"""The contact sheet, looked at by its pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hashfaiss.errors import HashfaissError
from hashfaiss.library import montage
from hashfaiss.library.hits import Hit, Hits
from hashfaiss.library.montage import GAP, HEADING, draw_montage

GREEN, RED, GREY, BLACK = (0x2E, 0x9E, 0x4F), (0xD0, 0x3B, 0x3B), (0x8A, 0x8A, 0x8A), (0x1D, 0x1C, 0x1A)
SIDE, CAPTION = 184, 38


def colour(number: int) -> tuple[int, int, int]:
    return (10 + 9 * number, 200 - 7 * number, 60)


def hit(folder: Path, number: int, label: str = "cat") -> Hit:
    path = folder / label / f"{number}.png"
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", (30, 30), colour(number)).save(path)
    return Hit(str(path), number, (label,), number)


def drawn(folder: Path, answers: list[Hits], labels: set[str] | None = None) -> np.ndarray:
    with Image.open(draw_montage(folder / "sheet.png", answers, labels or set())) as sheet:
        return np.array(sheet.convert("RGB"))


def test_twenty_hits_fill_a_screen_beside_and_below_the_query(tmp_path: Path) -> None:
    query = hit(tmp_path, 25)
    hits = tuple(hit(tmp_path, number, "cat" if number % 3 else "dog") for number in range(20))
    pixels = drawn(tmp_path, [Hits(query.path, True, hits)], {"cat", "dog"})
    step = SIDE + GAP
    places = [(row, column) for row in (0, 1) for column in (2, 3, 4, 5)]
    places += [(row, column) for row in (2, 3) for column in range(6)]
    assert pixels.shape[1] == GAP + 6 * step <= 1200
    assert pixels.shape[0] == GAP + HEADING + 4 * (step + CAPTION)
    for number, (row, column) in enumerate(places):
        left, top = GAP + column * step, HEADING + row * (step + CAPTION)
        assert tuple(pixels[top + SIDE // 2, left + SIDE // 2]) == colour(number)
        frame = tuple(pixels[top + SIDE - 1, left + SIDE // 2])
        assert frame == (GREEN if number % 3 else RED)
        assert tuple(pixels[top + 5, left + 6]) == frame  # the badge of the distance
        assert (pixels[top : top + 30, left : left + 40] == 255).all(axis=-1).any()  # and what stands on it
    assert tuple(pixels[HEADING + step, GAP + SIDE]) == colour(25)
    assert tuple(pixels[HEADING, GAP]) == BLACK


def test_queries_are_sections_one_below_the_other(tmp_path: Path) -> None:
    first, second = hit(tmp_path, 1), hit(tmp_path, 2)
    answers = [Hits(first.path, True, (second,)), Hits(None, False, ()), Hits(second.path, True, (first,) * 9)]
    pixels = drawn(tmp_path, answers)
    step, beside = SIDE + GAP, GAP + 2 * (SIDE + GAP)
    two, three = (HEADING + rows * (step + CAPTION) for rows in (2, 3))
    assert pixels.shape[0] == GAP + 2 * two + three
    assert tuple(pixels[HEADING + SIDE // 2, beside + SIDE // 2]) == colour(2)
    assert tuple(pixels[HEADING, beside]) == GREY  # no label is known
    assert tuple(pixels[2 * two + HEADING + SIDE // 2, beside + SIDE // 2]) == colour(1)
    for top in (0, two, 2 * two):
        assert (pixels[top + 8 : top + 30, :600] < 100).any()  # its heading


def test_of_many_the_first_are_drawn_in_smaller_tiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(montage, "MOST_PIXELS", 5_000_000)
    monkeypatch.setattr(montage, "MOST_ROWS", 5)
    one = hit(tmp_path, 1)
    large = drawn(tmp_path, [Hits(one.path, True, (one,) * 60)] * 2)
    small = drawn(tmp_path, [Hits(one.path, True, (one,) * 60)] * 9)
    assert large.shape[0] * large.shape[1] <= 5_000_000
    assert large.shape[1] == GAP + 8 * (128 + GAP)
    assert large.shape[0] == GAP + 2 * (HEADING + 7 * (128 + CAPTION + GAP))  # 50 hits and four tiles, by eights
    assert small.shape[1] == GAP + 11 * (88 + GAP)
    assert small.shape[0] == GAP + 5 * (HEADING + 5 * (88 + CAPTION + GAP))


def test_what_cannot_be_read_and_names_of_any_kind_have_their_tiles(tmp_path: Path) -> None:
    names = ["/gone/" + "long" * 200 + ".jpg", "/gone/\ud800\n\u202e.png", None]
    hits = tuple(Hit(name, 5, ("größe", "日本"), 3) for name in names)
    pixels = drawn(tmp_path, [Hits("/gone/" + "way/" * 100_000 + "query.jpg", True, hits)], {"größe"})
    tile = pixels[HEADING + 4 : HEADING + SIDE - 4, GAP + 2 * (SIDE + GAP) + 4 : GAP + 3 * (SIDE + GAP) - GAP - 4]
    assert tuple(tile[-1, 0]) == (0xEC, 0xEA, 0xE5)
    assert (tile[SIDE // 2 - 10 :] < 150).any()  # the reason
    assert (pixels[:, -GAP:] == 255).all()  # nothing is written beyond the edge
    with pytest.raises(HashfaissError, match="cannot write the montage"):
        draw_montage(tmp_path / "gone/sheet.png", [])
    assert drawn(tmp_path, []).shape[1] == GAP + 6 * (SIDE + GAP)
