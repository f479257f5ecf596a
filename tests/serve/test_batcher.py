"""What waits goes together; what fails alone spoils no other; who has gone is passed over."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from hashfaiss.serve.batcher import Batcher
from hashfaiss.serve.refusals import Refused


class Slow:
    """Work that waits to be let go, and remembers what it was given."""

    def __init__(self) -> None:
        self.given: list[list[int]] = []
        self.go = threading.Semaphore(0)

    def __call__(self, items: Sequence[int]) -> list[int]:
        assert self.go.acquire(timeout=60)
        self.given.append(list(items))
        if any(item < 0 for item in items):
            raise ValueError("below 0")
        return [item * item for item in items]


async def begun(batcher: Batcher[int, int], *items: int) -> list[asyncio.Task[int]]:
    tasks = [asyncio.create_task(batcher.ask(item)) for item in items]
    for _ in range(5):
        await asyncio.sleep(0)
    return tasks


def test_what_waits_goes_together_and_no_more_than_may() -> None:
    async def main() -> None:
        work, told = Slow(), list[int]()
        batcher = Batcher(work, most=3, waiting=10, tell=told.append)
        first = await begun(batcher, 1)
        rest = await begun(batcher, 2, 3, 4, 5)
        work.go.release(3)
        assert await asyncio.gather(*first, *rest) == [1, 4, 9, 16, 25]
        assert work.given == [[1], [2, 3, 4], [5]]
        assert told == [1, 3, 1]
        again = await begun(batcher, 6)  # it sleeps, and wakes
        work.go.release()
        assert await again[0] == 36
        await batcher.close()

    asyncio.run(main())


def test_what_fails_is_tried_alone() -> None:
    async def main() -> None:
        work = Slow()
        batcher = Batcher(work, most=8, waiting=10)
        first = await begun(batcher, 0)
        rest = await begun(batcher, 1, -2, 3)
        work.go.release(20)
        results = await asyncio.gather(*first, *rest, return_exceptions=True)
        assert [str(result) for result in results] == ["0", "1", "below 0", "9"]
        assert work.given == [[0], [1, -2, 3], [1], [-2], [3]]
        await batcher.close()

    asyncio.run(main())


def test_who_has_gone_is_passed_over() -> None:
    async def main() -> None:
        work = Slow()
        batcher = Batcher(work, most=8, waiting=10)
        (first,) = await begun(batcher, 1)
        second, third = await begun(batcher, 2, 3)
        second.cancel()
        first.cancel()  # while it is worked on
        work.go.release(2)
        assert await third == 9
        assert work.given == [[1], [3]]
        await batcher.close()

    asyncio.run(main())


def test_more_than_may_wait_are_refused() -> None:
    async def main() -> None:
        work = Slow()
        batcher = Batcher(work, most=1, waiting=2)
        first = await begun(batcher, 1)
        rest = await begun(batcher, 2, 3)
        with pytest.raises(Refused, match="2 images wait") as refused:
            await batcher.ask(4)
        assert refused.value.status == 503
        assert refused.value.headers["Retry-After"]
        work.go.release(3)
        assert await asyncio.gather(*first, *rest) == [1, 4, 9]
        await batcher.close()

    asyncio.run(main())


def test_closing_ends_what_waits() -> None:
    async def main() -> None:
        work = Slow()
        batcher = Batcher(work, most=1, waiting=5)
        first, second = await begun(batcher, 1, 2)
        closing = asyncio.create_task(batcher.close())
        await asyncio.sleep(0)
        work.go.release(2)
        await closing
        assert await first == 1
        assert second.cancelled() or second.done()
        assert work.given == [[1]]

    asyncio.run(main())


def test_several_threads_share_what_waits() -> None:
    async def main() -> None:
        work = Slow()
        batcher = Batcher(work, most=8, waiting=20, threads=2)
        tasks = await begun(batcher, *range(3))
        tasks += await begun(batcher, *range(3, 9))
        work.go.release(20)
        assert await asyncio.gather(*tasks) == [item * item for item in range(9)]
        assert sorted(item for batch in work.given for item in batch) == list(range(9))
        assert all(len(batch) <= 5 for batch in work.given)
        assert len(work.given) > 2
        again = await begun(batcher, 9)
        assert await again[0] == 81
        await batcher.close()

    asyncio.run(main())
