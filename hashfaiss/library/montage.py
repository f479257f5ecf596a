"""A contact sheet: each query and what was found for it."""

from __future__ import annotations

import io
import os
from collections.abc import Collection, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from hashfaiss.errors import HashfaissError, ImageError
from hashfaiss.files import write_atomic
from hashfaiss.images.decoding import read_image
from hashfaiss.images.sniffing import DRAWN_BY
from hashfaiss.library.hits import Hit, Hits

CELL = 128
GAP = 8
TEXT = 16
FRAME = 4
RIGHT, WRONG, PLAIN = "#2e9e4f", "#d03b3b", "#8a8a8a"
MOST_HITS, MOST_ROWS = 50, 100


def draw_montage(path: str | os.PathLike[str], answers: Sequence[Hits], known_labels: Collection[str] = ()) -> Path:
    """Write one row for each query as a PNG: the query first, then its hits with their distances.

    Where the query's folder is one of `known_labels`, the frame of a hit is green if it has that label and red if
    not. At most 50 hits of each of the first 100 queries are drawn.

    Raises:
        HashfaissError: `path` cannot be written.
    """
    answers = answers[:MOST_ROWS]
    columns = 1 + max((min(len(hits), MOST_HITS) for hits in answers), default=0)
    row_height = CELL + 2 * TEXT + GAP
    sheet = Image.new("RGB", (GAP + columns * (CELL + GAP), GAP + max(1, len(answers)) * (row_height + GAP)), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=12)
    for row, hits in enumerate(answers):
        top = GAP + row * (row_height + GAP)
        label = _folder(hits.query) if _folder(hits.query) in known_labels else None
        _cell(sheet, draw, font, 0, top, hits.query, "black", ("query", label or ""))
        for place, hit in enumerate(hits[:MOST_HITS], start=1):
            text = (f"{place}: distance {hit.distance}", ";".join(hit.labels))
            _cell(sheet, draw, font, place, top, hit.path, _colour(label, hit), text)
    return _save(sheet, path)


def _folder(path: str | None) -> str:
    return os.path.basename(os.path.dirname(os.path.abspath(path))) if path else ""


def _colour(label: str | None, hit: Hit) -> str:
    if label is None or not hit.labels:
        return PLAIN
    return RIGHT if label in hit.labels else WRONG


def _cell(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    column: int,
    top: int,
    path: str | None,
    colour: str,
    text: tuple[str, str],
) -> None:
    left = GAP + column * (CELL + GAP)
    draw.rectangle((left, top, left + CELL - 1, top + CELL - 1), fill=colour)
    inner = CELL - 2 * FRAME
    try:
        if path is None:
            raise ImageError(None, "in memory")
        image = Image.fromarray(read_image(path).permute(1, 2, 0).numpy())
        scale = inner / max(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(size, Image.Resampling.NEAREST if scale > 3 else Image.Resampling.LANCZOS)
        draw.rectangle((left + FRAME, top + FRAME, left + FRAME + inner - 1, top + FRAME + inner - 1), fill="white")
        sheet.paste(image, (left + FRAME + (inner - size[0]) // 2, top + FRAME + (inner - size[1]) // 2))
    except ImageError as error:  # it may have gone since it was indexed
        draw.text((left + 2 * FRAME, top + CELL // 2), error.reason[:20], fill="white", font=font)
    for line, words in enumerate(text):
        draw.text((left, top + CELL + 2 + line * TEXT), _fit(words), fill="black", font=font)


def _fit(words: str) -> str:
    plain = words.encode("utf-8", "replace").decode()
    return plain if len(plain) <= 20 else plain[:19] + "…"


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
