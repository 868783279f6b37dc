"""The call store: every received answer and every terminal failure, by content, shared by all runs; and its address.

An answer counts as received once `put`'s future is done: then it is committed and survives `kill -9`. While the
database is away, answers wait in memory and readers wait too (store_writer.py). Retryable failures are never stored.
SQLite or PostgreSQL, by URL. Several processes may use one store: the holder of a list of requests sends them, the
others wait for its answers.
"""

import itertools
import os
import secrets
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from tapir_core import errors, paths
from tapir_core.calls import types, wire
from tapir_core.calls.budget import Attempt, Settlement
from tapir_core.config import BudgetConfig, RunConfig

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from tapir_core.calls.store_writes import Change, Write

A = TypeVar("A")
T = TypeVar("T")


class AnswerStore(AbstractContextManager["AnswerStore"]):
    """Safe to use from many threads. A thread of its own writes, and commits queued writes in groups."""

    def __init__(self, url: str, *, longest_seconds: float | None = None) -> None:
        """Open the store at ``url`` (`sqlite:///path/store.sqlite`, `postgresql://host/database`), made if missing.

        While the database is away it waits at most ``longest_seconds`` (600; commands that only read wait for none).

        Raises:
            ConfigError: the URL is not supported, or the store was written by a newer version.
            MissingPrerequisite: the database cannot be reached or written.
        """
        from tapir_core.calls import store_rows, store_tables, store_writes
        from tapir_core.calls.store_writer import GroupWriter, Patience
        from tapir_core.processes import Heart

        self._rows, self._tables, self._writes = store_rows, store_tables, store_writes
        self._engine = store_tables.open_engine(url)
        self._patience = Patience("the call store", longest_seconds=longest_seconds)
        self._holder = secrets.token_hex(16)
        self._writer = GroupWriter("tapir-store-writer", self._commit)
        self._heart = Heart("the call store", partial(self._writer.submit, store_writes.beat))

    def lookup(self, keys: Sequence[str]) -> dict[str, types.Outcome]:
        """The stored outcome of each key in the store."""
        return self._read(self._rows.read_outcomes, keys)

    def known(self, keys: Sequence[str]) -> set[str]:
        """Which of ``keys`` are in the store; cheaper than `lookup`, because it reads no text."""
        return self._read(partial(self._tables.read_known, column=self._tables.answers.c.key), keys)

    def take_shard(self, shard: str) -> bool:
        """Claim a list of requests, by its digest, unless another living process holds it; returns if it is ours."""
        self._heart.begin()
        return bool(self._writer.submit(partial(self._writes.take_shard, shard=shard)).result())

    def give_shard_back(self, shard: str) -> Future[None]:
        """Release it; the end of this process does the same."""
        return self._writer.submit(partial(self._writes.give_shard_back, shard=shard))

    def book(self, attempts: Sequence[Attempt], budget: BudgetConfig) -> Future[list[str]]:
        """Book attempts before they are sent; gives for each the cap that has no room for it, or an empty text.

        What is booked counts as spent until it is settled, also if this process is killed.
        """
        return self._writer.submit(self._writes.Book(tuple(attempts), budget), rows=len(attempts))

    def settle(self, settlement: Settlement) -> Future[None]:
        """Record the result of an attempt; no need to wait for it."""
        return self._writer.submit(settlement)

    def lead(self, write: "Change") -> Future[Any]:
        """Write something about a batch at a provider, or take it over; the future holds the result of the write.

        A batch outlives this process: the next process that asks for its requests continues it.
        """
        return self._writer.submit(write)

    def batched(self, keys: Sequence[str]) -> set[str]:
        """Which of ``keys`` are in a batch that has not ended."""
        return self._read(partial(self._tables.read_known, column=self._tables.batch_rows.c.key), keys)

    def put(self, key: str, request: types.Request, reply: wire.Reply) -> Future[types.Outcome]:
        """Store the reply to ``request``.

        Returns:
            A future that is done after the commit: the reply's outcome, or the one that another process stored first.
        """
        outcome = reply.outcome
        assert not (isinstance(outcome, types.Failure) and outcome.retryable), "a retryable failure is never stored"
        return self._writer.submit(self._writes.Put(self._rows.make_row(key, request, reply), outcome))

    def forget(self, keys: Sequence[str]) -> Future[int]:
        """Delete outcomes, so that their requests are sent again; the future holds how many there were."""
        return self._writer.submit(partial(self._writes.forget, keys=tuple(keys)))

    def count_reuse(self, requests: Sequence[types.Request]) -> Future[None]:
        """Count requests that were answered from the store; no need to wait for it."""
        counts = Counter[tuple[str, ...]](
            (each.role, each.model, each.identity, each.prompt_version, each.run) for each in requests
        )
        return self._writer.submit(partial(self._writes.count_reuse, counts=counts))

    def count_useless(self, key: str, reply: str, more: int) -> Future[int]:
        """Count replies without an answer to a request; the future holds how many in a row were the same."""
        return self._writer.submit(partial(self._writes.count_useless, key=key, reply=reply, more=more))

    def forgive(self, replies: Sequence[str]) -> Future[None]:
        """Forget what was counted of replies without an answer, by their digests; no need to wait for it."""
        return self._writer.submit(partial(self._writes.forgive, replies=tuple(replies)))

    def add_seconds(self, run: str, role: str, seconds: float) -> Future[None]:
        """Add working time to what ``run`` has spent."""
        return self._writer.submit(partial(self._writes.add_seconds, run=run, role=role, seconds=seconds))

    def spend_by_role(self, run: str) -> Mapping[str, types.Spend]:
        """What the run with the id ``run`` has spent, by what the calls were for, over all its starts and processes."""
        return self._read(self._rows.read_spend, run)

    def close(self) -> None:
        """Commit queued writes, release everything, close. Closing twice is the same as once."""
        if self._heart.is_alive():
            self._heart.stop()
            self._writer.submit(self._writes.leave)
        self._patience.close()
        self._writer.close()
        self._engine.dispose()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _commit(self, queued: "Sequence[Write]") -> list[Any]:
        tries = itertools.count()
        return self._patience.try_until_back(
            lambda: self._writes.commit(self._engine, self._holder, queued, repeated=next(tries) > 0)
        )

    def _read(self, read: "Callable[[Connection, A], T]", wanted: A) -> T:
        def once() -> T:
            with self._engine.connect() as connection:
                return read(connection, wanted)

        return self._patience.try_until_back(once)


def root_store_url(root: str) -> str:
    """URL of the store that the runs of ``root`` share unless their `calls.store_url` names another.

    Raises:
        ConfigError: the root is not on this machine; its runs keep their answers at their `calls.store_url`.
    """
    if "://" in root:
        raise errors.ConfigError(
            f"the runs of {root!r} keep their answers at their calls.store_url; set it, or name it with --store"
        )
    return f"sqlite:///{quote(str(Path(root, paths.STORE).absolute()))}"


def store_url(config: RunConfig) -> str:
    """URL of a run's store: the configured database, or the root's SQLite file."""
    return config.calls.store_url or root_store_url(config.run.root)


def run_key(config: RunConfig) -> str:
    """The address of a run, which names it for every process."""
    root = config.run.root
    # With a database of their own, machines may have other links to one folder; a file of the root is one by any name.
    here = os.path.realpath if config.calls.store_url is None else os.path.abspath
    return f"{root.rstrip('/') if '://' in root else here(root)}/{config.run.name}"
