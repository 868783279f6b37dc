"""What the store's writer is given to write, and the one transaction that writes it.

Claims, answers and what was booked for them change together, so that they agree at each commit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, Engine, func, select

from tapir_core.calls import answer_rows, attempt_rows, claim_rows, reuse_rows
from tapir_core.calls.attempt_rows import Attempt, Settlement
from tapir_core.calls.batch_rows import BatchWrite
from tapir_core.calls.lease import Holder
from tapir_core.calls.reuse_rows import Asked
from tapir_core.calls.spend import Spend
from tapir_core.calls.store_tables import writing
from tapir_core.calls.types import Outcome
from tapir_core.config import BudgetConfig

__all__ = [
    "AddSeconds",
    "Beat",
    "Book",
    "Claim",
    "Forget",
    "Leave",
    "Put",
    "Release",
    "Reuse",
    "Write",
    "commit",
    "rows_of",
]

_LOCK = 0x7A918
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
class Claim:
    """Requests that are about to be sent."""

    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Book:
    """Attempts that are about to be sent."""

    attempts: tuple[Attempt, ...]
    budget: BudgetConfig


@dataclass(frozen=True, slots=True)
class AddSeconds:
    """Working time of a run for a role."""

    run: str
    role: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Beat:
    """The holder lives."""


@dataclass(frozen=True, slots=True)
class Leave:
    """The holder goes: all its claims end."""


@dataclass(frozen=True, slots=True)
class Forget:
    """Outcomes that are to be asked for again."""

    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Reuse:
    """Requests that stored outcomes answered."""

    requests: Mapping[Asked, int]


Write = Put | Release | Claim | Book | Settlement | AddSeconds | Beat | Leave | Forget | Reuse | BatchWrite


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
    results: list[Any] = [None] * len(writes)
    with writing(engine) as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))
        puts = {place: write for place, write in enumerate(writes) if isinstance(write, Put)}
        before = answer_rows.insert_rows(connection, [put.row for put in puts.values()])
        for place, put in puts.items():
            stored = before.get(put.row["key"], put.outcome)
            # Committed by the try before this one, and so paid now all the same.
            ours = repeated and replace(stored, stored=put.outcome.stored) == put.outcome
            results[place] = put.outcome if ours else stored
        given_up = [write.key for write in writes if isinstance(write, Release)]
        claim_rows.release(connection, holder, [*(put.row["key"] for put in puts.values()), *given_up])
        attempt_rows.settle(connection, [write for write in writes if isinstance(write, Settlement)])
        for place, write in enumerate(writes):
            results[place] = (
                _write(connection, holder, write, repeated=repeated) if place not in puts else results[place]
            )
        booked = [
            (place, write, attempt)
            for place, write in enumerate(writes)
            if isinstance(write, Book)
            for attempt in write.attempts
        ]
        refusals = attempt_rows.book(
            connection, [(attempt, write.budget) for _, write, attempt in booked], repeated=repeated
        )
        for (place, *_), refusal in zip(booked, refusals, strict=True):
            results[place] = [*(results[place] or []), refusal]
    return results


def _write(connection: Connection, holder: str, write: Write, *, repeated: bool) -> Any:
    """One of those writes that are not made together with others of their kind."""
    match write:
        case Claim():
            return claim_rows.claim(connection, holder, write.keys)
        case Forget():
            return answer_rows.delete_rows(connection, write.keys)
        case AddSeconds():
            return attempt_rows.add_spend(connection, write.run, write.role, Spend(seconds=write.seconds))
        case Beat():
            return claim_rows.beat(connection, holder, Holder.this_process())
        case Reuse():
            return reuse_rows.add_reuse(connection, write.requests)
        case Leave():
            return claim_rows.drop_holder(connection, holder)
        case Put() | Release() | Settlement() | Book():
            return None
        case _:
            return write.apply(connection, holder, repeated=repeated)
