"""Leases of a run: its one driver, the one trainer of each student, and the processes that serve its student.

A row in the store's database names the process; processes.py says when a lease may be taken from its holder. The driver
asks for a replica (a row without a process); a worker takes it, serves, and sends heartbeats. Each sees when the other
is gone. Limit: rows hold addresses only; both sides derive the key of a server. Importing this module imports
SQLAlchemy.
"""

import logging
import secrets
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import sqlalchemy as sa

from tapir_core.calls import store_tables
from tapir_core.calls.store_writer import Patience
from tapir_core.processes import LAPSE, Heart, Holder, busy, is_free

logger = logging.getLogger(__name__)

_UNREACHABLE = "the call store cannot be reached: {}; check that its server runs"


@dataclass(frozen=True, slots=True)
class Holding:
    """A lease that is held, as any process sees it."""

    token: str
    lives: bool
    """False if the holder is gone from this machine, or silent for too long on another: then it may be taken."""


class RunLease:
    """The right to drive the run ``run_key``; a heartbeat thread keeps it while it is held."""

    def __init__(self, store_url: str, run_key: str, *, token: str | None = None, flow_run: str | None = None) -> None:
        """Prepare.

        Args:
            store_url: Of the database.
            run_key: What is held.
            token: 32 characters that name the holder; by default random.
            flow_run: Address of the driving flow run in the UI, if there is one.
        """
        self.token = token or secrets.token_hex(16)
        self._named = {"run_key": run_key, "token": self.token, "flow_run": flow_run}
        self._engine = store_tables.open_engine(store_url)
        self._patience = Patience(f"the lease of run {run_key}")
        self._heart = Heart(f"run {run_key}", self._beat)
        self._row = sa.select(store_tables.leases).where(store_tables.leases.c.run_key == run_key)
        self._ours = store_tables.leases.c.run_key == run_key, store_tables.leases.c.token == self.token

    def acquire(self) -> None:
        """Take the lease.

        Raises:
            RunBusy: another driver holds it.
        """
        with store_tables.writing(self._engine) as connection:
            mine = {
                **self._named,
                "since": store_tables.database_time(connection),
                **store_tables.own_process(connection),
            }
            connection.execute(store_tables.insert_or_ignore(connection.dialect.name, store_tables.leases).values(mine))
            (row,) = store_tables.with_silence(connection, self._row.with_for_update())
            is_taken = row["token"] != self.token and not is_free(row)
            if not is_taken:
                connection.execute(
                    sa.update(store_tables.leases).where(store_tables.leases.c.run_key == mine["run_key"]).values(mine)
                )
        if is_taken:
            self._engine.dispose()
            raise busy(row)
        self._heart.begin()

    def holds(self) -> bool:
        """Whether the lease is still ours; checked before anything of the run is promoted."""
        held = self._patience.try_until_back(self.holding)
        return held is not None and held.token == self.token

    def holding(self) -> Holding | None:
        """The current holder of the lease, this process or another; None if it is free."""
        with self._engine.connect() as connection:
            rows = store_tables.with_silence(connection, self._row)
        return Holding(rows[0]["token"], lives=not is_free(rows[0])) if rows else None

    def hurry(self) -> None:
        """Wait only a little from now on for a database that is away, because the process is ending."""
        self._patience.close()

    def release(self) -> None:
        """Give the lease back. Releasing twice is the same as once.

        A database that cannot be written is no error: the lease is free once this process is gone.
        """
        self.hurry()
        try:
            if self._heart.is_alive():
                self._heart.stop()
                self._patience.try_until_back(self._drop)
        except sa.exc.SQLAlchemyError as error:
            logger.warning(
                "the lease of run %s could not be given back (%s): it is free when this process has ended",
                self._named["run_key"],
                store_tables.reason_of(error),
            )
        finally:
            self._engine.dispose()

    def __enter__(self) -> "RunLease":
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _drop(self) -> None:
        with store_tables.writing(self._engine) as connection:
            connection.execute(sa.delete(store_tables.leases).where(*self._ours))

    def _beat(self) -> None:
        with store_tables.writing(self._engine) as connection:
            connection.execute(
                sa.update(store_tables.leases)
                .where(*self._ours)
                .values(heartbeat=store_tables.database_time(connection))
            )


@dataclass(frozen=True, slots=True)
class Replica:
    """A server of a run's student, as its row was when it was read."""

    id: str
    round: int
    checkpoint: str
    """Identity of the student that it answers as."""
    base_url: str
    """Empty until it serves."""
    concurrency: int
    """Most requests in flight."""
    leaving: bool
    """Asked to end."""
    holder: Holder | None
    """Its process; None while no worker has taken it."""
    silent: timedelta
    """Time since its last heartbeat."""

    def is_dead(self) -> bool:
        """Whether its process is gone, or sent no heartbeat for too long."""
        return self.holder is not None and (self.holder.is_gone() or self.silent >= LAPSE)


class ReplicaRegistry:
    """The replicas of one run. Every method raises TapirError while the database is away."""

    def __init__(self, store_url: str, run_key: str) -> None:
        self.run_key = run_key
        self._engine = store_tables.open_engine(store_url)
        self._of_run = store_tables.replicas.c.run_key == run_key
        self._untaken = self._of_run, store_tables.replicas.c.host.is_(None)

    def ask(self, number: int, checkpoint: str) -> str:
        """Ask for a replica of the student after round ``number``; returns its id."""
        replica = secrets.token_hex(8)
        with self._changing() as connection:
            connection.execute(
                sa.insert(store_tables.replicas).values(
                    id=replica,
                    run_key=self.run_key,
                    round=number,
                    checkpoint=checkpoint,
                    base_url="",
                    concurrency=0,
                    leaving=False,
                    heartbeat=store_tables.database_time(connection),
                )
            )
        return replica

    def take(self, replica: str) -> Replica | None:
        """Take a replica for this process; None if it is no longer wanted, or another process has it."""
        with self._changing() as connection:
            free = sa.update(store_tables.replicas).where(store_tables.replicas.c.id == replica, *self._untaken)
            taken = connection.execute(free.values(store_tables.own_process(connection))).rowcount == 1
        return next((each for each in self.all() if each.id == replica), None) if taken else None

    def serve(self, replica: str, base_url: str, concurrency: int) -> None:
        """Publish the address of this process's replica, and how many requests it takes at once."""
        self._change(replica, base_url=base_url, concurrency=concurrency)

    def beat(self, replica: str) -> None:
        """Send a heartbeat of this process's replica."""
        self._change(replica)

    def abandon(self, replica: str) -> None:
        """Mark a replica as dead at once, because its process ends without giving a reason."""
        self._change(replica, base_url="", heartbeat=datetime.min)

    def is_wanted(self, replica: str) -> bool:
        """Whether a replica still exists and was not asked to leave."""
        return any(each.id == replica and not each.leaving for each in self.all())

    def all(self) -> list[Replica]:
        """Every replica of the run, including dead ones, in the order of their ids."""
        rows = self._read(sa.select(store_tables.replicas).where(self._of_run).order_by(store_tables.replicas.c.id))
        same = ("id", "round", "checkpoint", "base_url", "concurrency", "leaving", "silent")
        return [
            Replica(**{name: row[name] for name in same}, holder=Holder.of(row) if row["host"] else None)
            for row in rows
        ]

    def dismiss(self) -> list[str]:
        """Ask every replica to leave, and remove those that no worker has taken; returns the ids of the latter."""
        with self._changing() as connection:
            forgotten = connection.scalars(
                sa.delete(store_tables.replicas).where(*self._untaken).returning(store_tables.replicas.c.id)
            ).all()
            connection.execute(sa.update(store_tables.replicas).where(self._of_run).values(leaving=True))
        return list(forgotten)

    def remove(self, replica: str) -> None:
        """Remove a replica."""
        with self._changing() as connection:
            connection.execute(sa.delete(store_tables.replicas).where(store_tables.replicas.c.id == replica))

    def is_driven(self) -> bool:
        """Whether a driver of the run sent a heartbeat within the last 60 s."""
        return any(
            row["silent"] < LAPSE
            for row in self._read(sa.select(store_tables.leases).where(store_tables.leases.c.run_key == self.run_key))
        )

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    def _change(self, replica: str, **values: Any) -> None:
        """Write values into a row, with a heartbeat unless one is among them."""
        with self._changing() as connection:
            connection.execute(
                sa.update(store_tables.replicas)
                .where(store_tables.replicas.c.id == replica)
                .values({"heartbeat": store_tables.database_time(connection), **values})
            )

    def _changing(self) -> AbstractContextManager[sa.Connection]:
        return store_tables.explained(_UNREACHABLE, partial(store_tables.writing, self._engine))

    def _read(self, query: sa.Select[Any]) -> list[dict[str, Any]]:
        with store_tables.explained(_UNREACHABLE, self._engine.connect) as connection:
            return store_tables.with_silence(connection, query)
