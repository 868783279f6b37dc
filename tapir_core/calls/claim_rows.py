"""Rows of `claims` and `holders`: who is about to send what.

Functions on a connection whose transaction the store's writer holds, so that claims and answers agree at every commit.
A claim frees itself with its holder: at once when that process of this machine is gone, and after 60 s without
heartbeat when it ran on another.
"""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from enum import Enum

from sqlalchemy import Connection, bindparam, delete, or_, select, update

from tapir_core.calls.lease import LAPSE_SECONDS, Holder
from tapir_core.calls.lease_rows import database_time
from tapir_core.calls.store_tables import answers, batches, claims, holders, insert_or_ignore

__all__ = ["Claimed", "beat", "call_the_roll", "claim", "drop_holder", "release"]


class Claimed(Enum):
    """What a process may do about a request."""

    OURS = "send it"
    ANSWERED = "the store has its outcome by now"
    ELSEWHERE = "another process is sending it"


def claim(connection: Connection, holder: str, keys: Sequence[str]) -> list[Claimed]:
    """Claim what nobody has answered or claimed."""
    call_the_roll(connection, holder)
    # In this order: a claim ends when its answer is there, and PostgreSQL shows each statement what is there by then.
    rows_taken = connection.execute(select(claims.c.key, claims.c.holder).where(claims.c.key.in_(keys))).all()
    taken = {row.key: row.holder for row in rows_taken}
    answered = set(connection.execute(select(answers.c.key).where(answers.c.key.in_(keys))).scalars())
    found = []
    for key in keys:
        if key in answered:
            found.append(Claimed.ANSWERED)
        else:
            found.append(Claimed.OURS if taken.get(key, holder) == holder else Claimed.ELSEWHERE)
    ours = [{"key": key, "holder": holder} for key, each in zip(keys, found, strict=True) if each is Claimed.OURS]
    if ours:
        connection.execute(insert_or_ignore(connection.engine, claims), ours)
    return found


def release(connection: Connection, holder: str, keys: Sequence[str]) -> None:
    """Give up claims of ``holder`` and of the batches that it leads: answered, or nobody sends them now.

    Others' claims stay: who was taken for dead must not free what another process has claimed since.
    """
    if keys:
        connection.execute(_RELEASE, {"keys": keys, "by": holder})


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
    now = database_time(connection)
    last = connection.scalar(select(holders.c.heartbeat).where(holders.c.id == holder))
    # While the database was away nobody could show that it lives.
    all_were_silent = last is not None and now - last >= timedelta(seconds=LAPSE_SECONDS)
    beat(connection, holder, Holder.this_process())
    for row in connection.execute(select(holders)).mappings().all():
        process = Holder(row["host"], row["boot_id"], row["pid"], row["process_started"])
        silent = now - row["heartbeat"] >= timedelta(seconds=LAPSE_SECONDS)
        if process.is_gone() or (silent and not process.is_here() and not all_were_silent):
            drop_holder(connection, row["id"])


def drop_holder(connection: Connection, holder: str) -> None:
    """Give up everything that ``holder`` claims."""
    connection.execute(delete(claims).where(claims.c.holder == holder))
    connection.execute(delete(holders).where(holders.c.id == holder))


# Made once: to build a statement costs as much as to run it.
_RELEASE = delete(claims).where(
    claims.c.key.in_(bindparam("keys", expanding=True)),
    or_(
        claims.c.holder == bindparam("by"),
        claims.c.holder.in_(select(batches.c.tag).where(batches.c.driver == bindparam("by"))),
    ),
)
