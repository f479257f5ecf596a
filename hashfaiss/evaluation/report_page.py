"""An evaluation as one HTML page: figures, tables, curves, the best and worst queries, classes that are confused."""

from __future__ import annotations

import base64
import io
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from hashfaiss.errors import ArgumentError
from hashfaiss.evaluation.asked import Queries
from hashfaiss.evaluation.confusion import confusions
from hashfaiss.evaluation.index_report import IndexReport
from hashfaiss.evaluation.report_tables import Table, report_tables
from hashfaiss.library.pages import FOOT, frame, head, text_of, write_page
from hashfaiss.library.thumbnails import Thumbnail, thumbnails
from hashfaiss.wording import counted

if TYPE_CHECKING:
    from hashfaiss.library.hits import Hit
    from hashfaiss.library.image_index import ImageIndex
    from hashfaiss.storage.segments import Labels

NEAREST = 10  # images by which classes are told to be confused
DRAWN = 8  # hits of a query that are drawn
QUERIES = 5  # the best, and the worst, that are drawn
PAIRS = 15  # of classes that are confused
PLOTS = ("precision-recall", "neighbours", "buckets", "precision-recall-at", "health")  # in rows of one width
SCALE = 0.47  # of a plot's pixels: three panels are as wide as the page

STYLE = """
section { content-visibility: visible; }
.figures { display: grid; gap: .75rem; grid-template-columns: repeat(auto-fit, minmax(10rem, 1fr));
  margin: 1.5rem 0 0; }
.figures div { padding: .75rem 1rem; background: var(--card); border: 1px solid var(--line); border-radius: .75rem; }
.figures dt { color: var(--quiet); font-size: .875rem; }
.figures dd { margin: 0; font-size: 1.5rem; font-weight: 600; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; }
.scroll + .scroll, .about + .scroll, .scroll + .about { margin-top: 1.25rem; }
table { width: 100%; table-layout: fixed; border-collapse: collapse; font-size: .9375rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .75rem .35rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top;
  overflow-wrap: anywhere; white-space: pre-wrap; }
th { color: var(--quiet); font-weight: 600; }
.plots { display: flex; flex-wrap: wrap; gap: 1rem; }
.plots img { display: block; max-width: 100%; height: auto; border-radius: .5rem; background: #fff; }
h3 { margin: 1.25rem 0 .5rem; font-size: 1rem; }
h3 span { margin-left: .4rem; color: var(--quiet); font-size: .875rem; font-weight: 400; }
.query .tiles { grid-template-columns: repeat(auto-fill, minmax(min(7rem, calc(33.3% - .5rem)), 1fr)); }
@media (min-width: 60rem) { .query .tiles { grid-template-columns: repeat(9, minmax(0, 1fr)); } }
.query .frame { border: 4px solid var(--grey); }
.query .asked .frame { border-color: var(--ink); }
.query .right .frame { border-color: #2e9e4f; }
.query .wrong .frame { border-color: #d03b3b; }
"""


class _Answer(NamedTuple):
    """A query, its nearest images, and its AP."""

    path: str | None
    labels: tuple[str, ...]
    hits: tuple[Hit, ...]
    precision: float


def write_report(path: str | os.PathLike[str], report: IndexReport, index: ImageIndex) -> Path:
    """Write what `evaluate_index` found of `index` as one page, which needs no other file and runs nothing.

    Raises:
        ArgumentError: a report without its queries.
        HashfaissError: `path` cannot be written.
    """
    if report.asked is None:
        raise ArgumentError("the report has no queries: give one of evaluate_index")
    return write_page(path, _parts(report, report.asked, index))


def _parts(report: IndexReport, asked: Queries, index: ImageIndex) -> Iterator[str]:
    name = os.path.basename(index.path) if index.path else "an index in memory"
    title = f"Evaluation of {name}"
    who = "the index's own images, each left out of its own ranking" if asked.rows is not None else "held out"
    about = f"{counted(len(index), 'image')}, {index.bits} bits, {report.kind}; {len(asked.paths):,} queries: {who}"
    labels = [row.labels for _, row in index.store.rows()]
    yield head(title, STYLE)
    yield f'<header>\n<h1>{text_of(title)}</h1>\n<p class="found">{text_of(about)}</p>\n</header>\n<main>\n'
    yield _figures(report)
    yield _section("curves", "Curves", f'<div class="plots">{"".join(_plots(report))}</div>\n')
    if report.retrieval is not None:
        best, worst = _extremes(report, asked, index, labels)
        yield _section("worst", "The worst queries", "".join(map(_query, worst, _pictures(worst))), "query")
        yield _section("best", "The best queries", "".join(map(_query, best, _pictures(best))), "query")
        yield _section("confused", "Classes that are confused", _confused(asked, index, labels))
    yield _section("tables", "All figures", "".join(_tables(report)))
    if report.skipped:
        rows = [(text_of(path), text_of(reason)) for path, reason in report.skipped]
        yield _section("skipped", "Images left out", _rows(("image", "reason"), rows))
    yield FOOT


def _section(name: str, title: str, body: str, kind: str = "") -> str:
    of = f' class="{kind}"' if kind else ""
    return f'<section{of} aria-labelledby="{name}">\n<h2 id="{name}">{title}</h2>\n{body}</section>\n'


def _figures(report: IndexReport) -> str:
    found = report.retrieval
    figures = [("FAISS = exact ranking", f"{100 * report.agreement.distances_equal:.1f} %")]
    figures += [("distinct codes", f"{report.health.distinct:,} of {report.health.images:,}")]
    if report.neighbours is not None:
        figures.insert(0, (f"neighbours kept, recall@{report.neighbours.k}", f"{report.neighbours.recall:.3f}"))
    if found is not None:
        at = [(f"P@{rank}", f"{value:.3f}") for rank, value in list(found.precision_at.items())[:1]]
        cutoff = "ALL" if found.cutoff is None else found.cutoff
        figures = [(f"mAP@{cutoff}", f"{found.mean_average_precision:.3f}"), *at, *figures]
        figures.append(("P@H&lt;=2", f"{found.precision_within_2:.3f}"))
    boxes = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in figures)
    return f'<dl class="figures">{boxes}</dl>\n'


def _plots(report: IndexReport) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        drawn = {file.stem: file for file in report.plot(folder)}
        for name in sorted(drawn, key=PLOTS.index):
            data = drawn[name].read_bytes()
            with Image.open(io.BytesIO(data)) as image:
                width, height = (round(side * SCALE) for side in image.size)
            yield f'<img src="data:image/png;base64,{base64.b64encode(data).decode()}" width="{width}" '
            yield f'height="{height}" alt="Plot: {name}">\n'


def _tables(report: IndexReport) -> Iterator[str]:
    for said, parts in groupby(report_tables(report), key=lambda part: isinstance(part, str)):
        if said:
            yield f'<p class="about">{text_of(" ".join(map(str, parts)).strip())}</p>\n'
            continue
        for part in parts:
            assert isinstance(part, Table)
            yield _rows(tuple(map(text_of, part.columns)), [tuple(map(text_of, row)) for row in part.rows])


def _rows(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A table of HTML."""
    top = "".join(f'<th scope="col">{column}</th>' for column in columns)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>\n" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead>\n<tbody>{body}</tbody></table></div>\n'


def _extremes(
    report: IndexReport, asked: Queries, index: ImageIndex, labels: list[Labels]
) -> tuple[list[_Answer], list[_Answer]]:
    """The queries of greatest and of least AP, of those that have something to find; none is both."""
    carriers = Counter(label for of in labels for label in set(of))
    least = 1 if asked.rows is None else 2  # with itself
    there = [place for place, own in enumerate(asked.labels) if any(carriers[of] >= least for of in own)]
    values = report.retrieval.average_precisions if report.retrieval else ()
    ranked = sorted(there, key=lambda place: (-values[place], place))
    count = min(QUERIES, len(ranked) // 2)
    chosen = ranked[:count] + ranked[::-1][:count]
    answers = [
        _Answer(asked.paths[place], asked.labels[place], tuple(map(index.hit, ids, distances)), values[place])
        for place, (ids, distances) in zip(chosen, _nearest(asked, index, chosen, DRAWN), strict=True)
    ]
    return answers[:count], answers[count:]


def _nearest(asked: Queries, index: ImageIndex, places: list[int], k: int) -> Iterator[tuple[list[int], list[int]]]:
    """Ids and distances of the k nearest images of some queries, by (distance, id), each without itself."""
    own = None if asked.rows is None else index.store.ids()[asked.rows[places]]
    for number, (ids, distances) in enumerate(index.codes.search(asked.codes[places], k + 1, exact=True)):
        kept = np.ones(len(ids), np.bool_) if own is None else ids != own[number]
        yield ids[kept][:k].tolist(), distances[kept][:k].tolist()


def _pictures(answers: list[_Answer]) -> Iterator[list[Thumbnail]]:
    paths = [path for answer in answers for path in (answer.path, *(hit.path for hit in answer.hits))]
    pictures = thumbnails(paths)
    for answer in answers:
        yield [next(pictures) for _ in range(1 + len(answer.hits))]


def _query(answer: _Answer, pictures: list[Thumbnail]) -> str:
    labels, precision = text_of(", ".join(answer.labels)), answer.precision
    tiles = [_tile("asked", pictures[0], answer.path, "query", answer.labels)]
    for hit, picture in zip(answer.hits, pictures[1:], strict=True):
        right = bool(set(answer.labels) & set(hit.labels))
        said = f"distance {hit.distance:,} {'✓' if right else '✗'}"
        tiles.append(_tile("right" if right else "wrong", picture, hit.path, said, hit.labels))
    title = f"<h3>{labels} <span>AP {precision:.3f}</span></h3>"
    return f'{title}\n<ul class="tiles" role="list">{"".join(tiles)}</ul>\n'


def _tile(kind: str, picture: Thumbnail, path: str | None, said: str, labels: tuple[str, ...]) -> str:
    name = os.path.basename(path) if path else "(in memory)"
    return (
        f'<li class="{kind}" title="{text_of(path or name)}"><figure>{frame(picture, name)}<figcaption>'
        f'<p class="distance">{said}</p><p>{text_of(", ".join(labels))}</p><p class="path">{text_of(name)}</p>'
        "</figcaption></figure></li>\n"
    )


def _confused(asked: Queries, index: ImageIndex, labels: list[Labels]) -> str:
    ids, places = index.store.ids(), list(range(len(asked.paths)))
    nearest = (np.searchsorted(ids, found).tolist() for found, _ in _nearest(asked, index, places, NEAREST))
    found = [[labels[row] for row in rows] for rows in nearest]
    pairs = confusions(asked.labels, found)
    if not pairs:
        return f'<p class="about">None: of the {NEAREST} nearest of each query, none is of another class.</p>\n'
    rows = [
        (text_of(pair.asked), text_of(pair.found), f"{100 * pair.share:.1f} %", f"{pair.queries:,}")
        for pair in pairs[:PAIRS]
    ]
    more = f" The first {PAIRS} of {len(pairs):,} pairs." if len(pairs) > PAIRS else ""
    about = f"Of the {NEAREST} nearest of each query, ties in order of id.{more}"
    return _rows(("queries of", "find", "share of what they find", "queries"), rows) + f'<p class="more">{about}</p>\n'
