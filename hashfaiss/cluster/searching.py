"""Searching codes that lie on the machines of a Ray cluster: each actor holds the FAISS index of some segments.

An actor opens the index folder itself, which every machine must see, and takes no codes from another. One that ends is
started again and loads its segments when it is next asked; until then answers say that it is missing.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from hashfaiss.cluster.joining import joined
from hashfaiss.codes import Codes
from hashfaiss.encoding.crew import told
from hashfaiss.errors import ArgumentError, HashfaissError
from hashfaiss.indexes import Answers, CodeIndex
from hashfaiss.indexes.kinds import usable
from hashfaiss.storage.paths import Int64
from hashfaiss.storage.store import CodeStore

Made = TypeVar("Made")
SECONDS = 5.0  # after which a part that does not answer is missing from an answer


class Share(NamedTuple):
    """Segments of one generation of an index folder, by their number."""

    folder: Path
    generation: int
    segments: tuple[int, ...]
    kind: str


class ShardedCodes:
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
        self.bits, self._store = store.bits, store
        self._shares = _shared_out(store, shards)
        self._ray = joined(address)
        made = self._ray.remote(Holder).options(
            num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy="SPREAD"
        )
        self._actors = [made.remote() for _ in self._shares]
        self._only: tuple[Int64, Any] | None = None
        for answer in self._ray.get([actor.load.remote(share) for actor, share in self._each()]):
            if isinstance(answer, Exception):
                raise answer

    def _each(self) -> list[tuple[Any, Share]]:
        return list(zip(self._actors, self._shares, strict=True))

    def search(self, queries: Codes, k: int = 10, exact: bool = False) -> Answers:
        """See `CodeIndex.search`."""
        return self._asked("search", queries, k, exact, k)

    def within(self, queries: Codes, radius: int, exact: bool = False) -> Answers:
        """See `CodeIndex.within`."""
        return self._asked("within", queries, radius, exact, None)

    def only(self, ids: Int64) -> ShardedCodes:
        """Those of these ids alone, on the same actors."""
        part = object.__new__(ShardedCodes)
        part.__dict__.update(self.__dict__)
        part._only = ids, self._ray.put(np.unique(ids))
        return part

    def reconstruct(self, ids: list[int]) -> Codes:
        """Codes (n, bytes) of these ids, from the folder as it is open here. ArgumentError where one is not there."""
        try:
            return np.stack([self._store.code(number) for number in ids])
        except KeyError as error:
            raise ArgumentError(f"no code has id {error}: ids are those of hits") from None

    def _asked(self, name: str, queries: Codes, number: int, exact: bool, k: int | None) -> Answers:
        if not len(queries):  # arguments alone are checked
            checked: Answers = getattr(CodeIndex(bits=self.bits, kind="flat"), name)(queries, number, exact)
            return checked
        only = None if self._only is None else self._only[1]
        asked = [actor.answer.remote(share, name, queries, number, exact, only) for actor, share in self._each()]
        done, _ = self._ray.wait(asked, num_returns=len(asked), timeout=SECONDS)
        parts, missing = list[Answers](), list[str]()
        for place, one in enumerate(asked, start=1):
            answer = self._answer(one) if one in done else None
            if answer is None:
                missing.append(f"part {place} of {len(asked)}")
            else:
                parts.append(answer)
        if not parts:
            raise HashfaissError(
                f"none of the {len(asked)} parts of {str(self._store.path)!r} answers: ask again later"
            )
        merged = Answers.merge(parts, k)
        if not missing:
            return merged
        none = np.zeros(len(merged), np.bool_)
        return Answers(merged.offsets, merged.ids, merged.distances, none, missing=tuple(missing))

    def _answer(self, asked: Any) -> Answers | None:
        """What an actor answered; None where it could not, for now."""
        try:
            answer = self._ray.get(asked)
        except self._ray.exceptions.RayError:
            return None
        if isinstance(answer, Exception):
            raise answer
        found: Answers = answer
        return found

    def close(self) -> None:
        """End the actors."""
        for actor in self._actors:
            self._ray.kill(actor)


def _shared_out(store: CodeStore, shards: int) -> list[Share]:
    """Segments, in as many shares of about as many rows as there are, each of one segment at least."""
    rows = [entry["rows"] for entry in store.manifest["segments"]]
    shares: list[list[int]] = [[] for _ in range(max(1, min(shards, len(rows))))]
    for number in sorted(range(len(rows)), key=lambda number: -rows[number]):
        min(shares, key=lambda share: sum(rows[one] for one in share)).append(number)
    built = (store.manifest.get("index") or {}).get("kind", "flat").partition(":")[0]
    assert store.path is not None
    generation = store.manifest["generation"]
    return [Share(store.path, generation, tuple(sorted(share)), usable(built)) for share in shares]


def _tried(work: Callable[[], Made]) -> Made | HashfaissError:
    try:
        return work()
    except Exception as error:
        return told(error)


class Holder:
    """What an actor does: it keeps the codes of the share that it was asked for last."""

    def __init__(self) -> None:
        self._share: Share | None = None
        self._codes = CodeIndex(bits=8, kind="flat")
        self._part: tuple[bytes, CodeIndex] | None = None

    def load(self, share: Share) -> HashfaissError | None:
        """Hold this share, unless it does. What is wrong, or None."""
        return _tried(lambda: self._load(share))

    def answer(
        self, share: Share, name: str, queries: Codes, number: int, exact: bool, only: Int64 | None
    ) -> Answers | HashfaissError:
        """What the share answers to `search` or `within`, among `only` these ids."""

        def search() -> Answers:
            self._load(share)
            found: Answers = getattr(self._among(only), name)(queries, number, exact)
            return found

        return _tried(search)

    def _load(self, share: Share) -> None:
        if share == self._share:
            return
        store = CodeStore.open(share.folder)
        if store.manifest["generation"] != share.generation:
            raise HashfaissError(
                f"{str(share.folder)!r} is of generation {store.manifest['generation']} on {socket.gethostname()!r}, "
                f"and of {share.generation} where it is asked: it was built again, so open it again"
            )
        codes, ids = store.codes(share.segments)
        self._codes, self._share, self._part = CodeIndex(codes, ids, store.bits, share.kind), share, None

    def _among(self, only: Int64 | None) -> CodeIndex:
        if only is None:
            return self._codes
        key = only.tobytes()
        if self._part is None or self._part[0] != key:
            own = np.intersect1d(only, self._codes.now.distinct.ids)
            self._part = key, self._codes.only(own)
        return self._part[1]
