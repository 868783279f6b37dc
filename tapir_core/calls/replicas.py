"""The servers of a run's student on GPU workers: rows in the store's database, by the database's clock.

The driver asks for one (a row without a process), a worker takes it, serves and beats; whoever of them is gone is seen
by the other. One of this machine is gone with its process, one of another machine after 60 s without heartbeat.
Limit: addresses only; the key of a server is derived by both sides and stands in no row.
"""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update
from sqlalchemy.exc import SQLAlchemyError

from tapir_core.calls.holder import LAPSE, Holder
from tapir_core.calls.store_tables import (
    database_time,
    leases,
    open_engine,
    reason_of,
    replicas,
    with_silence,
    writing,
)
from tapir_core.errors import TapirError


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
        wanted = {"id": replica, "run_key": self.run_key, "round": number, "checkpoint": checkpoint}
        unserved = {"base_url": "", "concurrency": 0, "leaving": False}
        with self._writing() as connection:
            row = {**wanted, **unserved, "heartbeat": database_time(connection)}
            connection.execute(insert(replicas).values(row))
        return replica

    def take(self, replica: str) -> Replica | None:
        """Make this process the one of a replica; nothing when it is wanted no more, or another process has it."""
        with self._writing() as connection:
            mine = {**asdict(Holder.this_process()), "heartbeat": database_time(connection)}
            free = update(replicas).where(replicas.c.id == replica, *self._untaken)
            taken = connection.execute(free.values(mine)).rowcount == 1
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
        query = select(replicas).where(self._of_run).order_by(replicas.c.id)
        with _translated(), self._engine.connect() as connection:
            return [_replica(row) for row in with_silence(connection, query)]

    def dismiss(self) -> list[str]:
        """Ask every replica to leave, and forget those that no worker has taken; gives the ids of the latter."""
        with self._writing() as connection:
            untaken = list(connection.scalars(select(replicas.c.id).where(*self._untaken)))
            connection.execute(delete(replicas).where(*self._untaken))
            connection.execute(update(replicas).where(self._of_run).values(leaving=True))
        return untaken

    def remove(self, replica: str) -> None:
        """Forget a replica."""
        with self._writing() as connection:
            connection.execute(delete(replicas).where(replicas.c.id == replica))

    def is_driven(self) -> bool:
        """Whether a driver of the run gave a sign of life within the last 60 s."""
        with _translated(), self._engine.connect() as connection:
            rows = with_silence(connection, select(leases).where(leases.c.run_key == self.run_key))
        return any(row["silent"] < LAPSE for row in rows)

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    def _change(self, replica: str, **values: Any) -> None:
        """Write values into a row, and a heartbeat unless one is among them."""
        with self._writing() as connection:
            values.setdefault("heartbeat", database_time(connection))
            connection.execute(update(replicas).where(replicas.c.id == replica).values(values))

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with _translated(), writing(self._engine) as connection:
            yield connection


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        raise TapirError(f"the call store cannot be reached: {reason_of(error)}; check that its server runs") from error


def _replica(row: dict[str, Any]) -> Replica:
    holder = Holder.of(row) if row["host"] else None
    same = ("id", "round", "checkpoint", "base_url", "concurrency", "leaving", "silent")
    return Replica(**{name: row[name] for name in same}, holder=holder)
