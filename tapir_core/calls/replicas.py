"""The servers of a run's student on GPU workers: rows in the store's database, by the database's clock.

The driver asks for one (a row without a process), a worker takes it, serves and beats; whoever of them is gone is seen
by the other. One of this machine is gone with its process, one of another machine after 60 s without heartbeat.
Limit: addresses only; the key of a server is derived by both sides and stands in no row.
"""

import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from tapir_core.calls.lease import LAPSE_SECONDS, Holder

__all__ = ["Replica", "ReplicaRegistry"]

_LAPSE = timedelta(seconds=LAPSE_SECONDS)


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
        return self.holder is not None and (self.holder.is_gone() or self.silent >= _LAPSE)


class ReplicaRegistry:
    """The replicas of one run. Every method raises TapirError while the database is away."""

    def __init__(self, store_url: str, run_key: str) -> None:
        from tapir_core.calls import replica_rows
        from tapir_core.calls import store_tables as tables

        self.run_key = run_key
        self._rows = replica_rows
        self._engine = tables.open_engine(store_url)

    def ask(self, number: int, checkpoint: str) -> str:
        """Note that a replica of the student after round ``number`` is wanted; gives its id."""
        replica = secrets.token_hex(8)
        self._rows.insert(self._engine, replica, self.run_key, number, checkpoint)
        return replica

    def take(self, replica: str) -> Replica | None:
        """Make this process the one of a replica; nothing when it is wanted no more, or another process has it."""
        taken = self._rows.take(self._engine, replica, self.run_key, asdict(Holder.this_process()))
        return next((each for each in self.all() if each.id == replica), None) if taken else None

    def serve(self, replica: str, base_url: str, concurrency: int) -> None:
        """Say where the replica of this process answers, and how many requests it takes at once."""
        self._rows.change(self._engine, replica, base_url=base_url, concurrency=concurrency)

    def beat(self, replica: str) -> None:
        """A sign of life of the replica of this process."""
        self._rows.change(self._engine, replica)

    def abandon(self, replica: str) -> None:
        """Say that the process of a replica ends without a word about why: nobody need wait for its silence."""
        self._rows.change(self._engine, replica, base_url="", heartbeat=datetime.min)

    def is_wanted(self, replica: str) -> bool:
        """Whether it is still there and not asked to leave."""
        return any(each.id == replica and not each.leaving for each in self.all())

    def all(self) -> list[Replica]:
        """Every replica of the run, those that are gone included, in the order of their ids."""
        return [_replica(row) for row in self._rows.read(self._engine, self.run_key)]

    def dismiss(self) -> list[str]:
        """Ask every replica to leave, and forget those that no worker has taken; gives the ids of the latter."""
        return self._rows.dismiss(self._engine, self.run_key)

    def remove(self, replica: str) -> None:
        """Forget a replica."""
        self._rows.remove(self._engine, replica)

    def is_driven(self) -> bool:
        """Whether a driver of the run gave a sign of life within the last 60 s."""
        silent = self._rows.silence_of_driver(self._engine, self.run_key)
        return silent is not None and silent < _LAPSE

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()


def _replica(row: Mapping[str, Any]) -> Replica:
    holder = Holder(row["host"], row["boot_id"], row["pid"], row["process_started"]) if row["host"] else None
    same = ("id", "round", "checkpoint", "base_url", "concurrency", "leaving", "silent")
    return Replica(**{name: row[name] for name in same}, holder=holder)
