"""The kinds of writes to the store, and the one transaction that makes them.

Answers, batches and their bookings change together, so that they agree at each commit. A process holds each list of
requests that it asks, so that another process with the same list waits. A list becomes free at once if its process was
on this machine and is gone, and after 60 s without heartbeat if it was on another machine. A batch belongs to no
process.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from tapir_core.calls import store_rows, store_tables, types
from tapir_core.calls.budget import Attempt, Settlement
from tapir_core.config import BudgetConfig, Sampling
from tapir_core.processes import LAPSE, Holder, is_free

LOCK = 0x7A918
"""PostgreSQL's advisory lock: two processes must not both find room for a last attempt, or both take one key."""

Change = Callable[[sa.Connection, str, bool], Any]
"""A write that is made in its turn, not together with others of its kind: on a connection, for a holder.

The last argument says that it may have been committed before. Other arguments are bound with `functools.partial`.
"""

LOST = "lost"
"""State of a batch that its provider no longer knows: its cost stays unknown."""


@dataclass(frozen=True, slots=True)
class Put:
    """An outcome that was received."""

    row: dict[str, Any]
    outcome: types.Outcome


@dataclass(frozen=True, slots=True)
class Book:
    """Attempts that are about to be sent."""

    attempts: tuple[Attempt, ...]
    budget: BudgetConfig


Write = Put | Book | Settlement | Change

_HELD = sa.select(store_tables.shards.c.shard).where(
    store_tables.shards.c.shard.in_(sa.bindparam("lists", expanding=True)),
    store_tables.shards.c.holder == sa.bindparam("holder"),
)


def commit(engine: sa.Engine, holder: str, writes: Sequence[Write], *, repeated: bool = False) -> list[Any]:
    """Make all writes in one transaction; returns the result of each.

    A `Put` gives its outcome, a `Book` for each attempt why it may not be sent, a `Change` its own result. Outcomes are
    stored and settled first, so that bookings see everything that was given back.
    ``repeated`` says that the same may have been committed before, by an interrupted commit.
    """
    puts = [write for write in writes if isinstance(write, Put)]
    bookings = [write for write in writes if isinstance(write, Book)]
    wanted = [(attempt, booking.budget) for booking in bookings for attempt in booking.attempts]
    with store_tables.writing(engine) as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(LOCK)))
        before = store_rows.insert_rows(connection, [put.row for put in puts])
        store_rows.settle(connection, [write for write in writes if isinstance(write, Settlement)])
        changes = iter([write(connection, holder, repeated) for write in writes if callable(write)])
        lists = {attempt.shard for attempt, _ in wanted} - {""}
        # Lists that this holder lost to others because it was taken for dead.
        lost = lists.difference(connection.scalars(_HELD, {"lists": list(lists), "holder": holder})) if lists else lists
        refusals = iter(store_rows.book(connection, wanted, lost=lost, repeated=repeated))
    results = {
        Put: iter([_outcome_of(put, before, repeated=repeated) for put in puts]),
        Settlement: itertools.repeat(None),
        Book: iter([list(itertools.islice(refusals, len(booking.attempts))) for booking in bookings]),
    }
    return [next(results.get(type(write), changes)) for write in writes]


def _outcome_of(put: Put, before: Mapping[str, types.Outcome], *, repeated: bool) -> types.Outcome:
    """The outcome that counts: what was stored first, unless the try before this one committed the same."""
    stored = before.get(put.row["key"], put.outcome)
    return put.outcome if repeated and replace(stored, stored=put.outcome.stored) == put.outcome else stored


def take_shard(connection: sa.Connection, holder: str, _repeated: bool, *, shard: str) -> bool:
    """Claim a list of requests, unless another living process holds it; returns whether ``holder`` has it now."""
    call_the_roll(connection, holder)
    connection.execute(
        store_tables.insert_or_ignore(connection.dialect.name, store_tables.shards).values(shard=shard, holder=holder)
    )
    return (
        connection.scalar(sa.select(store_tables.shards.c.holder).where(store_tables.shards.c.shard == shard)) == holder
    )


def give_shard_back(connection: sa.Connection, holder: str, _repeated: bool, *, shard: str) -> None:
    """Release a list of requests, if ``holder`` has it."""
    connection.execute(
        sa.delete(store_tables.shards).where(
            store_tables.shards.c.shard == shard, store_tables.shards.c.holder == holder
        )
    )


def add_seconds(
    connection: sa.Connection, _holder: str, _repeated: bool, *, run: str, role: str, seconds: float
) -> None:
    """Add working time to what a run has spent in a role."""
    store_rows.add_spend(connection, run, role, types.Spend(seconds=seconds))


def beat(connection: sa.Connection, holder: str, _repeated: bool = False) -> None:
    """Record a heartbeat. A holder that was taken for dead stays so until it claims a list again."""
    connection.execute(
        sa.update(store_tables.holders)
        .where(store_tables.holders.c.id == holder)
        .values(heartbeat=store_tables.database_time(connection))
    )


def leave(connection: sa.Connection, holder: str, _repeated: bool = False) -> None:
    """Remove a holder and free everything that it holds."""
    connection.execute(sa.delete(store_tables.shards).where(store_tables.shards.c.holder == holder))
    connection.execute(sa.delete(store_tables.holders).where(store_tables.holders.c.id == holder))


def forget(connection: sa.Connection, _holder: str, _repeated: bool, *, keys: Sequence[str]) -> int:
    """Delete outcomes, so that their requests are sent again; returns how many there were."""
    return sum(
        connection.execute(sa.delete(store_tables.answers).where(store_tables.answers.c.key.in_(some))).rowcount
        for some in store_tables.in_groups(keys)
    )


def count_useless(connection: sa.Connection, _holder: str, _repeated: bool, *, key: str, reply: str, more: int) -> int:
    """Count ``more`` replies without an answer, all with the digest ``reply``; returns how many came in a row.

    Once there are enough, the count starts again from 0, for the case that the outcome is deleted.
    """
    row = connection.execute(sa.select(store_tables.useless).where(store_tables.useless.c.key == key)).first()
    replies = more + (row.replies if row is not None and row.reply == reply else 0)
    connection.execute(sa.delete(store_tables.useless).where(store_tables.useless.c.key == key))
    if replies < types.MOST_USELESS:
        connection.execute(sa.insert(store_tables.useless).values(key=key, reply=reply, replies=replies))
    return replies


def forgive(connection: sa.Connection, _holder: str, _repeated: bool, *, replies: Sequence[str]) -> None:
    """Forget what was counted of replies without an answer, by their digests."""
    connection.execute(sa.delete(store_tables.useless).where(store_tables.useless.c.reply.in_(replies)))


def count_reuse(
    connection: sa.Connection, _holder: str, _repeated: bool, *, counts: Mapping[tuple[str, ...], int]
) -> None:
    """Count requests that were answered from the store, by role, model, identity, prompt version and run."""
    names = ("role", "model", "identity", "prompt_version", "run")
    for asked, requests in sorted(counts.items()):  # in one order, or two processes could wait for each other
        connection.execute(
            store_tables.insert_or_add(connection.dialect.name, store_tables.reuse),
            dict(zip(names, asked, strict=True), identity=store_rows.short_name(asked[2]), requests=requests),
        )


def call_the_roll(connection: sa.Connection, holder: str) -> None:
    """Register ``holder``, this process, as living, and free what dead holders have."""
    rows = {row["id"]: row for row in store_tables.with_silence(connection, sa.select(store_tables.holders))}
    mine = {"id": holder, **store_tables.own_process(connection)}
    connection.execute(store_tables.insert_or_ignore(connection.dialect.name, store_tables.holders).values(mine))
    beat(connection, holder)
    own = rows.pop(holder, None)
    # While the database was away, no process could send a heartbeat.
    all_were_silent = own is not None and own["silent"] >= LAPSE
    for other, row in rows.items():
        if Holder.of(row).is_gone() if all_were_silent else is_free(row):
            leave(connection, other)


@dataclass(eq=False, slots=True)
class OpenBatch:
    """A batch that has not ended."""

    tag: str
    address: str
    rows: Mapping[str, types.Request]
    """By key, the requests without an outcome. Those of an adopted batch have no messages: the provider has them."""
    attempts: Mapping[str, int]
    """By key, the attempt booked for a request."""
    created: datetime
    """UTC, without zone."""
    input_file_id: str = ""
    provider_id: str = ""
    perhaps_made: bool = False
    """Whether the provider may have made it without our knowing its id."""


def plan_batch(
    connection: sa.Connection,
    holder: str,
    repeated: bool,
    *,
    batch: OpenBatch,
    attempts: Sequence[Attempt],
    budget: BudgetConfig,
) -> dict[str, str]:
    """Store a batch that ``holder`` leads and book its requests, before any of them leaves this process.

    ``attempts`` has one for each row. Returns key → cap of the rows without room, which are left out. If no row has
    room, no batch is stored.
    """
    refusals = store_rows.book(connection, [(each, budget) for each in attempts], repeated=repeated)
    booked = [each for each, refusal in zip(attempts, refusals, strict=True) if not refusal]
    if booked:
        first = batch.rows[booked[0].key]
        connection.execute(
            store_tables.insert_or_ignore(connection.dialect.name, store_tables.batches),
            {
                "tag": batch.tag,
                "driver": holder,
                "state": "planned",
                "run": first.run,
                "role": first.role,
                "model": first.model,
                "identity": first.identity,
                "address": batch.address,
                "input_file_id": "",
                "provider_id": "",
                "rows": len(booked),
                "created": batch.created,
            },
        )
        connection.execute(
            store_tables.insert_or_ignore(connection.dialect.name, store_tables.batch_rows),
            [
                {
                    "key": each.key,
                    "batch": batch.tag,
                    "prompt_version": batch.rows[each.key].prompt_version,
                    "sample_index": batch.rows[each.key].sample_index,
                    "attempt": each.id,
                }
                for each in booked
            ],
        )
    return {each.key: refusal for each, refusal in zip(attempts, refusals, strict=True) if refusal}


def note_batch(connection: sa.Connection, holder: str, _repeated: bool, *, tag: str, **values: Any) -> bool:
    """Update the columns of a batch, if ``holder`` leads it; says whether it does."""
    return (
        connection.execute(
            sa.update(store_tables.batches)
            .where(store_tables.batches.c.tag == tag, store_tables.batches.c.driver == holder)
            .values(values)
        ).rowcount
        > 0
    )


def adopt_batches(connection: sa.Connection, holder: str, repeated: bool, *, keys: Sequence[str]) -> list[OpenBatch]:
    """Take over the batches with one of ``keys`` that no living process leads; returns these batches."""
    call_the_roll(connection, holder)
    living = sa.select(store_tables.holders.c.id)
    # A try before this one may have taken them over already.
    led = living.where(store_tables.holders.c.id != holder) if repeated else living
    tags = store_tables.read_column(connection, keys, store_tables.batch_rows.c.key, store_tables.batch_rows.c.batch)
    free = (
        sa.update(store_tables.batches)
        .where(store_tables.batches.c.tag.in_(tags), store_tables.batches.c.driver.not_in(led))
        .values(driver=holder)
    )
    return [
        _open_batch(connection, row)
        for row in connection.execute(free.returning(*store_tables.batches.c)).mappings().all()
    ]


def leave_batch(connection: sa.Connection, holder: str, _repeated: bool, *, tag: str) -> None:
    """Stop leading a batch, if ``holder`` did: the next process that asks for one of its keys takes it over."""
    connection.execute(
        sa.update(store_tables.batches)
        .where(store_tables.batches.c.tag == tag, store_tables.batches.c.driver == holder)
        .values(driver="")
    )


def end_batch(connection: sa.Connection, _holder: str, _repeated: bool, *, tag: str, state: str) -> None:
    """End a batch: its requests without an outcome are free again, and cost nothing.

    ``state`` is the provider's last status, or why the batch was dropped. The row of `batches` stays as a record.
    """
    if state != LOST:
        owed = connection.execute(
            sa.select(store_tables.batch_rows.c.attempt).where(store_tables.batch_rows.c.batch == tag)
        ).scalars()
        store_rows.settle(connection, [Settlement(attempt, "", types.Spend()) for attempt in owed])
    connection.execute(sa.delete(store_tables.batch_rows).where(store_tables.batch_rows.c.batch == tag))
    ended = {"state": state, "driver": "", "ended": store_tables.utc_now()}
    connection.execute(sa.update(store_tables.batches).where(store_tables.batches.c.tag == tag).values(ended))


def _open_batch(connection: sa.Connection, row: Mapping[Any, Any]) -> OpenBatch:
    found = connection.execute(
        sa.select(store_tables.batch_rows).where(store_tables.batch_rows.c.batch == row["tag"])
    ).all()
    rows = {
        each.key: types.Request(
            role=row["role"],
            messages=(),
            model=row["model"],
            identity=row["identity"],
            sampling=Sampling(),
            sample_index=each.sample_index,
            prompt_version=each.prompt_version,
            run=row["run"],
        )
        for each in found
    }
    return OpenBatch(
        row["tag"],
        row["address"],
        rows,
        {each.key: each.attempt for each in found},
        row["created"],
        row["input_file_id"],
        row["provider_id"],
        perhaps_made=bool(row["input_file_id"]),
    )
