"""A page of near-duplicates: the groups with thumbnails, in one HTML file that needs no other and runs nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from hashfaiss.library.hits import Hit
from hashfaiss.library.pages import FOOT, frame, head, text_of, write_page
from hashfaiss.library.thumbnails import Thumbnail, thumbnails
from hashfaiss.wording import counted, printable

MOST_GROUPS, MOST_IMAGES = 500, 50

PATHS = """
details { margin-top: .9rem; font-size: .875rem; }
summary { width: fit-content; padding: .15rem 0; color: var(--quiet); cursor: pointer; }
textarea { display: block; width: 100%; margin-top: .4rem; padding: .5rem .6rem; border: 1px solid var(--line);
  border-radius: .5rem; background: var(--page); color: var(--ink); resize: vertical;
  font: .8125rem/1.5 ui-monospace, Menlo, Consolas, "Liberation Mono", monospace; }
details p { margin-top: .4rem; color: var(--quiet); }
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
    found = _Found.of(groups)
    return write_page(path, _parts(found, radius, progress))


def _parts(found: _Found, radius: int, progress: Callable[[int, int], None] | None) -> Iterator[str]:
    yield _head(found, radius)
    shown = [hit for hits, _ in found.drawn for hit in hits]
    pictures = thumbnails([hit.path for hit in shown])
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
    if found.groups > len(found.drawn):
        images = found.images - sum(images for _, images in found.drawn)
        more = counted(found.groups - len(found.drawn), "more group")
        yield f'<p class="more">and {more} of {counted(images, "image")}</p>\n'
    yield FOOT


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
    top = head(f"Near-duplicate images: {counted(found.groups, 'group')}", PATHS)
    return f"""{top}<header>
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
    mark = " <span>first</span>" if first else ""
    known = " · ".join(fact.replace(" ", "&nbsp;") for fact in _facts(picture))
    facts = f'<p class="facts">{known}</p>' if known else ""
    way = text_of(os.path.join(folder, "")).replace(os.sep, f"{os.sep}<wbr>")  # long ones break where folders do
    return (
        f'<li><figure>{frame(picture, name)}<figcaption><p class="distance">distance {hit.distance:,}{mark}</p>{facts}'
        f'<p class="path">{way}<b>{text_of(name)}</b></p></figcaption></figure></li>\n'
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
    lines, rows = "\n".join(map(text_of, paths)), min(len(paths), 10)
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
