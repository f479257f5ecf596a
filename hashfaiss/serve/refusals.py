"""How a request is refused: a status, and a reason for people."""

from __future__ import annotations

from starlette.responses import JSONResponse

RETRY_SECONDS = 1


class Refused(Exception):
    """A request that is not answered, with the HTTP status that says why."""

    def __init__(self, status: int, reason: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(reason)
        self.status, self.reason, self.headers = status, reason, headers or {}

    @classmethod
    def busy(cls, what: str) -> Refused:
        """Too much is asked for just now."""
        return cls(503, f"{what}: try again in a moment", {"Retry-After": str(RETRY_SECONDS)})

    def response(self) -> JSONResponse:
        """What the client gets."""
        return JSONResponse({"error": self.reason}, self.status, self.headers)
