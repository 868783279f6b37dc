"""Rows of `claims`, `holders` and `spending`: who is about to pay for what, and what was paid.

Functions on a connection whose transaction the store's writer holds, so that claims, answers and sums agree at every
commit. A claim frees itself with its holder: at once when that process of this machine is gone, and after 60 s without
heartbeat when it ran on another.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from enum import Enum
from typing import Any

from sqlalchemy import Connection, delete, func, select, update

from tapir_core.calls.budget import Reservation, cap_reached
from tapir_core.calls.spend import Spend
from tapir_core.calls.store.lease import LAPSE_SECONDS, Holder
from tapir_core.calls.store.lease_rows import database_time
from tapir_core.calls.store.tables import (
    answers,
    batches,
    claims,
    holders,
    insert_or_add,
    insert_or_ignore,
    spending,
)
from tapir_core.calls.types import Role
from tapir_core.config.budget import BudgetConfig

__all__ = [
    "Grant",
    "State",
    "Wanted",
    "add_spend",
    "beat",
    "call_the_roll",
    "claim",
    "drop_holder",
    "read_spend",
    "release",
]

_LOCK = 0x7A918
"""PostgreSQL's advisory lock: two processes must not both find room for a last request, or both take one key."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A request that is about to be sent."""

    key: str
    run: str
    role: Role
    reservation: Reservation


class State(Enum):
    """What a process may do about a request."""

    OURS = "send it"
    ANSWERED = "the store has its outcome by now"
    ELSEWHERE = "another process is sending it"
    OVER = "it would pass a cap"


@dataclass(frozen=True, slots=True)
class Grant:
    """The answer to one wanted request."""

    state: State
    reason: str = ""
    """Which cap would be passed."""
    final: bool = True
    """False when a claim that somebody sees to may still give back some of what it reserved."""


def claim(connection: Connection, holder: str, wanted: Sequence[Wanted], budget: BudgetConfig) -> list[Grant]:
    """Claim what nobody has answered or claimed, in the order given, as long as the caps have room."""
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))
    call_the_roll(connection, holder)
    keys = [each.key for each in wanted]
    # In this order: a claim ends when its answer is there, and PostgreSQL shows each statement what is there by then.
    rows_taken = connection.execute(select(claims.c.key, claims.c.holder).where(claims.c.key.in_(keys))).all()
    taken = {row.key: row.holder for row in rows_taken}
    answered = set(connection.execute(select(answers.c.key).where(answers.c.key.in_(keys))).scalars())
    ledger = _Ledger(connection, budget)
    grants, rows = [], []
    for each in wanted:
        if each.key in answered:
            grants.append(Grant(State.ANSWERED))
        elif taken.get(each.key, holder) != holder:
            grants.append(Grant(State.ELSEWHERE))
        elif (reason := ledger.reserve(each)) is not None:
            grants.append(Grant(State.OVER, reason, final=not ledger.may_make_room(each.run)))
        else:
            grants.append(Grant(State.OURS))
            row = {"key": each.key, "holder": holder, "run": each.run, "role": each.role}
            rows.append(row | {"tokens": each.reservation.tokens, "usd": each.reservation.usd})
    if rows:
        connection.execute(insert_or_ignore(connection.engine, claims), rows)
    return grants


def release(connection: Connection, keys: Sequence[str]) -> None:
    """Give claims up: their requests are answered, or nobody sends them now."""
    if keys:
        connection.execute(delete(claims).where(claims.c.key.in_(keys)))


def add_spend(connection: Connection, run: str, role: str, more: Spend) -> None:
    """Add to what a run has spent for a role."""
    connection.execute(insert_or_add(connection.engine, spending), {"run": run, "role": role, **asdict(more)})


def read_spend(connection: Connection, run: str) -> dict[str, Spend]:
    """What a run has spent, by role."""
    query = select(spending).where(spending.c.run == run).order_by(spending.c.role)
    return {row.role: _as_spend(row._mapping) for row in connection.execute(query)}


def beat(connection: Connection, holder: str, process: Holder) -> None:
    """A sign of life of ``holder``, which is in the table from the first on."""
    now = database_time(connection)
    row = {"id": holder, "heartbeat": now, **asdict(process)}
    connection.execute(insert_or_ignore(connection.engine, holders).values(row))
    connection.execute(update(holders).where(holders.c.id == holder).values(heartbeat=now))


def call_the_roll(connection: Connection, holder: str) -> None:
    """``holder``, this process, is among the living, and what the dead have claimed is free.

    Who was silent so long that it was taken for dead is known again: without its row nobody could end its claims.
    """
    beat(connection, holder, Holder.this_process())
    now = database_time(connection)
    for row in connection.execute(select(holders)).mappings().all():
        process = Holder(row["host"], row["boot_id"], row["pid"], row["process_started"])
        silent = now - row["heartbeat"] >= timedelta(seconds=LAPSE_SECONDS)
        if process.is_gone() or (silent and not process.is_here()):
            drop_holder(connection, row["id"])


def drop_holder(connection: Connection, holder: str) -> None:
    """Give up everything that ``holder`` claims."""
    connection.execute(delete(claims).where(claims.c.holder == holder))
    connection.execute(delete(holders).where(holders.c.id == holder))


class _Ledger:
    """What the runs have spent and reserved at the moment of one transaction."""

    def __init__(self, connection: Connection, budget: BudgetConfig) -> None:
        self._connection = connection
        self._budget = budget
        self._has_caps = budget != BudgetConfig()
        self._spent: dict[str, dict[str, Spend]] = {}
        self._followed: dict[str, int] = {}
        self._left: dict[str, int] = {}

    def reserve(self, wanted: Wanted) -> str | None:
        """Add ``wanted``, or say which cap has no room for it."""
        if not self._has_caps:
            return None
        spent = self._of(wanted.run)
        reason = cap_reached(self._budget, spent, wanted.role, wanted.reservation)
        if reason is None:
            spent[wanted.role] = spent.get(wanted.role, Spend()) + _reserved(1, wanted.reservation)
            self._followed[wanted.run] += 1
        elif left := self._left[wanted.run]:
            reason += f"; {left:,} requests are reserved for batches that nobody asks for now"
        return reason

    def may_make_room(self, run: str) -> bool:
        """Whether somebody sees to a claim of the run; of a batch that nobody follows nothing comes back."""
        return self._followed[run] > 0

    def _of(self, run: str) -> dict[str, Spend]:
        if run not in self._spent:
            sums = select(claims.c.role, func.count(), func.sum(claims.c.tokens), func.sum(claims.c.usd))
            out = self._connection.execute(sums.where(claims.c.run == run).group_by(claims.c.role)).all()
            # In this order: what PostgreSQL lets another process settle in between counts twice, and never not at all.
            spent = read_spend(self._connection, run)
            for role, count, tokens, usd in out:
                reserved = _reserved(int(count), Reservation(int(tokens), float(usd)))
                spent[role] = spent.get(role, Spend()) + reserved
            self._spent[run], self._followed[run] = spent, self._count_followed(run)
            self._left[run] = sum(int(row[1]) for row in out) - self._followed[run]
        return self._spent[run]

    def _count_followed(self, run: str) -> int:
        """Claims of living processes and of batches that one of them leads."""
        living = select(holders.c.id)
        led = select(batches.c.tag).where(batches.c.driver.in_(living))
        followed = select(func.count()).where(claims.c.run == run, claims.c.holder.in_(living.union(led)))
        return self._connection.execute(followed).scalar_one()


def _reserved(requests: int, amount: Reservation) -> Spend:
    return Spend(requests, amount.tokens, 0, amount.usd)


def _as_spend(row: Mapping[Any, Any]) -> Spend:
    return Spend(
        int(row["requests"]),
        int(row["prompt_tokens"]),
        int(row["completion_tokens"]),
        float(row["usd"]),
        float(row["seconds"]),
    )
