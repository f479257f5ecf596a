"""Which classes are taken for which: labels of what is found beside those of what was asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from hashfaiss.evaluation.ranking import Labels


class Confusion(NamedTuple):
    """Queries of one class for which images of another are found.

    Attributes:
        asked, found: the classes.
        share: of all that is found for queries of `asked`, how much is of `found` and of no class of its query.
        queries: of `asked`.
    """

    asked: str
    found: str
    share: float
    queries: int


def confusions(queries: Labels, hits: Sequence[Labels]) -> list[Confusion]:
    """Pairs of classes that are confused, the greatest share first, then by name.

    Args:
        queries: the labels of each.
        hits: for each query, the labels of each image found. One that shares a label with its query is right.
    """
    asked, found, wrong = Counter[str](), Counter[str](), Counter[tuple[str, str]]()
    for labels, images in zip(queries, hits, strict=True):
        asked.update(labels)
        for label in labels:
            found[label] += len(images)
        for image in images:
            if not set(labels) & set(image):
                wrong.update((label, other) for label in labels for other in image)
    pairs = [Confusion(*pair, count / found[pair[0]], asked[pair[0]]) for pair, count in wrong.items()]
    return sorted(pairs, key=lambda pair: (-pair.share, pair.asked, pair.found))
