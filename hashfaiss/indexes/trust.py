"""How far an answer that nothing proves may be believed: what tuning measured, carried along with the index.

Recall that was measured on codes like those of the index says nothing of a query unlike them, whose neighbours lie
scattered over lists and buckets that its probes do not see. Such a query betrays itself: its answers are far away. So
tuning finds the distance up to which answers keep the recall whatever the query, and an answer that is neither
certified nor that near is answered again, exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import Any

import numpy as np

from hashfaiss.indexes.kind import Arrays

BEFORE = 10  # nearest that were measured before this was kept


@dataclass(frozen=True)
class Trust:
    """Numbers of nearest codes that were measured, each with the distance up to which its last one is believed.

    Attributes:
        points: (k, distance), k ascending; distance -1 believes nothing that is not certified.
    """

    points: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, points: Any) -> Trust | None:
        """From pairs as they were stored; None where there are none.

        Raises:
            ValueError: they are no such pairs.
        """
        try:
            pairs = tuple((int(k), int(distance)) for k, distance in points or ())
        except OverflowError:  # JSON's numbers may be infinite
            raise ValueError("trust") from None
        ks = [k for k, _ in pairs]
        if (
            min(ks, default=1) < 1
            or ks != sorted(set(ks))
            or any(abs(one) >= 1 << 63 for pair in pairs for one in pair)
        ):
            raise ValueError("trust")
        return cls(pairs) if pairs else None

    @classmethod
    def before(cls, bits: int) -> Trust:
        """Of an index that was tuned before distances were: for the 10 nearest, however far."""
        return cls(((BEFORE, bits),))

    @property
    def most(self) -> int:
        """The most nearest codes that were measured."""
        return self.points[-1][0]

    def farthest(self, k: int) -> int:
        """The distance up to which the k-th nearest is believed; -1 beyond `most`."""
        if k > self.most:
            return -1
        known = [log(number) for number, _ in self.points]
        return int(np.floor(np.interp(log(k), known, [distance for _, distance in self.points])))

    def arrays(self) -> Arrays:
        """To be kept with a built index."""
        return {"trust": np.array(self.points, np.int64)}
