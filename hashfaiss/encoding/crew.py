"""Processes of our own, one a device: what is asked is answered by one that is free."""

from __future__ import annotations

import multiprocessing
import queue
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from hashfaiss.errors import HashfaissError

Answer = Callable[[Any], Any]
Member = tuple[BaseProcess, Connection]


class Crew:
    """One spawned process for each of `given`; each first makes what answers, `make(*given)`.

    Spawned, because neither torch nor FAISS survives a fork. A script that makes one needs the usual
    `if __name__ == "__main__"`. Once a process has ended, the others are asked nothing more.

    Raises:
        HashfaissError: what `make` raised, or a process ended.
    """

    def __init__(self, make: Callable[..., Answer], given: Sequence[tuple[Any, ...]]) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._free: queue.SimpleQueue[Member | None] = queue.SimpleQueue()  # None: no more
        self._all: list[Member] = []
        try:
            for arguments in given:
                ours, theirs = spawn.Pipe()
                process = spawn.Process(target=_serve, args=(theirs, make, arguments), daemon=True)
                with _no_ctrl_c():
                    process.start()
                self._all.append((process, ours))
                theirs.close()  # so that its end is seen here
            for member in self._all:
                self._exchange(member)
        except _EndedError as error:
            self.close()
            raise HashfaissError(
                f"a process could not be started ({error.reason}): a script that asks for several devices needs "
                "`if __name__ == '__main__':`"
            ) from None
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, question: object) -> Any:
        """Its answer; waits for a process that is free. What it raised is raised here."""
        member = self._free.get()
        if member is None:
            self._free.put(None)
            raise _EndedError("another process ended")
        return self._exchange(member, question)

    def _exchange(self, member: Member, *questions: object) -> Any:
        process, connection = member
        try:
            for question in questions:
                connection.send(question)
            answer = connection.recv()
        except BaseException as error:
            self._free.put(None)  # whoever waits for one that is free is told too
            if not isinstance(error, (EOFError, ConnectionError)):
                raise
            process.join(1)
            raise _EndedError(f"exit code {process.exitcode}") from None
        self._free.put(member)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def close(self) -> None:
        """End all processes, whatever they do."""
        self._free.put(None)
        for process, connection in self._all:
            process.terminate()
            process.join()
            connection.close()


class _EndedError(HashfaissError):
    def __init__(self, reason: str) -> None:
        super().__init__(f"a process ended in the middle of its work ({reason}): was it killed, or memory short?")
        self.reason = reason


@contextmanager
def _no_ctrl_c() -> Iterator[None]:
    """Processes started meanwhile ignore it from their first moment: the first process ends them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _serve(connection: Connection, make: Callable[..., Answer], given: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the first process ends the others
    try:
        answer = make(*given)
        connection.send(None)
        while True:
            question = connection.recv()
            try:
                answered = answer(question)
            except Exception as error:
                answered = told(error)
            connection.send(answered)
    except (EOFError, OSError):
        return  # the first process is gone
    except Exception as error:
        connection.send(told(error))


def told(error: Exception) -> HashfaissError:
    """What another process is told of an error."""
    return error if isinstance(error, HashfaissError) else HashfaissError(f"{type(error).__name__}: {error}")
