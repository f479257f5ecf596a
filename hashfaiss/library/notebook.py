"""Hits as a notebook shows them: HTML that needs no other file, runs nothing, and leaves the page around it alone."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from hashfaiss.library.pages import image, text_of
from hashfaiss.library.thumbnails import Thumbnail, thumbnails
from hashfaiss.wording import counted

MOST_HITS = 50  # a notebook keeps what it shows
SIDE = 128  # pixels

BOX = "max-width:1100px;font:13px/1.35 system-ui,sans-serif"
HEAD = "display:flex;gap:12px;align-items:center;margin:4px 0 12px"
GRID = f"display:grid;grid-template-columns:repeat(auto-fill,minmax({SIDE}px,1fr));gap:12px"
FRAME = "display:grid;place-items:center;background:rgba(128,128,128,.16);border-radius:6px;overflow:hidden"
TILE = f"{FRAME};aspect-ratio:1"
QUERY = f"{FRAME};flex:none;width:{SIDE}px;height:{SIDE}px"
IMAGE = "width:100%;height:100%;object-fit:contain;margin:0"
BADGE = "position:absolute;top:6px;left:6px;padding:1px 8px;border-radius:10px;background:#1d1c1a;color:#fff;"
BADGE += "font-weight:600"
NAME = "overflow-wrap:anywhere"
QUIET = "opacity:.7"


class Tile(NamedTuple):
    """What is shown of a hit."""

    path: str | None
    id: int
    distance: int
    labels: tuple[str, ...]


def hits_html(query: str | None, exact: bool, hits: Sequence[Tile]) -> str:
    """The query, and at most 50 hits with thumbnail, distance, name and labels; its path is a tile's title."""
    return "".join(_parts(query, exact, hits, hits[:MOST_HITS]))


def _parts(query: str | None, exact: bool, hits: Sequence[Tile], drawn: Sequence[Tile]) -> Iterator[str]:
    pictures = thumbnails([query, *(hit.path for hit in drawn)], SIDE)
    asked = text_of(query) if query else "(in memory)"
    sure = "certified exact" if exact else "not certified exact: there may be nearer ones"
    more = f", of which the first {len(drawn)} are drawn" if len(hits) > len(drawn) else ""
    yield f'<div style="{BOX}"><div style="{HEAD}"><div style="{QUERY}">{_image(next(pictures), "the query")}</div>'
    yield f'<div><b style="{NAME}">{asked}</b><br><span style="{QUIET}">{counted(len(hits), "hit")}{more}, {sure}'
    yield f'; on each its Hamming distance</span></div></div><div style="{GRID}">'
    for hit, picture in zip(drawn, pictures, strict=True):
        name = os.path.basename(hit.path) if hit.path else f"image {hit.id}"
        yield f'<div style="position:relative" title="{text_of(hit.path or name)}">'
        yield f'<div style="{TILE}">{_image(picture, name)}</div><span style="{BADGE}">{hit.distance:,}</span>'
        labels = text_of(", ".join(hit.labels))
        yield f'<div style="{NAME}">{text_of(name)}</div><div style="{QUIET}">{labels}</div></div>'
    yield "</div></div>"


def _image(picture: Thumbnail, name: str) -> str:
    if picture.trouble:
        return f'<span style="padding:8px;text-align:center;{NAME}">{text_of(picture.trouble)}</span>'
    return image(picture, name, f'style="{IMAGE}"')
