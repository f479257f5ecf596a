"""HTML pages in one file that need no other and run nothing: how they begin, end, look and are written.

What is written in them comes from strangers: file names of any bytes, decoders' messages, labels. All of it passes
`text_of`.
"""

from __future__ import annotations

import base64
import html
import io
import os
from collections.abc import Iterable
from pathlib import Path

from hashfaiss.errors import HashfaissError
from hashfaiss.files import write_atomic
from hashfaiss.library.thumbnails import Thumbnail
from hashfaiss.wording import printable

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
FOOT = "</main>\n</body>\n</html>\n"

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
:focus-visible { outline: 2px solid var(--first); outline-offset: 2px; }
@media print { section { content-visibility: visible; } .tiles li { break-inside: avoid; } }
"""


def head(title: str, style: str = "") -> str:
    """A page up to and with `<body>`; `title` is text, `style` is CSS beside that of all pages."""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{text_of(title)}</title>
<style>{STYLE}{style}</style>
</head>
<body>
"""


def frame(picture: Thumbnail, name: str) -> str:
    """A thumbnail in its frame, or the reason why there is none."""
    if picture.trouble:
        return f'<div class="frame missing">{text_of(picture.trouble)}</div>'
    shown = image(picture, name, 'decoding="async"')
    return f'<div class="frame">{shown}</div>'


def image(picture: Thumbnail, name: str, attributes: str) -> str:
    """A thumbnail, whose bytes are in its own address; `attributes` are HTML."""
    data, (width, height) = base64.b64encode(picture.jpeg).decode(), picture.size
    return (
        f'<img src="data:image/jpeg;base64,{data}" width="{width}" height="{height}" '
        f'alt="Thumbnail of {text_of(name)}" {attributes}>'
    )


def text_of(text: str) -> str:
    """`text` as it may stand in HTML and in UTF-8, in an attribute too."""
    return html.escape(printable(text))


def write_page(path: str | os.PathLike[str], parts: Iterable[str]) -> Path:
    """Write a page whole or not at all, when all its parts are there.

    Raises:
        HashfaissError: `path` cannot be written.
    """
    target, page = Path(path), io.BytesIO()
    for part in parts:
        page.write(part.encode())
    try:
        write_atomic(target, page.getbuffer())
    except OSError as error:
        raise HashfaissError(f"cannot write the page {str(target)!r}: {error.strerror}") from None
    return target
