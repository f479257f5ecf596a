"""What a search is asked for: read from a request's query string, or from its JSON, by one table."""

from __future__ import annotations

import binascii
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from starlette.datastructures import QueryParams

from hashfaiss.codes import Codes
from hashfaiss.library.answering import How
from hashfaiss.serve.limits import Limits
from hashfaiss.serve.refusals import Refused

DEFAULT_K = 10
NAMED = ("id", "path", "code", "codes")  # what may be asked with, in JSON


class Parameter(NamedTuple):
    """One of a search.

    Attributes:
        schema: of its value, as OpenAPI has it.
        about: what it does.
    """

    schema: dict[str, Any]
    about: str


MOST_TEXTS, LONGEST_TEXT = 100, 1000
TEXTS = {
    "type": "array",
    "items": {"type": "string", "maxLength": LONGEST_TEXT},
    "minItems": 1,
    "maxItems": MOST_TEXTS,
}
PARAMETERS = {
    "k": Parameter(
        {"type": "integer", "minimum": 1},
        f"How many of the nearest images; {DEFAULT_K} where neither k nor radius is given.",
    ),
    "radius": Parameter({"type": "integer", "minimum": 0}, "All images within this Hamming distance."),
    "label": Parameter(TEXTS, "Only images that have one of these labels."),
    "under": Parameter(TEXTS, "Only images whose path matches one of these patterns, such as 2024/*."),
    "exact": Parameter(
        {"type": "boolean"}, "false: what the index's own probes find; each answer says whether it is exact."
    ),
}


@dataclass(frozen=True, slots=True)
class Asked:
    """How to search, and what for."""

    k: int | None
    radius: int | None
    how: How

    @classmethod
    def of(cls, values: Mapping[str, Any], bits: int, limits: Limits) -> Asked:
        """From checked or unchecked values by name.

        Raises:
            Refused: a value that is not what it may be, or a name that there is not.
        """
        _known(values, PARAMETERS)
        k, radius = (_number(values, name) for name in ("k", "radius"))
        if k is not None and radius is not None:
            raise Refused(422, "both k and radius were given: give one of them")
        if k is not None and not 1 <= k <= limits.k:
            raise Refused(422, f"k is {k}: give 1 to {limits.k:,}")
        if radius is not None and not 0 <= radius <= bits:
            raise Refused(422, f"radius is {radius}: codes have {bits} bits, give 0 to {bits}")
        exact = values.get("exact", True)
        if not isinstance(exact, bool):
            raise Refused(422, f"exact is {str(exact)[:40]!r}: give true or false")
        how: How = {"exact": exact, "labels": _texts(values, "label"), "paths": _texts(values, "under")}
        return cls(DEFAULT_K if k is None and radius is None else k, radius, how)

    @classmethod
    def of_query(cls, query: QueryParams, bits: int, limits: Limits) -> Asked:
        """From a query string."""
        values: dict[str, Any] = {}
        for name in query:
            given = query.getlist(name)
            if name in ("label", "under"):
                values[name] = given
                continue
            if len(given) > 1:
                raise Refused(422, f"{name[:40]} was given {len(given)} times: give it once")
            values[name] = _READ.get(name, str)(given[0])
        return cls.of(values, bits, limits)


def codes_of(body: Mapping[str, Any], bits: int, limits: Limits) -> Codes:
    """Packed codes, uint8 (n, ceil(K/8)), from "code" or "codes": hexadecimal, bit j at bit j % 8 of byte j // 8.

    Raises:
        Refused: other than that, or of another length, or with bits beyond K.
    """
    given = body["codes"] if "codes" in body else [body["code"]]
    if not isinstance(given, list) or not given or len(given) > limits.codes:
        raise Refused(422, f"codes: give a list of 1 to {limits.codes:,} codes in hexadecimal")
    width = -(-bits // 8)
    codes = []
    for number, text in enumerate(given):
        try:
            code = binascii.unhexlify(text)
        except (TypeError, ValueError):
            raise Refused(422, f"code {number} is not hexadecimal: {str(text)[:40]!r}") from None
        if len(code) != width:
            raise Refused(422, f"code {number} has {len(code)} bytes: codes of {bits} bits have {width}")
        if bits % 8 and code[-1] >> bits % 8:
            raise Refused(422, f"code {number} has more than {bits} bits: pad the last byte with zeros")
        codes.append(np.frombuffer(code, np.uint8))
    return np.stack(codes)


def json_of(body: bytes) -> dict[str, Any]:
    """A request's JSON object; Refused for anything else."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        raise Refused(400, "the body is not JSON: send an object, or an image as image/jpeg or so") from None
    if not isinstance(found, dict):
        raise Refused(400, 'the body is JSON but no object: send {"id": 7}, say')
    named = [name for name in NAMED if name in found]
    if len(named) != 1:
        raise Refused(422, f"give one of {', '.join(NAMED)}" + (f", not {' and '.join(named)}" if named else ""))
    return found


def whole_number(text: str, name: str, least: int, most: int) -> int:
    """A number of a query string or a path; Refused for anything else."""
    number = _whole(text)
    if not isinstance(number, int) or not least <= number <= most:
        raise Refused(422, f"{name} is {text[:40]!r}: give a whole number from {least:,} to {most:,}")
    return number


def _whole(text: str) -> Any:
    return int(text) if text.isascii() and text.removeprefix("-").isdigit() and len(text) < 19 else text


def _truth(text: str) -> Any:
    return {"true": True, "false": False}.get(text, text)


_READ: dict[str, Callable[[str], Any]] = {"k": _whole, "radius": _whole, "exact": _truth}


def _known(values: Mapping[str, Any], names: Mapping[str, Any]) -> None:
    if unknown := values.keys() - names.keys():
        raise Refused(422, f"{min(unknown)[:40]!r} is no parameter: give {', '.join(names)}")


def _number(values: Mapping[str, Any], name: str) -> int | None:
    value = values.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise Refused(422, f"{name} is {str(value)[:40]!r}: give a whole number")
    return value


def _texts(values: Mapping[str, Any], name: str) -> list[str] | None:
    value = values.get(name)
    if value is None:
        return None
    texts = [value] if isinstance(value, str) else value
    right = isinstance(texts, list) and all(isinstance(text, str) and len(text) <= LONGEST_TEXT for text in texts)
    if not right or not 0 < len(texts) <= MOST_TEXTS:
        raise Refused(422, f"{name}: give 1 to {MOST_TEXTS} texts of at most {LONGEST_TEXT:,} characters")
    return texts
