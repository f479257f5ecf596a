"""From images asked with to hits: how to search, and a stream of answers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict

import numpy as np
import numpy.typing as npt

from hashfaiss.codes import Codes
from hashfaiss.errors import ArgumentError, ImageError
from hashfaiss.indexes import Answers
from hashfaiss.library.hits import Hit, Hits
from hashfaiss.wording import composed

if TYPE_CHECKING:
    from hashfaiss.encoding.encoder import Encoder
    from hashfaiss.encoding.items import Batch, Item
    from hashfaiss.storage.store import CodeStore

QUERY_BATCH = 32
LABELS_NAMED = 10  # in an error
Outputs = npt.NDArray[np.float32]
HitOf = Callable[[int, int, float | None], Hit]  # id, distance, score → hit


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

    def ids(self, store: CodeStore) -> npt.NDArray[np.int64]:
        """Ids of such images; ArgumentError for a label that no image has, and where there is no such image."""
        if self.labels and (unknown := self.labels - (known := store.labels())):
            more = ", ..." if len(known) > LABELS_NAMED else ""
            there = f"it has {', '.join(sorted(known)[:LABELS_NAMED])}{more}" if known else "it has none"
            raise ArgumentError(f"no image of the index has label {min(unknown)!r}: {there}")
        ids = store.where(*self)
        if not len(ids):
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


def stream_hits(encoder: Encoder, hit: HitOf, images: Any, search: Search) -> Iterator[Hits | ImageError]:
    """Hits for each image, or why it cannot be read, in their order."""
    from hashfaiss.encoding.items import as_items
    from hashfaiss.encoding.pipeline import encode_stream

    asked: deque[Item] = deque()

    def items() -> Iterator[Item]:
        for item in as_items(images):
            asked.append(item)
            yield item

    for batch in encode_stream(encoder, items(), batch_size=QUERY_BATCH, outputs=search.outputs):
        yield from _hits(hit, batch, search.search(batch.codes, batch.outputs), asked)


def _hits(hit: HitOf, batch: Batch, answers: Answers, asked: deque[Item]) -> Iterator[Hits | ImageError]:
    """Answers for the items of a batch and reasons for those skipped, in the order they were asked."""
    reasons = {id(item): reason for item, reason in batch.skipped}
    numbers = iter(range(len(answers)))
    for _ in range(len(batch.items) + len(batch.skipped)):
        item = asked.popleft()
        if id(item) in reasons:
            yield ImageError(item.path, reasons[id(item)])
            continue
        number = next(numbers)
        part = slice(*answers.offsets[number : number + 2].tolist())
        ids, distances = answers.ids[part].tolist(), answers.distances[part].tolist()
        scores = [None] * len(ids) if answers.scores is None else answers.scores[part].tolist()
        yield Hits(item.path, bool(answers.exact[number]), tuple(map(hit, ids, distances, scores)))
