"""Images that requests bring, encoded together: whatever waits goes next, and nothing waits for more to come."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Generic, TypeVar

from hashfaiss.serve.refusals import Refused

Given = TypeVar("Given")
Made = TypeVar("Made")


class Batcher(Generic[Given, Made]):
    """Does work for many at once, in one thread.

    Items that wait when the thread is free are taken together. An item whose asker has gone is passed over. Where work
    on several fails, each is tried alone, so that one that cannot be done spoils no other.

    Args:
        work: items → as many results, in their order.
        most: items taken together.
        waiting: items that may wait; those beyond are refused.
        tell: called with the number of items of each batch.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Given]], Sequence[Made]],
        most: int,
        waiting: int,
        tell: Callable[[int], object] = lambda _: None,
    ) -> None:
        self._work, self._most, self._room, self._tell = work, most, waiting, tell
        self._queue: deque[tuple[Given, asyncio.Future[Made]]] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="network")
        self._running: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """Items that wait."""
        return len(self._queue)

    async def ask(self, item: Given) -> Made:
        """The result for one item.

        Raises:
            Refused: as many wait as may.
        """
        if len(self._queue) >= self._room:
            raise Refused.busy(f"{self._room} images wait to be encoded, as many as may")
        asked: asyncio.Future[Made] = asyncio.get_running_loop().create_future()
        self._queue.append((item, asked))
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        return await asked

    async def close(self) -> None:
        """End the thread, after what it is at. Those that wait are cancelled."""
        for _, asked in self._queue:
            asked.cancel()
        if self._running is not None:
            with suppress(asyncio.CancelledError):
                await self._running
        self._thread.shutdown(wait=True, cancel_futures=True)

    async def _run(self) -> None:
        try:
            while batch := self._next():
                self._tell(len(batch))
                for (_, asked), made in zip(batch, await self._made([item for item, _ in batch]), strict=True):
                    if asked.done():  # its asker has gone meanwhile
                        continue
                    if isinstance(made, BaseException):
                        asked.set_exception(made)
                    else:
                        asked.set_result(made)
        finally:
            self._running = None

    def _next(self) -> list[tuple[Given, asyncio.Future[Made]]]:
        batch: list[tuple[Given, asyncio.Future[Made]]] = []
        while self._queue and len(batch) < self._most:
            item, asked = self._queue.popleft()
            if not asked.done():
                batch.append((item, asked))
        return batch

    async def _made(self, items: list[Given]) -> Sequence[Made | Exception]:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, self._work, items)
        except Exception as error:
            if len(items) == 1:
                return [error]
        return [made for item in items for made in await self._made([item])]
