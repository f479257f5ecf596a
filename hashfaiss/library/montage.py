"""A contact sheet: each query and what was found for it, as wide as a screen."""

from __future__ import annotations

import io
import os
from collections.abc import Collection, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from hashfaiss.errors import HashfaissError, ImageError
from hashfaiss.files import write_atomic
from hashfaiss.images.decoding import read_image
from hashfaiss.images.sniffing import DRAWN_BY
from hashfaiss.library.hits import Hit, Hits
from hashfaiss.library.thumbnails import fitted
from hashfaiss.wording import counted, printable

WIDTH = 1200  # pixels, of which whole tiles are used
SIDES = (184, 128, 88)  # of a tile: the first with which the sheet has no more pixels than MOST_PIXELS
MOST_PIXELS = 100_000_000
GAP = 12
HEADING = 60
CAPTION = 38  # two lines below a tile
FRAME = 4
BADGE = 24  # how high it is
INK, QUIET, PAGE, GROUND, LINE = "#1d1c1a", "#63605a", "#ffffff", "#eceae5", "#dfdcd5"
RIGHT, WRONG, PLAIN, QUERY = "#2e9e4f", "#d03b3b", "#8a8a8a", "#1d1c1a"
MOST_HITS, MOST_ROWS = 50, 100
MOST_LETTERS = 400  # of a line, more than fit


def draw_montage(path: str | os.PathLike[str], answers: Sequence[Hits], known_labels: Collection[str] = ()) -> Path:
    """Write a section for each query as a PNG: the query, four tiles large, and its hits with their distances.

    The hits follow in rows, about 1,200 pixels wide in all. Where the query's folder is one of `known_labels`, the
    frame of a hit is green if it has that label and red if not. At most 50 hits of each of the first 100 queries are
    drawn; of very many, tiles are smaller.

    Raises:
        HashfaissError: `path` cannot be written.
    """
    answers = answers[:MOST_ROWS]
    grid = _grid([min(len(hits), MOST_HITS) for hits in answers])
    heights = [grid.height(len(hits[:MOST_HITS])) for hits in answers]
    sheet = Image.new("RGB", (grid.width, GAP + max(1, sum(heights))), PAGE)
    top = 0
    for hits, height in zip(answers, heights, strict=True):
        _section(sheet, grid, top, hits, _label(hits, known_labels))
        top += height
    return _save(sheet, path)


class _Grid(NamedTuple):
    """Tiles of so many pixels; the query takes the first two columns of the first two rows."""

    side: int

    @property
    def columns(self) -> int:
        return (WIDTH - GAP) // (self.side + GAP)

    @property
    def width(self) -> int:
        return GAP + self.columns * (self.side + GAP)

    @property
    def row(self) -> int:
        return self.side + CAPTION + GAP

    @property
    def query(self) -> int:
        """The side of its tile: its caption is as low as that of the hits beside it."""
        return self.row + self.side

    def height(self, hits: int) -> int:
        return HEADING + max(2, -(-(hits + 4) // self.columns)) * self.row

    def place(self, number: int) -> tuple[int, int]:
        """The corner of a hit's tile below the heading."""
        beside = self.columns - 2
        row, column = divmod(number, beside) if number < 2 * beside else divmod(number + 4, self.columns)
        column += 2 * (number < 2 * beside)
        return GAP + column * (self.side + GAP), HEADING + row * self.row


def _grid(hits: list[int]) -> _Grid:
    grids = [_Grid(side) for side in SIDES]
    fits = (grid for grid in grids if grid.width * sum(map(grid.height, hits)) <= MOST_PIXELS)
    return next(fits, grids[-1])


def _label(hits: Hits, known: Collection[str]) -> str | None:
    folder = os.path.basename(os.path.dirname(os.path.abspath(hits.query))) if hits.query else ""
    return folder if folder in known else None


def _section(sheet: Image.Image, grid: _Grid, top: int, hits: Hits, label: str | None) -> None:
    draw = ImageDraw.Draw(sheet)
    if top:
        draw.line((GAP, top, sheet.width - GAP, top), fill=LINE)
    room = sheet.width - 2 * GAP
    drawn = hits[:MOST_HITS]
    found = counted(len(hits), "hit") + (f", of which {len(drawn)} are drawn" if len(hits) > len(drawn) else "")
    found += ", certified exact" if hits.exact else ", not certified exact"
    _write(draw, (GAP, top + 10), hits.query or "(in memory)", 17, INK, room, bold=True, end=True)
    _write(draw, (GAP, top + 34), f"{found}; on each tile its Hamming distance", 13, QUIET, room)
    wide = 2 * grid.side + GAP
    _tile(sheet, (GAP, top + HEADING), (wide, grid.query), hits.query, QUERY)
    _badge(draw, (GAP, top + HEADING), "query", QUERY)
    _write(draw, (GAP, top + HEADING + grid.query + 4), label or "", 14, INK, wide)
    for number, hit in enumerate(drawn):
        left, down = grid.place(number)
        corner, colour = (left, top + down), _colour(label, hit)
        _tile(sheet, corner, (grid.side, grid.side), hit.path, colour)
        _badge(draw, corner, f"{hit.distance:,}", colour)
        name = os.path.basename(hit.path) if hit.path else f"image {hit.id}"
        below = top + down + grid.side + 4
        _write(draw, (left, below), f"{number + 1}  {', '.join(hit.labels)}", 14, INK, grid.side)
        _write(draw, (left, below + 18), name, 11, QUIET, grid.side)


def _colour(label: str | None, hit: Hit) -> str:
    if label is None or not hit.labels:
        return PLAIN
    return RIGHT if label in hit.labels else WRONG


def _tile(sheet: Image.Image, corner: tuple[int, int], size: tuple[int, int], path: str | None, colour: str) -> None:
    """An image in a frame, or why there is none."""
    left, top = corner
    draw = ImageDraw.Draw(sheet)
    draw.rectangle((left, top, left + size[0] - 1, top + size[1] - 1), fill=GROUND, outline=colour, width=FRAME)
    inner = min(size) - 2 * FRAME
    try:
        if path is None:
            raise ImageError(None, "in memory")
        image = fitted(Image.fromarray(read_image(path).permute(1, 2, 0).numpy()), inner)
        sheet.paste(image, (left + (size[0] - image.width) // 2, top + (size[1] - image.height) // 2))
    except ImageError as error:  # it may have gone since it was indexed
        _write(draw, (left + 3 * FRAME, top + size[1] // 2), error.reason, 12, QUIET, size[0] - 6 * FRAME)


def _badge(draw: ImageDraw.ImageDraw, corner: tuple[int, int], words: str, colour: str) -> None:
    font = _font(14, True)
    left, top = corner[0] + FRAME, corner[1] + FRAME
    wide = round(font.getlength(words)) + 14
    draw.rounded_rectangle((left, top, left + wide, top + BADGE), 6, fill=colour, corners=(False, False, True, False))
    draw.text((left + wide / 2, top + BADGE / 2), words, fill="white", font=font, anchor="mm")


def _write(
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    words: str,
    size: int,
    colour: str,
    room: int,
    bold: bool = False,
    end: bool = False,
) -> None:
    """Words on one line of so many pixels, of which the beginning, or the `end`, is kept where all are too long."""
    font = _font(size, bold)
    plain = shown = printable(words)
    if len(plain) > MOST_LETTERS:  # a query of very many images names them all
        plain = plain[-MOST_LETTERS:] if end else plain[:MOST_LETTERS]
    while plain and font.getlength(shown) > room:
        plain = plain[1:] if end else plain[:-1]
        shown = "…" + plain if end else plain + "…"
    draw.text(corner, shown, fill=colour, font=font)


@cache
def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which has the letters of more languages than Pillow's own."""
    from matplotlib import get_data_path

    return ImageFont.truetype(os.path.join(get_data_path(), f"fonts/ttf/DejaVuSans{'-Bold' * bold}.ttf"), size)


def _save(sheet: Image.Image, path: str | os.PathLike[str]) -> Path:
    target = Path(path)
    buffer = io.BytesIO()
    about = PngInfo()
    for name, value in DRAWN_BY.items():
        about.add_text(name, value)
    sheet.save(buffer, "PNG", pnginfo=about)
    try:
        write_atomic(target, buffer.getvalue())
    except OSError as error:
        raise HashfaissError(f"cannot write the montage {str(target)!r}: {error.strerror}") from None
    return target
