"""Running the service: the address, who may reach it, and its end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import uvicorn

from hashfaiss.errors import ArgumentError, HashfaissError
from hashfaiss.serve.app import create_app
from hashfaiss.serve.desk import Desk
from hashfaiss.serve.guard import is_loopback
from hashfaiss.serve.limits import Limits

LEAST_TOKEN = 16  # characters
PATIENCE = 10  # seconds that a connection may be open and ask nothing


def serve(
    index: str | os.PathLike[str],
    host: str = "127.0.0.1",
    port: int = 8765,
    token: str | None = None,
    device: str = "auto",
    limits: Limits | None = None,
    ready: Callable[[str], None] = lambda url: None,
) -> None:
    """Serve the index at a folder until SIGINT or SIGTERM.

    Args:
        host, port: where to listen; port 0 takes a free one.
        token: what those who ask must know; needed to listen anywhere but on this machine.
        ready: called with the URL when requests are taken.

    Raises:
        ArgumentError: another address than this machine's without a token, a short token, a port there is not.
        IndexFolderError: there is no index, or a damaged one.
        HashfaissError: the address cannot be listened at.
    """
    limits = limits or Limits()
    if token is not None and (len(token) < LEAST_TOKEN or not token.isascii() or not token.isprintable()):
        raise ArgumentError(f"the token must be {LEAST_TOKEN} or more letters and digits")
    if token is None and not is_loopback(host):
        raise ArgumentError(
            f"host is {host!r}, which other machines reach: give a token for those who ask, or stay at 127.0.0.1"
        )
    with closing(_listening(host, port)) as listening:
        app = create_app(Desk(Path(index), device, limits.thumbnail_bytes), limits, token)
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=limits.shutdown_seconds,
            timeout_keep_alive=PATIENCE,
            limit_concurrency=8 * limits.in_flight,  # connections, also of those that never ask
            http="h11",  # the one that bounds headers
            ws="none",
            h11_max_incomplete_event_size=1 << 16,
        )
        asyncio.run(_run(_Server(config), listening, ready))


class _Server(uvicorn.Server):
    """Whom a signal tells to end, and no more: to be stopped is how a service ends well."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():  # signals are not for others to hear
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _listening(host: str, port: int) -> socket.socket:
    if not 0 <= port <= 65535:
        raise ArgumentError(f"port is {port}: give 0 to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(512)
        except OSError:
            listening.close()
            raise
    except (OSError, UnicodeError) as error:  # the latter for what is no host's name
        reason = getattr(error, "strerror", None) or "that is no address"
        raise HashfaissError(f"cannot listen at {host} port {port}: {reason}: give another --port or --host") from None
    return listening


async def _run(server: uvicorn.Server, listening: socket.socket, ready: Callable[[str], None]) -> None:
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    while not (server.started or serving.done()):
        await asyncio.sleep(0.01)
    if server.started:
        host, port = listening.getsockname()[:2]
        ready(f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/")
    sweeping = asyncio.create_task(_close_idle(server))
    await serving
    sweeping.cancel()


async def _close_idle(server: uvicorn.Server) -> None:
    """Close connections that have asked nothing for a while, or take nothing of an answer; uvicorn waits for ever."""
    connections: set[Any] = server.server_state.connections  # uvicorn's protocols of HTTP/1.1
    idle: dict[Any, tuple[int, float]] = {}
    while True:
        now = time.monotonic()
        quiet = [one for one in connections if one.cycle is None or one.cycle.response_complete]
        for one, left in {one: one.transport.get_write_buffer_size() for one in quiet}.items():
            before, since = idle.get(one, (left, now))
            idle[one] = left, since if left == before else now
            if now - since > PATIENCE and left == before:
                one.transport.abort()
        idle = {one: idle[one] for one in quiet}
        await asyncio.sleep(PATIENCE / 10)
