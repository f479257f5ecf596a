"""Searching codes that lie on the machines of a Ray cluster: each actor holds the FAISS index of some segments.

An actor opens the index folder itself, which every machine must see, and takes no codes from another. One that ends is
started again and loads its segments when it is next asked; until then answers say that it is missing.
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np
import numpy.typing as npt

from hashfaiss.cluster.joining import joined
from hashfaiss.encoding.crew import told
from hashfaiss.errors import ArgumentError, HashfaissError
from hashfaiss.indexes import Answers, CodeIndex, Parts
from hashfaiss.indexes.kinds import usable
from hashfaiss.indexes.snapshot import Question
from hashfaiss.storage.manifest import digest_of
from hashfaiss.storage.paths import Int64
from hashfaiss.storage.store import CodeStore

SECONDS = 3.0  # after which a part is asked whether it is at work; as long after that, it is missing from the answer
TRIES = 3  # of a question that ended its actor
SIGNS = "signs"  # a thread of each actor that answers while the other one works


class Share(NamedTuple):
    """Segments of one generation of an index folder, by their number."""

    folder: Path
    manifest: str  # its digest
    segments: tuple[int, ...]
    kind: str
    threads: int  # to search a batch in


class ShardedCodes(Parts):
    """Codes of an index folder, shared out to actors: searched as `hashfaiss.indexes.CodeIndex` is.

    Exact answers are those of one index over all codes, bit for bit; approximate ones are those of each part's kind.

    Args:
        store: of the folder, as it is open here.
        shards: actors; no more than there are segments.
        address: see `hashfaiss.cluster.joining.joined`.

    Raises:
        ArgumentError: the store is in memory, or `shards` is below 1.
        HashfaissError: Ray cannot be joined, or an actor does not see the folder.
    """

    def __init__(self, store: CodeStore, shards: int, address: str | None = None) -> None:
        if store.path is None or shards < 1:
            raise ArgumentError(f"{shards} shards of an index at {store.path}: give 1 or more, of an index in a folder")
        super().__init__(store.bits)
        self._ray = joined(address)
        cores = int(self._ray.cluster_resources().get("CPU", 1))
        self._shares = _shared_out(store, shards, cores)
        made = self._ray.remote(concurrency_groups={SIGNS: 1})(Holder).options(
            num_cpus=0, max_restarts=-1, max_task_retries=TRIES, scheduling_strategy="SPREAD"
        )
        self._actors = [made.remote() for _ in self._shares]
        self._only: tuple[str | None, Any] = None, None
        pairs = zip(self._actors, self._shares, strict=True)
        for number, one in enumerate([actor.load.remote(share) for actor, share in pairs], start=1):
            if (why := self._answer(one)) is not None:
                ended = f"part {number} of {len(self._shares)} ended as it loaded its segments: is memory short?"
                raise HashfaissError(why or ended)

    def only(self, ids: npt.ArrayLike) -> ShardedCodes:
        """Those of these ids alone, on the same actors."""
        part = object.__new__(ShardedCodes)
        part.__dict__.update(self.__dict__)
        given = self._ray.put(np.unique(np.asarray(ids, np.int64)))
        part._only = given.hex(), given
        return part

    def each(self, question: Question, *given: Any) -> list[Answers]:
        """See `Parts.each`; of a part that does not answer, nothing but its name.

        Raises:
            HashfaissError: none answers.
        """
        pairs = zip(self._actors, self._shares, strict=True)
        asked = [actor.answer.remote(share, *self._only, question, *given) for actor, share in pairs]
        late = self._late(asked)
        found = ["" if number in late else self._answer(one) for number, one in enumerate(asked)]
        if not any(isinstance(answers, Answers) for answers in found):
            why = next((f" ({reason})" for reason in found if reason), "")
            raise HashfaissError(
                f"none of the {len(found)} parts of {str(self._shares[0].folder)!r} answers{why}: ask again later"
            )
        return [
            answers if isinstance(answers, Answers) else self._absent(number, answers, len(given[0]))
            for number, answers in enumerate(found)
        ]

    def _late(self, asked: list[Any]) -> set[int]:
        """Numbers of those that are not answered, and that no actor works at: it is gone, or loads its segments."""
        late, waiting = set[int](), dict(enumerate(asked))
        while waiting:
            waiting = self._waited(waiting)
            signs = {
                number: self._actors[number].holds.options(concurrency_group=SIGNS).remote(self._shares[number])
                for number in waiting
            }
            none = self._waited(signs).keys()
            late |= {number for number, sign in signs.items() if number in none or self._answer(sign) is not True}
            waiting = {number: one for number, one in waiting.items() if number not in late}
        return late

    def _waited(self, asked: dict[int, Any]) -> dict[int, Any]:
        """Those that are not answered after some time."""
        if not asked:
            return {}
        done, _ = self._ray.wait(list(asked.values()), num_returns=len(asked), timeout=SECONDS)
        return {number: one for number, one in asked.items() if one not in done}

    def _answer(self, asked: Any) -> Any:
        """What an actor answered, or a text where it could not: why, where that is known."""
        try:
            answer = self._ray.get(asked)
        except self._ray.exceptions.RayActorError:  # it ended, and is started again
            return ""
        except self._ray.exceptions.RayError as error:
            return str(error).strip().split("\n")[-1]
        return str(answer) if isinstance(answer, Exception) else answer

    def _absent(self, number: int, why: str, queries: int) -> Answers:
        name = f"part {number + 1} of {len(self._shares)} of {str(self._shares[0].folder)!r}" + f" ({why})" * bool(why)
        offsets, nothing = np.zeros(queries + 1, np.int64), np.empty(0, np.int64)
        return Answers(offsets, nothing, nothing.astype(np.int32), np.zeros(queries, np.bool_), missing=(name,))

    def close(self) -> None:
        """End the actors."""
        for actor in self._actors:
            self._ray.kill(actor)


def _shared_out(store: CodeStore, shards: int, cores: int) -> list[Share]:
    """Segments, in as many shares of about as many rows as there are, each of one segment at least."""
    rows = [entry["rows"] for entry in store.manifest["segments"]]
    shares: list[list[int]] = [[] for _ in range(max(1, min(shards, len(rows))))]
    for number in sorted(range(len(rows)), key=lambda number: -rows[number]):
        min(shares, key=lambda share: sum(rows[one] for one in share)).append(number)
    built = (store.manifest.get("index") or {}).get("kind", "flat").partition(":")[0]
    assert store.path is not None
    about, threads = digest_of(store.manifest), max(1, cores // len(shares))
    return [Share(store.path, about, tuple(sorted(share)), built, threads) for share in shares]


class Holder:
    """What an actor does: it keeps the codes of the share that it was asked for last."""

    def __init__(self) -> None:
        self._share: Share | None = None
        self._codes = CodeIndex(bits=8, kind="flat")
        self._part: tuple[str | None, CodeIndex] = None, self._codes

    def holds(self, share: Share) -> bool:
        """Whether it has this share; answered while it searches or loads, too."""
        return share == self._share

    def load(self, share: Share) -> HashfaissError | None:
        """Hold this share, unless it does. What is wrong, or None."""
        try:
            self._load(share)
        except Exception as error:
            return told(error)
        return None

    def answer(
        self, share: Share, name: str | None, only: Int64 | None, question: Question, *given: Any
    ) -> Answers | HashfaissError:
        """What `question(snapshot, *given)` is of the share, or of the ids `only`, which have a name of their own."""
        try:
            self._load(share)
            return question(self._among(name, only).now, *given)
        except Exception as error:
            return told(error)

    def _load(self, share: Share) -> None:
        if share == self._share:
            return
        store = CodeStore.open(share.folder)
        if digest_of(store.manifest) != share.manifest:
            raise HashfaissError(
                f"{str(share.folder)!r} is of generation {store.manifest['generation']} on {socket.gethostname()!r}, "
                "and of another where it is asked: it was built again, so open it again"
            )
        codes, ids = store.codes(share.segments)
        faiss.omp_set_num_threads(share.threads)
        made = CodeIndex(codes, ids, store.bits, usable(share.kind))
        self._codes, self._part, self._share = made, (None, made), share

    def _among(self, name: str | None, only: Int64 | None) -> CodeIndex:
        if only is None:
            return self._codes
        if self._part[0] != name:
            self._part = name, self._codes.only(np.intersect1d(only, self._codes.distinct.ids))
        return self._part[1]
