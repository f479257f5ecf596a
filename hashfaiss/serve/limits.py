"""What a service bears."""

from __future__ import annotations

from dataclasses import dataclass, fields

from hashfaiss.errors import ArgumentError


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what strangers ask for; each refusal names the one it met.

    Attributes:
        upload_bytes: of a request's body.
        in_flight: requests that are worked on; those beyond are told to come again.
        waiting: images that wait for the network.
        seconds: that a request may take, its upload included.
        codes: asked with in one request.
        k: nearest images asked for.
        hits: in one answer of a radius; the nearest are given.
        thumbnail_bytes: of small pictures kept in memory.
        shutdown_seconds: that requests are given to end when the service does.
    """

    upload_bytes: int = 32 << 20
    in_flight: int = 64
    waiting: int = 64
    seconds: float = 30.0
    codes: int = 1000
    k: int = 1000
    hits: int = 1000
    thumbnail_bytes: int = 64 << 20
    shutdown_seconds: int = 10

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not value > 0:
                raise ArgumentError(f"{field.name} is {value}: give more than 0")
