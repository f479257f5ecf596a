"""A page of near-duplicates: the groups with thumbnails, in one HTML file that needs no other and runs nothing.

What is written in it comes from strangers: file names of any bytes, decoders' messages. All of it passes `_text`.
"""

from __future__ import annotations

import base64
import html
import io
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from hashfaiss.errors import HashfaissError
from hashfaiss.files import write_atomic
from hashfaiss.library.hits import Hit
from hashfaiss.library.thumbnails import Thumbnail, thumbnail
from hashfaiss.wording import counted, printable

MOST_GROUPS, MOST_IMAGES = 500, 50
MOST_THREADS = 8  # each may hold a decoded image
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

STYLE = """
:root { color-scheme: light dark; --page: #f5f4f1; --card: #fff; --ink: #1d1c1a; --quiet: #63605a; --line: #dfdcd5;
  --frame: #eceae5; --grey: #d3d1cc; --first: #1f5fbf; --on-first: #fff; }
@media (prefers-color-scheme: dark) { :root { --page: #161618; --card: #202023; --ink: #ecebe8; --quiet: #a5a29b;
  --line: #37373b; --frame: #2a2a2e; --grey: #46464b; --first: #8db8f5; --on-first: #10233f; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 78rem; padding: 2rem clamp(.75rem, 4vw, 2.5rem) 4rem; background: var(--page);
  color: var(--ink); font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif;
  -webkit-text-size-adjust: 100%; }
p, h1, h2, ul, figure { margin: 0; padding: 0; }
h1 { font-size: 1.75rem; line-height: 1.2; letter-spacing: -.01em; }
.found { margin: .4rem 0 .75rem; font-size: 1.125rem; }
.about { max-width: 46rem; margin-top: .35rem; color: var(--quiet); font-size: .9375rem; }
section { margin-top: 1.75rem; padding: clamp(.75rem, 2vw, 1.25rem); background: var(--card);
  border: 1px solid var(--line); border-radius: .75rem; content-visibility: auto; contain-intrinsic-size: auto 24rem; }
h2 { margin-bottom: .75rem; font-size: 1.125rem; line-height: 1.3; }
h2 span { margin-left: .4rem; color: var(--quiet); font-size: .9375rem; font-weight: 400; }
.tiles { display: grid; gap: 1rem .75rem; list-style: none;
  grid-template-columns: repeat(auto-fill, minmax(min(10rem, calc(50% - .375rem)), 1fr)); }
.tiles li { min-width: 0; }
.frame { display: grid; place-items: center; aspect-ratio: 1; overflow: hidden; background: var(--frame);
  border-radius: .5rem; }
.frame img { display: block; width: 100%; height: 100%; object-fit: contain; }
.frame.missing { padding: .75rem; background: var(--grey); font-size: .875rem; text-align: center;
  overflow-wrap: anywhere; }
figcaption { margin-top: .4rem; font-size: .8125rem; line-height: 1.4; }
.distance { font-weight: 600; font-variant-numeric: tabular-nums; }
.distance span { margin-left: .25rem; padding: .05rem .45rem; border-radius: 1rem; background: var(--first);
  color: var(--on-first); font-size: .75rem; }
.facts, .path { color: var(--quiet); font-variant-numeric: tabular-nums; }
.path { margin-top: .15rem; white-space: pre-wrap; overflow-wrap: anywhere; }
.path b { display: block; color: var(--ink); font-weight: 600; }
.more { margin-top: .9rem; color: var(--quiet); font-size: .9375rem; }
details { margin-top: .9rem; font-size: .875rem; }
summary { width: fit-content; padding: .15rem 0; color: var(--quiet); cursor: pointer; }
textarea { display: block; width: 100%; margin-top: .4rem; padding: .5rem .6rem; border: 1px solid var(--line);
  border-radius: .5rem; background: var(--page); color: var(--ink); resize: vertical;
  font: .8125rem/1.5 ui-monospace, Menlo, Consolas, "Liberation Mono", monospace; }
details p { margin-top: .4rem; color: var(--quiet); }
:focus-visible { outline: 2px solid var(--first); outline-offset: 2px; }
@media print { section { content-visibility: visible; } .tiles li { break-inside: avoid; } }
"""


@dataclass
class _Found:
    """What is drawn, and what there is: groups beyond the first are counted, and not kept."""

    drawn: list[tuple[tuple[Hit, ...], int]] = field(default_factory=list)  # the first images, and how many there are
    groups: int = 0
    images: int = 0
    cut: bool = False  # a group has more images than are drawn

    @classmethod
    def of(cls, groups: Iterable[tuple[Hit, ...]]) -> _Found:
        found = cls()
        for group in groups:
            found.groups += 1
            found.images += len(group)
            if len(found.drawn) < MOST_GROUPS:
                found.drawn.append((group[:MOST_IMAGES], len(group)))
                found.cut |= len(group) > MOST_IMAGES
        return found


def write_duplicates_page(
    path: str | os.PathLike[str],
    groups: Iterable[tuple[Hit, ...]],
    radius: int,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write groups of near-duplicates as one HTML page with thumbnails; nothing is deleted.

    The first 50 images of each of the first 500 groups are drawn, and the page says how many more there are. An image
    that cannot be read has a grey tile with the reason. The page is written when all groups are known, whole or not
    at all, and is all that is held in memory.

    Args:
        groups: as `ImageIndex.duplicates` yields them; a hit's distance is that from the first of its group.
        radius: the Hamming distance they were found with.
        progress: called with (images drawn, images to draw).

    Raises:
        HashfaissError: `path` cannot be written.
    """
    target = Path(path)
    found = _Found.of(groups)
    page = io.BytesIO()
    for part in _parts(found, radius, progress):
        page.write(part.encode())
    try:
        write_atomic(target, page.getbuffer())
    except OSError as error:
        raise HashfaissError(f"cannot write the page {str(target)!r}: {error.strerror}") from None
    return target


def _parts(found: _Found, radius: int, progress: Callable[[int, int], None] | None) -> Iterator[str]:
    yield _head(found, radius)
    shown = [hit for hits, _ in found.drawn for hit in hits]
    pool = ThreadPoolExecutor(min(MOST_THREADS, os.cpu_count() or 1))
    try:
        pictures = pool.map(thumbnail, [hit.path for hit in shown])
        done = 0
        for number, (hits, images) in enumerate(found.drawn, start=1):
            title = f"Group {number:,} <span>{counted(images, 'image')}</span>"
            yield f'<section aria-labelledby="group-{number}">\n<h2 id="group-{number}">{title}</h2>\n'
            yield '<ul class="tiles" role="list">\n'
            for place, hit in enumerate(hits):
                yield _tile(hit, next(pictures), place == 0)
                done += 1
                if progress:
                    progress(done, len(shown))
            yield "</ul>\n"
            if images > len(hits):
                yield f'<p class="more">and {counted(images - len(hits), "more image")}</p>\n'
            yield _paths(number, hits, images)
            yield "</section>\n"
    finally:
        pool.shutdown(cancel_futures=True)
    if found.groups > len(found.drawn):
        images = found.images - sum(images for _, images in found.drawn)
        more = counted(found.groups - len(found.drawn), "more group")
        yield f'<p class="more">and {more} of {counted(images, "image")}</p>\n'
    yield "</main>\n</body>\n</html>\n"


def _head(found: _Found, radius: int) -> str:
    if found.groups:
        count = f"{counted(found.groups, 'group')} of {counted(found.images, 'image')}"
        count += f" within Hamming distance {radius}"
        near = "are the same" if radius == 0 else f"differ in {counted(radius, 'bit')} at most"
        through = "" if radius == 0 else ", directly or through others, so an image may be farther from the first"
        about = [f"Images are in one group where their codes {near}{through}. Distances are from the first of a group."]
    else:
        near = "have the same code" if radius == 0 else f"have codes within Hamming distance {radius}"
        count, about = f"No duplicates: no two images {near}.", []
    limits = [f"the first {MOST_GROUPS:,} groups"] * (found.groups > len(found.drawn))
    limits += [f"the first {MOST_IMAGES:,} images of a group"] * found.cut
    if limits:
        about.append(f"Only {' and '.join(limits)} are drawn; <code>hashfaiss duplicates --json</code> lists all.")
    yours = ": this page shows what was found, and which images stay is yours to decide" if found.groups else ""
    about.append(f"Nothing has been deleted{yours}.")
    lines = "\n".join(f'<p class="about">{line}</p>' for line in about)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Near-duplicate images: {counted(found.groups, "group")}</title>
<style>{STYLE}</style>
</head>
<body>
<header>
<h1>Near-duplicate images</h1>
<p class="found">{count}</p>
{lines}
</header>
<main>
"""


def _tile(hit: Hit, picture: Thumbnail, first: bool) -> str:
    folder, name = os.path.split(hit.path or "")
    if hit.path is None:
        name = f"image {hit.id}"
    if picture.trouble:
        frame = f'<div class="frame missing">{_text(picture.trouble)}</div>'
    else:
        data = base64.b64encode(picture.jpeg).decode()
        width, height = picture.size
        frame = (
            f'<div class="frame"><img src="data:image/jpeg;base64,{data}" width="{width}" height="{height}" '
            f'alt="Thumbnail of {_text(name)}" decoding="async"></div>'
        )
    mark = " <span>first</span>" if first else ""
    known = " · ".join(fact.replace(" ", "&nbsp;") for fact in _facts(picture))
    facts = f'<p class="facts">{known}</p>' if known else ""
    way = _text(os.path.join(folder, "")).replace(os.sep, f"{os.sep}<wbr>")  # long ones break where folders do
    return (
        f'<li><figure>{frame}<figcaption><p class="distance">distance {hit.distance:,}{mark}</p>{facts}'
        f'<p class="path">{way}<b>{_text(name)}</b></p></figcaption></figure></li>\n'
    )


def _paths(number: int, hits: tuple[Hit, ...], images: int) -> str:
    """The paths as text: in a text area, where the keyboard selects all of them and nothing else."""
    paths = [hit.path for hit in hits if hit.path is not None]
    if not paths:
        return ""
    note = ""
    if any(printable(path) != path for path in paths):
        note = (
            "<p>What is no text in a name is written as an escape; "
            "<code>hashfaiss duplicates --json</code> has the names as they are.</p>"
        )
    part = f" (the first {len(hits):,})" if images > len(hits) else ""
    lines, rows = "\n".join(map(_text, paths)), min(len(paths), 10)
    return (
        f"<details><summary>Paths of group {number:,} as text{part}</summary>"
        f'<textarea readonly rows="{rows}" wrap="off" spellcheck="false" '
        f'aria-label="Paths of group {number:,}">{lines}</textarea>{note}</details>\n'
    )


def _facts(picture: Thumbnail) -> list[str]:
    pixels = [f"{picture.of[0]:,} &times; {picture.of[1]:,}"] if picture.of else []
    return pixels + ([] if picture.bytes is None else [_bytes(picture.bytes)])


def _bytes(size: int) -> str:
    """`812 bytes`, `31.2 kB`, `4.06 MB`: three figures, since near-duplicates are of nearly the same size."""
    if size < 1000:
        return counted(size, "byte")
    value, unit = (size / 1000, "kB") if size < 999_500 else (size / 1_000_000, "MB")
    return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f} {unit}"


def _text(text: str) -> str:
    """`text` as it may stand in HTML and in UTF-8, in an attribute too."""
    return html.escape(printable(text))
