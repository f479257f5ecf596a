"""Processes of our own, one a device: what is asked is answered by one that is free."""

from __future__ import annotations

import multiprocessing
import queue
import signal
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from hashfaiss.errors import HashfaissError

Answer = Callable[[Any], Any]


class Crew:
    """One spawned process for each of `given`; each first makes what answers, `make(*given)`.

    Spawned, because neither torch nor FAISS survives a fork. A script that makes one needs the usual
    `if __name__ == "__main__"`.

    Raises:
        HashfaissError: what `make` raised, or a process ended.
    """

    def __init__(self, make: Callable[..., Answer], given: Sequence[tuple[Any, ...]]) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._free: queue.SimpleQueue[tuple[BaseProcess, Connection]] = queue.SimpleQueue()
        self._all: list[tuple[BaseProcess, Connection]] = []
        for arguments in given:
            ours, theirs = spawn.Pipe()
            process = spawn.Process(target=_serve, args=(theirs, make, arguments), daemon=True)
            process.start()
            theirs.close()  # so that its end is seen here
            self._all.append((process, ours))
        try:
            for member in self._all:
                self._answer_of(member)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, question: object) -> Any:
        """Its answer; waits for a process that is free. What it raised is raised here."""
        process, connection = self._free.get()
        try:
            connection.send(question)
        except OSError:
            raise _ended(process) from None
        return self._answer_of((process, connection))

    def close(self) -> None:
        """End all processes, whatever they do."""
        for process, connection in self._all:
            process.terminate()
            process.join()
            connection.close()

    def _answer_of(self, member: tuple[BaseProcess, Connection]) -> Any:
        try:
            answer = member[1].recv()
        except (EOFError, OSError):
            raise _ended(member[0]) from None
        self._free.put(member)
        if isinstance(answer, BaseException):
            raise answer
        return answer


def _ended(process: BaseProcess) -> HashfaissError:
    process.join(1)
    return HashfaissError(
        f"a process that was encoding ended (exit code {process.exitcode}): was it killed, or memory short? "
        "What was committed is kept; run the same again"
    )


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
                answered = _told(error)
            connection.send(answered)
    except (EOFError, OSError):
        return  # the first process is gone
    except Exception as error:
        connection.send(_told(error))


def _told(error: Exception) -> HashfaissError:
    return error if isinstance(error, HashfaissError) else HashfaissError(f"{type(error).__name__}: {error}")
