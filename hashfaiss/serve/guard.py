"""Who may ask, from where, and how much at once: what every request passes before it is looked at."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import time
from http.cookies import CookieError, SimpleCookie

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hashfaiss.serve.limits import Limits
from hashfaiss.serve.measured import Measured
from hashfaiss.serve.refusals import Refused

COOKIE = "hashfaiss"
OPEN = frozenset({"/", "/page.css", "/page.js", "/mark.svg", "/healthz", "/login"})  # nothing of the index is in them
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


def is_loopback(host: str) -> bool:
    """Whether an address is one that only this machine reaches."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Gate:
    """The token, in a header or in the cookie that the page is given for it.

    Args:
        token: None lets everybody in who asks this machine by one of its own names. Another name means that a page from
            elsewhere had its own name resolved to this machine.
    """

    def __init__(self, token: str | None) -> None:
        self._token = None if token is None else token.encode()

    def cookie(self) -> str:
        """What proves, in a cookie, that the token was known; the token is not in it."""
        assert self._token is not None
        return hmac.new(self._token, b"hashfaiss page", hashlib.sha256).hexdigest()

    def matches(self, given: str) -> bool:
        """Whether it is the token, in time that tells nothing of it."""
        return self._token is None or hmac.compare_digest(given.encode("utf-8", "replace"), self._token)

    def check(self, path: str, headers: Headers) -> None:
        """Refused for who may not ask."""
        host = headers.get("host", "")
        origin = headers.get("origin")
        if origin is not None and origin.split("://", 1)[-1] != host:
            raise Refused(403, f"pages of {origin[:100]} may not ask this service: open its own page")
        elsewhere = headers.get("sec-fetch-site", "none") not in ("same-origin", "none")
        if elsewhere and headers.get("sec-fetch-dest") != "document":  # by an image of theirs, say, which has no Origin
            raise Refused(403, "pages of other sites may not ask this service: open its own page")
        if self._token is None:
            if not is_loopback(_name_of(host)):
                raise Refused(403, f"asked as {host[:100]!r}: without a token, ask as 127.0.0.1 or localhost")
            return
        if path in OPEN:
            return
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self.matches(given.strip()):
            return
        if hmac.compare_digest(_cookie(headers).encode("utf-8", "replace"), self.cookie().encode()):
            return
        raise Refused(
            401, "this service needs its token: send Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"}
        )


def _name_of(host: str) -> str:
    """A Host header's name, without the port and an IPv6 address's brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _cookie(headers: Headers) -> str:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found is not None else ""


class Guard:
    """ASGI middleware: the gate, requests at work, time, headers for browsers, and what is counted.

    A request whose body is still coming is not at work: it holds a connection, and what came of the body. Nor is one
    for what everybody may have, which takes no time.
    """

    def __init__(self, app: ASGIApp, gate: Gate, limits: Limits, measured: Measured) -> None:
        self._app, self._gate, self._limits, self._measured = app, gate, limits, measured
        self._in_flight = self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500
        begun = False
        working, held = scope["path"] not in OPEN, 0
        coming = working

        async def answer(message: Message) -> None:
            nonlocal status, begun
            if message["type"] == "http.response.start":
                status, begun = message["status"], True
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        async def body() -> Message:
            nonlocal coming, held
            if not coming:
                return await receive()
            self._work(-1)
            try:
                message = await receive()
            finally:
                self._work(1)
            self._admit()
            coming = message.get("more_body", False)
            held += (more := len(message.get("body", b"")))
            self._held += more
            return message

        self._work(working)
        try:
            self._gate.check(scope["path"], Headers(scope=scope))
            if working:
                self._admit()
            async with asyncio.timeout(self._limits.seconds):
                await self._app(scope, body, answer)
        except Refused as refused:
            await refused.response()(scope, receive, answer)
        except TimeoutError:
            if not begun:
                late = Refused(408, f"not done in {self._limits.seconds:g} seconds: ask for less, or send faster")
                await late.response()(scope, receive, answer)
        finally:
            self._work(-working)
            self._held -= held
            route = scope.get("route")
            endpoint = getattr(route, "path", "none")  # of the routes there are: a stranger adds no name to the metrics
            self._measured.requests.labels(endpoint, str(status)).inc()
            self._measured.seconds.labels(endpoint).observe(time.perf_counter() - started)

    def _work(self, more: int) -> None:
        self._in_flight += more
        self._measured.in_flight.set(self._in_flight)

    def _admit(self) -> None:
        most = self._limits.in_flight
        if self._in_flight > most or self._held > most * self._limits.upload_bytes:
            raise Refused.busy(f"{most} requests are worked on, as many as may")
