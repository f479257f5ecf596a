"""How well codes find images of classes that their network was never trained on."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hashfaiss.evaluation.ranking import Labels
from hashfaiss.evaluation.retrieval import RetrievalReport


@dataclass(frozen=True)
class UnseenReport:
    """Retrieval of a database of all classes, by queries of either kind.

    Attributes:
        classes: those of the queries' that were not trained on, sorted.
        seen, unseen: of queries all of whose labels were trained on, and of those of which none was.
    """

    classes: tuple[str, ...]
    seen: RetrievalReport
    unseen: RetrievalReport

    def to_dict(self) -> dict[str, Any]:
        """The report ready for JSON."""
        return {"classes": list(self.classes), "seen": self.seen.to_dict(), "unseen": self.unseen.to_dict()}


def by_training(
    labels: Labels, trained: Collection[str]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], tuple[str, ...]]:
    """Rows of the queries of seen classes alone and of unseen ones alone, and the unseen classes, sorted.

    Queries of both, and without labels, are in neither.

    Args:
        labels: the label names of each query.
        trained: names of the classes that the network was trained on.
    """
    known = set(trained)
    kinds = [{label in known for label in names} for names in labels]
    seen, unseen = (
        np.array([row for row, kind in enumerate(kinds) if kind == {one}], np.int64) for one in (True, False)
    )
    return seen, unseen, tuple(sorted({label for names in labels for label in names} - known))
