"""What other packages add to hashfaiss: classes that their entry points name, loaded when one is asked for.

[project.entry-points."hashfaiss.methods"]
mine = "my_package:Mine"
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from hashfaiss.errors import ArgumentError

METHODS, BACKBONES = "hashfaiss.methods", "hashfaiss.backbones"


@cache
def added(group: str) -> dict[str, EntryPoint]:
    """By name, what installed packages add to a group: METHODS or BACKBONES."""
    return {point.name: point for point in sorted(entry_points(group=group), key=lambda point: point.name)}


def load_added(group: str, name: str, kinds: tuple[type, ...]) -> Any:
    """The class that a package adds as `name`, or None.

    Raises:
        ArgumentError: it cannot be loaded, or is no subclass of one of `kinds`.
    """
    point = added(group).get(name)
    if point is None:
        return None
    try:
        found = point.load()
    except Exception as error:  # a stranger's module may fail in any way
        raise ArgumentError(f"{name!r} is {point.value}, which cannot be loaded: {error}: mend its package") from None
    if not (isinstance(found, type) and issubclass(found, kinds)):
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise ArgumentError(f"{name!r} is {point.value}, which is no {wanted}: mend its package")
    return found
