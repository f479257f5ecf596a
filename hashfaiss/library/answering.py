"""From images asked with to hits: how to search, and a stream of answers."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict

import numpy as np
import numpy.typing as npt

from hashfaiss.codes import Codes, code_bytes, pack, unpack
from hashfaiss.ending import native, stepwise
from hashfaiss.errors import ArgumentError, ImageError
from hashfaiss.indexes import Answers, CodeIndex, Parts, nearest_by_outputs, rerank
from hashfaiss.library.hits import Hits
from hashfaiss.library.queries import HitOf, Queries
from hashfaiss.wording import composed

if TYPE_CHECKING:
    from hashfaiss.encoding.items import Batch, Item
    from hashfaiss.storage.store import CodeStore

QUERY_BATCH = 32
FEW = 4  # images of one call that are asked with before the encoder is worth loading
LABELS_NAMED = 10  # in an error
Outputs = npt.NDArray[np.float32]
UNLIKE = 0.5  # what an image to stay away from weighs beside those to be near


class How(TypedDict, total=False):
    """How to search.

    Keys:
        exact: True where it is left out: probe further, or compare with all codes where that is cheaper, until every
            answer is certified. False takes what the kind's own probes find, for batches and more than ten million
            codes; each answer says whether it is certified all the same.
        labels: only among images with one of these labels.
        paths: only among images whose path matches one of these patterns, see `CodeStore.where`.
        rerank: "asymmetric": order candidates by the query's real outputs, see `hashfaiss.indexes.rerank`.
    """

    exact: bool
    labels: str | Collection[str] | None
    paths: str | Collection[str] | None
    rerank: Literal["asymmetric"] | None


class Wanted(NamedTuple):
    """Labels and patterns of paths, of which an image must have one of each; None asks for nothing."""

    labels: frozenset[str] | None
    paths: frozenset[str] | None

    @classmethod
    def of(cls, how: How) -> Wanted:
        """What `how` restricts a search to; ArgumentError where that is no text."""
        labels = _texts("labels", how.get("labels"))
        return cls(labels and frozenset(map(composed, labels)), _texts("paths", how.get("paths")))

    def ids(self, stores: Sequence[CodeStore]) -> list[npt.NDArray[np.int64]]:
        """Ids of such images of each; ArgumentError for a label that no image has, and where there is no such image."""
        if self.labels and (unknown := self.labels - (known := set[str]().union(*(one.labels() for one in stores)))):
            more = ", ..." if len(known) > LABELS_NAMED else ""
            there = f"it has {', '.join(sorted(known)[:LABELS_NAMED])}{more}" if known else "it has none"
            raise ArgumentError(f"no image of the index has label {min(unknown)!r}: {there}")
        ids = [store.where(*self) for store in stores]
        if not any(map(len, ids)):
            named = [
                f"{what} {' or '.join(map(repr, sorted(texts)))}"
                for what, texts in zip(("label", "path"), self, strict=True)
                if texts is not None
            ]
            raise ArgumentError(
                f"no image of the index has {' and '.join(named)}: a pattern is matched to the end of a path, '3/*' is "
                "all below a folder 3, and '[[]' stands for '['"
            )
        return ids


def _texts(what: str, given: Any) -> frozenset[str] | None:
    """One text or several; ArgumentError for anything else, and for none."""
    if given is None:
        return None
    several = [given] if isinstance(given, str) else given
    if not isinstance(several, Collection) or not several or not all(isinstance(text, str) for text in several):
        raise ArgumentError(f"{what} is {given!r}: give a text or a list of texts, or leave it out")
    return frozenset(several)


class Search(NamedTuple):
    """What answers a batch of codes, and whether it needs the network's outputs too."""

    search: Callable[[Codes, Outputs | None], Answers]
    outputs: bool
    bits: int


def check_how(how: How) -> None:
    """ArgumentError for a way to search that there is not."""
    if unknown := how.keys() - How.__annotations__:
        raise ArgumentError(f"{min(unknown)!r} is no way to search: give {', '.join(How.__annotations__)}")
    order = how.get("rerank")
    if order not in (None, "asymmetric"):
        raise ArgumentError(f"rerank is {order!r}: give 'asymmetric', or leave it out")


def searcher(codes: CodeIndex | Parts, asked: dict[str, Any], how: How, combined: bool = False) -> Search:
    """What answers a batch of queries among `codes`; ArgumentError for a wrong k or radius.

    Args:
        asked: the k or the radius.
        combined: the outputs are not those of one image, and nobody need be near their signs.
    """
    exact, outputs = how.get("exact", True), combined or how.get("rerank") is not None

    def search(queries: Codes, outputs: Outputs | None) -> Answers:
        if outputs is None:
            return (codes.search if "k" in asked else codes.within)(queries, exact=exact, **asked)
        if combined and "k" in asked:
            return nearest_by_outputs(codes, outputs, **asked)
        return rerank(codes, queries, outputs, exact=exact, **asked)

    search(np.empty((0, code_bytes(codes.bits)), np.uint8), None)
    return Search(search, outputs, codes.bits)


def as_list(images: Any) -> list[Any]:
    """Several images, or one."""
    return list(images) if isinstance(images, (list, tuple)) else [images]


def stream_hits(queries: Queries, images: Iterable[Any], search: Search) -> Iterator[Hits | ImageError]:
    """Hits for each image, or why it cannot be read, in their order. What is stored needs no network."""
    return stepwise(_stream_hits(queries, images, search))


def _stream_hits(queries: Queries, images: Iterable[Any], search: Search) -> Iterator[Hits | ImageError]:
    for stored, part in queries.parts(images):
        if not stored:
            yield from _encoded_hits(queries, part, search)
            continue
        for known in part:
            outputs = _signs(known.code, search.bits) if search.outputs else None
            answers = search.search(known.code, outputs)
            yield _hits_of(queries.hit, known.path, answers, 0)


@native()
def hits_of_codes(hit: HitOf, codes: Codes, search: Search) -> list[Hits]:
    """Hits for each of `codes`."""
    answers = search.search(codes, None)
    return [_hits_of(hit, None, answers, number) for number in range(len(answers))]


@native()
def codes_of(queries: Queries, images: list[Any]) -> Codes:
    """Codes, uint8 (n, ceil(K/8)), that images are asked with: the network's, or what is stored of the index's own.

    Raises:
        ImageError: one of them cannot be read.
    """
    light, codes = queries.light(), list[Codes]()
    for stored, part in queries.parts(images):
        for image in part:
            code = image.code if stored else None
            if light is not None and isinstance(image, (str, os.PathLike)):
                code = light.code(os.path.abspath(os.fspath(image)))
            codes.append(queries.encoder().encode([image]) if code is None else code)
    return np.concatenate(codes)


@native()
def combined_hits(queries: Queries, images: list[Any], unlike: list[Any], search: Search) -> Hits:
    """Hits for all `images` together, away from `unlike`.

    Raises:
        ImageError: one of them cannot be read.
        ArgumentError: there are no images to be like.
    """
    if not images:
        raise ArgumentError("there is no image to be like: give one, or several")
    named = [list(_outputs(queries, some, search.bits)) for some in (images, unlike)]
    wanted, away = (np.array([output for _, output in some], np.float32).reshape(-1, search.bits) for some in named)
    outputs = combine_outputs(wanted, away)[None]
    like, not_like = ([path or "(in memory)" for path, _ in some] for some in named)
    asked = " - ".join([" + ".join(like), *not_like])
    return _hits_of(queries.hit, asked, search.search(pack(outputs), outputs), 0)


def combine_outputs(images: Outputs, unlike: Outputs) -> Outputs:
    """One query's outputs (K,): the mean of those of `images` (n, K), less half the mean of those of `unlike` (m, K).

    Each image's outputs count in units of their mean size, so that none weighs more for being surer, and stored codes,
    which are +-1, are like any other. Half, because what images and `unlike` have in common is still asked for.
    """
    combined: Outputs = _in_units(images).mean(axis=0)
    if len(unlike):
        combined -= np.float32(UNLIKE) * _in_units(unlike).mean(axis=0)
    return combined


def _in_units(outputs: Outputs) -> Outputs:
    size: Outputs = np.maximum(np.abs(outputs).mean(axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return outputs / size


def _signs(code: Codes, bits: int) -> Outputs:
    return unpack(code, bits).astype(np.float32)


def _outputs(queries: Queries, images: list[Any], bits: int) -> Iterator[tuple[str | None, Outputs]]:
    """The path and outputs (K,) of each image; those of a stored one are its signs."""
    from hashfaiss.encoding.items import as_items
    from hashfaiss.encoding.pipeline import encode_stream

    for stored, part in queries.parts(images):
        if stored:
            yield from ((known.path, _signs(known.code, bits)[0]) for known in part)
            continue
        for batch in encode_stream(queries.encoder(), as_items(part), batch_size=QUERY_BATCH, outputs=True):
            for item, reason in batch.skipped:
                raise ImageError(item.path, reason)
            assert batch.outputs is not None
            yield from ((item.path, output) for item, output in zip(batch.items, batch.outputs, strict=True))


def _encoded_hits(queries: Queries, images: Iterator[Any], search: Search) -> Iterator[Hits | ImageError]:
    """Of a few images without the encoder, where their codes are clear: to load it takes seconds."""
    light = None if search.outputs else queries.light()
    for number, image in enumerate(images):
        code = None
        if light is not None and number < FEW and isinstance(image, (str, os.PathLike)):
            code = light.code(path := os.path.abspath(os.fspath(image)))
        if code is None:
            yield from _hits_by_encoder(queries, chain([image], images), search)
            return
        yield _hits_of(queries.hit, path, search.search(code, None), 0)


def _hits_by_encoder(queries: Queries, images: Any, search: Search) -> Iterator[Hits | ImageError]:
    from hashfaiss.encoding.items import as_items
    from hashfaiss.encoding.pipeline import encode_stream

    asked: deque[Item] = deque()

    def items() -> Iterator[Item]:
        for item in as_items(images):
            asked.append(item)
            yield item

    for batch in encode_stream(queries.encoder(), items(), batch_size=QUERY_BATCH, outputs=search.outputs):
        yield from _hits(queries.hit, batch, search.search(batch.codes, batch.outputs), asked)


def _hits(hit: HitOf, batch: Batch, answers: Answers, asked: deque[Item]) -> Iterator[Hits | ImageError]:
    """Answers for the items of a batch and reasons for those skipped, in the order they were asked."""
    reasons = {id(item): reason for item, reason in batch.skipped}
    numbers = iter(range(len(answers)))
    for _ in range(len(batch.items) + len(batch.skipped)):
        item = asked.popleft()
        if id(item) in reasons:
            yield ImageError(item.path, reasons[id(item)])
            continue
        yield _hits_of(hit, item.path, answers, next(numbers))


def _hits_of(hit: HitOf, path: str | None, answers: Answers, number: int) -> Hits:
    part = slice(*answers.offsets[number : number + 2].tolist())
    ids, distances = answers.ids[part].tolist(), answers.distances[part].tolist()
    scores = [None] * len(ids) if answers.scores is None else answers.scores[part].tolist()
    return Hits(path, bool(answers.exact[number]), tuple(map(hit, ids, distances, scores)), answers.missing)
