"""What the store's writer is given to write, and the one transaction that writes it.

Claims, answers and what was booked for them change together, so that they agree at each commit. A claim frees itself
with its holder: at once when that process of this machine is gone, and after 60 s without heartbeat when it ran on
another.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

from sqlalchemy import Connection, Engine, bindparam, delete, func, or_, select, update

from tapir_core.calls.answer_rows import Asked, add_reuse, delete_rows, insert_rows
from tapir_core.calls.attempt_rows import add_spend, book, settle
from tapir_core.calls.budget import Attempt, Settlement
from tapir_core.calls.holder import LAPSE, Holder
from tapir_core.calls.spend import Spend
from tapir_core.calls.store_tables import (
    answers,
    batches,
    claims,
    database_time,
    holders,
    insert_or_ignore,
    with_silence,
    writing,
)
from tapir_core.calls.types import Claimed, Outcome
from tapir_core.config import BudgetConfig

LOCK = 0x7A918
"""PostgreSQL's advisory lock: two processes must not both find room for a last attempt, or both take one key."""


@dataclass(frozen=True, slots=True)
class Put:
    """An outcome that came: it is stored, and its claim ends."""

    row: dict[str, Any]
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Release:
    """The claim of a request ends without an outcome to store."""

    key: str


@dataclass(frozen=True, slots=True)
class Book:
    """Attempts that are about to be sent."""

    attempts: tuple[Attempt, ...]
    budget: BudgetConfig


class Change(Protocol):
    """A write that is made in its turn, and not together with others of its kind."""

    def apply(self, connection: Connection, holder: str, /, *, repeated: bool = False) -> Any:
        """Make it for ``holder``; ``repeated`` says that it may have been committed before."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Requests that are about to be sent."""

    keys: tuple[str, ...]

    def apply(self, connection: Connection, holder: str, *, repeated: bool = False) -> list[Claimed]:
        """Claim what nobody has answered or claimed."""
        call_the_roll(connection, holder)
        # In this order: a claim ends when its answer is there, and PostgreSQL shows each statement what is there then.
        rows = connection.execute(select(claims.c.key, claims.c.holder).where(claims.c.key.in_(self.keys))).all()
        taken = {row.key for row in rows if row.holder != holder}
        answered = set(connection.scalars(select(answers.c.key).where(answers.c.key.in_(self.keys))))
        found = dict.fromkeys(self.keys, Claimed.OURS)
        found |= dict.fromkeys(taken, Claimed.ELSEWHERE) | dict.fromkeys(answered, Claimed.ANSWERED)
        ours = [{"key": key, "holder": holder} for key, each in found.items() if each is Claimed.OURS]
        if ours:
            connection.execute(insert_or_ignore(connection.dialect.name, claims), ours)
        return [found[key] for key in self.keys]


@dataclass(frozen=True, slots=True)
class AddSeconds:
    """Working time of a run for a role."""

    run: str
    role: str
    seconds: float

    def apply(self, connection: Connection, _: str, *, repeated: bool = False) -> None:
        """Add it to what the run has spent."""
        add_spend(connection, self.run, self.role, Spend(seconds=self.seconds))


@dataclass(frozen=True, slots=True)
class Beat:
    """The holder lives."""

    def apply(self, connection: Connection, holder: str, *, repeated: bool = False) -> None:
        """The holder is in the table from the first sign of life on."""
        now = database_time(connection)
        row = {"id": holder, "heartbeat": now, **asdict(Holder.this_process())}
        connection.execute(insert_or_ignore(connection.dialect.name, holders).values(row))
        connection.execute(update(holders).where(holders.c.id == holder).values(heartbeat=now))


@dataclass(frozen=True, slots=True)
class Leave:
    """The holder goes: all its claims end."""

    def apply(self, connection: Connection, holder: str, *, repeated: bool = False) -> None:
        """Give up everything that it claims."""
        connection.execute(delete(claims).where(claims.c.holder == holder))
        connection.execute(delete(holders).where(holders.c.id == holder))


@dataclass(frozen=True, slots=True)
class Forget:
    """Outcomes that are to be asked for again."""

    keys: tuple[str, ...]

    def apply(self, connection: Connection, _: str, *, repeated: bool = False) -> int:
        """Delete them; gives how many there were."""
        return delete_rows(connection, self.keys)


@dataclass(frozen=True, slots=True)
class Reuse:
    """Requests that stored outcomes answered."""

    requests: Mapping[Asked, int]

    def apply(self, connection: Connection, _: str, *, repeated: bool = False) -> None:
        """Count them."""
        add_reuse(connection, self.requests)


Write = Put | Release | Book | Settlement | Change


def rows_of(write: Write) -> int:
    """How many rows a write touches, about."""
    match write:
        case Claim():
            return len(write.keys)
        case Book():
            return len(write.attempts)
        case _:
            return 1


def commit(engine: Engine, holder: str, writes: Sequence[Write], *, repeated: bool = False) -> list[Any]:
    """Write all in one transaction; gives each write's result.

    Of a `Put` its outcome, of a `Claim` what became of each key, of a `Book` the cap that has no room for each. What
    came is stored and settled first, so that a claim sees all that was answered, and a booking all that was given back.
    ``repeated`` says that the same may have been committed before, by a commit whose end nobody knows.
    """
    puts = [write for write in writes if isinstance(write, Put)]
    bookings = [write for write in writes if isinstance(write, Book)]
    with writing(engine) as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(select(func.pg_advisory_xact_lock(LOCK)))
        before = insert_rows(connection, [put.row for put in puts])
        ended = [*(put.row["key"] for put in puts), *(write.key for write in writes if isinstance(write, Release))]
        release(connection, holder, ended)
        settle(connection, [write for write in writes if isinstance(write, Settlement)])
        changed = [
            None
            if isinstance(write, Put | Release | Book | Settlement)
            else write.apply(connection, holder, repeated=repeated)
            for write in writes
        ]
        wanted = [(attempt, booking.budget) for booking in bookings for attempt in booking.attempts]
        refusals = iter(book(connection, wanted, repeated=repeated))
    results: list[Any] = []
    for write, result in zip(writes, changed, strict=True):
        if isinstance(write, Put):
            results.append(_outcome_of(write, before, repeated=repeated))
        else:
            results.append([next(refusals) for _ in write.attempts] if isinstance(write, Book) else result)
    return results


def _outcome_of(put: Put, before: Mapping[str, Outcome], *, repeated: bool) -> Outcome:
    """The outcome that counts: what was stored first, unless the try before this one committed the same."""
    stored = before.get(put.row["key"], put.outcome)
    ours = repeated and replace(stored, stored=put.outcome.stored) == put.outcome
    return put.outcome if ours else stored


def call_the_roll(connection: Connection, holder: str) -> None:
    """``holder``, this process, is among the living, and what the dead have claimed is free.

    Who was silent so long that it was taken for dead is known again: without its row nobody could end its claims.
    """
    rows = with_silence(connection, select(holders))
    # While the database was away nobody could show that it lives.
    all_were_silent = any(row["id"] == holder and row["silent"] >= LAPSE for row in rows)
    Beat().apply(connection, holder)
    for row in rows:
        process = Holder.of(row)
        silent = row["silent"] >= LAPSE and not all_were_silent
        if row["id"] != holder and (process.is_gone() or (silent and not process.is_here())):
            Leave().apply(connection, row["id"])


def release(connection: Connection, holder: str, keys: Sequence[str]) -> None:
    """End claims of ``holder`` and of the batches that it leads: answered, or nobody sends them now.

    Others' claims stay: who was taken for dead must not free what another process has claimed since.
    """
    if keys:
        connection.execute(_RELEASE, {"keys": keys, "by": holder})


# Made once: to build a statement costs as much as to run it.
_RELEASE = delete(claims).where(
    claims.c.key.in_(bindparam("keys", expanding=True)),
    or_(
        claims.c.holder == bindparam("by"),
        claims.c.holder.in_(select(batches.c.tag).where(batches.c.driver == bindparam("by"))),
    ),
)
