"""Images that requests bring, encoded together: whatever waits goes next, and nothing waits for more to come."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from hashfaiss.serve.refusals import Refused

Given = TypeVar("Given")
Made = TypeVar("Made")


class Batcher(Generic[Given, Made]):
    """Does work for many at once, in a few threads.

    Items that wait when a thread is free are taken together. An item whose asker has gone is passed over. Where work
    on several fails, each is tried alone, so that one that cannot be done spoils no other.

    Args:
        work: items → as many results, in their order.
        most: items taken together.
        waiting: items that may wait; those beyond are refused.
        tell: called with the number of items of each batch.
        threads: that work, each on a batch of its own.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Given]], Sequence[Made]],
        most: int,
        waiting: int,
        tell: Callable[[int], object] = lambda _: None,
        threads: int = 1,
    ) -> None:
        self._work, self._most, self._room, self._tell, self._threads = work, most, waiting, tell, threads
        self._queue: deque[tuple[Given, asyncio.Future[Made]]] = deque()
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix="network")
        self._running = set[asyncio.Task[None]]()

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
        if len(self._running) < self._threads:
            running = asyncio.create_task(self._run())
            self._running.add(running)
        return await asked

    async def close(self) -> None:
        """End the threads, after what they are at. Those that wait are cancelled."""
        for _, asked in self._queue:
            asked.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        self.pool.shutdown(wait=True, cancel_futures=True)

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
            self._running.remove(asyncio.current_task())  # type: ignore[arg-type]

    def _next(self) -> list[tuple[Given, asyncio.Future[Made]]]:
        batch: list[tuple[Given, asyncio.Future[Made]]] = []
        share = min(self._most, -(-len(self._queue) // self._threads))
        while self._queue and len(batch) < share:
            item, asked = self._queue.popleft()
            if not asked.done():
                batch.append((item, asked))
        return batch

    async def _made(self, items: list[Given]) -> Sequence[Made | Exception]:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self.pool, self._work, items)
        except Exception as error:
            if len(items) == 1:
                return [error]
        return [made for item in items for made in await self._made([item])]
