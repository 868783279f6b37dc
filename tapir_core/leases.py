"""Who holds a run: its one driver, the one trainer of each student, and the processes that serve its student.

A row in the store's database says which process it is; who may take the lease of another one stands in processes.py.
The driver asks for a replica (a row without a process), a worker takes it, serves and beats; whoever of them is gone is
seen by the other. Limit: addresses only; the key of a server is derived by both sides and stands in no row. Importing
this imports SQLAlchemy.
"""

import logging
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from tapir_core.calls.store_tables import (
    database_time,
    explained,
    insert_or_ignore,
    leases,
    open_engine,
    own_process,
    reason_of,
    replicas,
    with_silence,
    writing,
)
from tapir_core.calls.store_writer import Patience
from tapir_core.processes import LAPSE, Heart, Holder, busy, is_free

logger = logging.getLogger(__name__)

_UNREACHABLE = "the call store cannot be reached: {}; check that its server runs"


@dataclass(frozen=True, slots=True)
class Holding:
    """A lease that is taken, as any process sees it."""

    token: str
    lives: bool
    """False when the holder is gone from this machine, or silent for too long on another: the next one may take it."""


class RunLease:
    """The right to drive the run ``run_key``; a heartbeat thread keeps it while it is held."""

    def __init__(self, store_url: str, run_key: str, *, token: str | None = None, flow_run: str | None = None) -> None:
        """Prepare.

        Args:
            store_url: Of the database.
            run_key: What is held.
            token: 32 characters that let others know the holder; without it the lease has one of its own.
            flow_run: The UI's address of the flow run that drives, if one does.
        """
        self.token = token or secrets.token_hex(16)
        self._named = {"run_key": run_key, "token": self.token, "flow_run": flow_run}
        self._engine = open_engine(store_url)
        self._patience = Patience(f"the lease of run {run_key}")
        self._heart = Heart(f"run {run_key}", self._beat)
        self._row = sa.select(leases).where(leases.c.run_key == run_key)
        self._ours = leases.c.run_key == run_key, leases.c.token == self.token

    def acquire(self) -> None:
        """Take the lease.

        Raises:
            RunBusy: another driver holds it.
        """
        with writing(self._engine) as connection:
            mine = {**self._named, "since": database_time(connection), **own_process(connection)}
            connection.execute(insert_or_ignore(connection.dialect.name, leases).values(mine))
            (row,) = with_silence(connection, self._row.with_for_update())
            is_taken = row["token"] != self.token and not is_free(row)
            if not is_taken:
                connection.execute(sa.update(leases).where(leases.c.run_key == mine["run_key"]).values(mine))
        if is_taken:
            self._engine.dispose()
            raise busy(row)
        self._heart.begin()

    def holds(self) -> bool:
        """Whether the lease is still ours; asked before anything of the run is promoted."""
        held = self._patience.try_until_back(self.holding)
        return held is not None and held.token == self.token

    def holding(self) -> Holding | None:
        """Who has the lease now, this process or another; nothing when it is free."""
        with self._engine.connect() as connection:
            rows = with_silence(connection, self._row)
        return Holding(rows[0]["token"], lives=not is_free(rows[0])) if rows else None

    def hurry(self) -> None:
        """From now on wait only a little for a database that is away: somebody wants to end."""
        self._patience.close()

    def release(self) -> None:
        """Give the lease back, or stop looking at it. Releasing twice is the same as once.

        A database that cannot be written is no error: it stays this process's, and is free when that is gone.
        """
        self.hurry()
        try:
            if self._heart.is_alive():
                self._heart.stop()
                self._patience.try_until_back(self._drop)
        except sa.exc.SQLAlchemyError as error:
            text = "the lease of run %s could not be given back (%s): it is free when this process has ended"
            logger.warning(text, self._named["run_key"], reason_of(error))
        finally:
            self._engine.dispose()

    def __enter__(self) -> "RunLease":
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _drop(self) -> None:
        with writing(self._engine) as connection:
            connection.execute(sa.delete(leases).where(*self._ours))

    def _beat(self) -> None:
        with writing(self._engine) as connection:
            connection.execute(sa.update(leases).where(*self._ours).values(heartbeat=database_time(connection)))


@dataclass(frozen=True, slots=True)
class Replica:
    """One of them, as its row was when it was read."""

    id: str
    round: int
    checkpoint: str
    """Identity of the student that it answers as."""
    base_url: str
    """Empty until it serves."""
    concurrency: int
    """Requests in flight that it takes."""
    leaving: bool
    """Asked to end."""
    holder: Holder | None
    """Its process; nothing while no worker has taken it."""
    silent: timedelta
    """Since its last sign of life."""

    def is_dead(self) -> bool:
        """Whether its process is gone, or gave no sign of life for too long."""
        return self.holder is not None and (self.holder.is_gone() or self.silent >= LAPSE)


class ReplicaRegistry:
    """The replicas of one run. Every method raises TapirError while the database is away."""

    def __init__(self, store_url: str, run_key: str) -> None:
        self.run_key = run_key
        self._engine = open_engine(store_url)
        self._of_run = replicas.c.run_key == run_key
        self._untaken = self._of_run, replicas.c.host.is_(None)

    def ask(self, number: int, checkpoint: str) -> str:
        """Note that a replica of the student after round ``number`` is wanted; gives its id."""
        replica = secrets.token_hex(8)
        unserved = {"base_url": "", "concurrency": 0, "leaving": False}
        wanted = sa.insert(replicas).values(
            id=replica, run_key=self.run_key, round=number, checkpoint=checkpoint, **unserved
        )
        with self._changing() as connection:
            connection.execute(wanted.values(heartbeat=database_time(connection)))
        return replica

    def take(self, replica: str) -> Replica | None:
        """Make this process the one of a replica; nothing when it is wanted no more, or another process has it."""
        with self._changing() as connection:
            free = sa.update(replicas).where(replicas.c.id == replica, *self._untaken)
            taken = connection.execute(free.values(own_process(connection))).rowcount == 1
        return next((each for each in self.all() if each.id == replica), None) if taken else None

    def serve(self, replica: str, base_url: str, concurrency: int) -> None:
        """Say where the replica of this process answers, and how many requests it takes at once."""
        self._change(replica, base_url=base_url, concurrency=concurrency)

    def beat(self, replica: str) -> None:
        """A sign of life of the replica of this process."""
        self._change(replica)

    def abandon(self, replica: str) -> None:
        """Say that the process of a replica ends without a word about why: nobody need wait for its silence."""
        self._change(replica, base_url="", heartbeat=datetime.min)

    def is_wanted(self, replica: str) -> bool:
        """Whether it is still there and not asked to leave."""
        return any(each.id == replica and not each.leaving for each in self.all())

    def all(self) -> list[Replica]:
        """Every replica of the run, those that are gone included, in the order of their ids."""
        return [_replica(row) for row in self._read(sa.select(replicas).where(self._of_run).order_by(replicas.c.id))]

    def dismiss(self) -> list[str]:
        """Ask every replica to leave, and forget those that no worker has taken; gives the ids of the latter."""
        with self._changing() as connection:
            forgotten = connection.scalars(sa.delete(replicas).where(*self._untaken).returning(replicas.c.id)).all()
            connection.execute(sa.update(replicas).where(self._of_run).values(leaving=True))
        return list(forgotten)

    def remove(self, replica: str) -> None:
        """Forget a replica."""
        with self._changing() as connection:
            connection.execute(sa.delete(replicas).where(replicas.c.id == replica))

    def is_driven(self) -> bool:
        """Whether a driver of the run gave a sign of life within the last 60 s."""
        return any(
            row["silent"] < LAPSE for row in self._read(sa.select(leases).where(leases.c.run_key == self.run_key))
        )

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    def _change(self, replica: str, **values: Any) -> None:
        """Write values into a row, and a heartbeat unless one is among them."""
        with self._changing() as connection:
            changed = {"heartbeat": database_time(connection), **values}
            connection.execute(sa.update(replicas).where(replicas.c.id == replica).values(changed))

    @contextmanager
    def _changing(self) -> Iterator[sa.Connection]:
        with explained(_UNREACHABLE), writing(self._engine) as connection:
            yield connection

    def _read(self, query: sa.Select[Any]) -> list[dict[str, Any]]:
        with explained(_UNREACHABLE), self._engine.connect() as connection:
            return with_silence(connection, query)


def _replica(row: dict[str, Any]) -> Replica:
    holder = Holder.of(row) if row["host"] else None
    same = ("id", "round", "checkpoint", "base_url", "concurrency", "leaving", "silent")
    return Replica(**{name: row[name] for name in same}, holder=holder)
