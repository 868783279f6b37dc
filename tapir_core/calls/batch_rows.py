"""Rows of `batches` and `batch_rows`: what is at a provider, who leads it, and what of it is still owed.

Each write has its place in the transactions of the store's writer, so that batches and claims agree at every commit.
The tag of a batch holds the claims of its requests: they end with an outcome or with the batch, never with a process.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, delete, insert, select, update

from tapir_core.calls.asking import in_groups
from tapir_core.calls.attempt_rows import book, settle
from tapir_core.calls.budget import Attempt, Settlement
from tapir_core.calls.spend import Spend
from tapir_core.calls.store_tables import (
    batch_rows,
    batches,
    claims,
    holders,
    insert_or_ignore,
    read_column,
    utc_now,
)
from tapir_core.calls.store_writes import call_the_roll
from tapir_core.calls.types import Request
from tapir_core.config import BudgetConfig, Sampling

LOST = "lost"
"""State of a batch that its provider knows no more: what it has cost stays unknown."""


@dataclass(frozen=True, slots=True)
class OpenBatch:
    """A batch that has not ended."""

    tag: str
    address: str
    rows: Mapping[str, Request]
    """By key, what it still owes. Those of an adopted batch have no messages: these are at the provider."""
    attempts: Mapping[str, int] = field(default_factory=dict)
    """By key, the attempt that is booked for it."""
    input_file_id: str = ""
    provider_id: str = ""
    created: datetime = datetime.min
    """UTC, without zone."""

    @property
    def any_row(self) -> Request:
        """Run, role, model and identity are those of every row."""
        return next(iter(self.rows.values()))


class Planned(NamedTuple):
    """What became of a planned batch."""

    batch: OpenBatch
    """With the rows that the caps have room for, led by the holder; it is nowhere when it has none."""
    refused: Mapping[str, str]
    """Key of each other row → the cap, in words."""


@dataclass(frozen=True, slots=True)
class PlanBatch:
    """Requests that are claimed become those of a batch, booked before anything of it leaves this process."""

    batch: OpenBatch
    attempts: Mapping[str, Attempt]
    """By key, one for each of its rows."""
    budget: BudgetConfig

    def apply(self, connection: Connection, holder: str, *, repeated: bool = False) -> Planned:
        """Book each row that the caps have room for, and write down a batch of them."""
        refusals = book(connection, [(self.attempts[key], self.budget) for key in self.batch.rows], repeated=repeated)
        refused = {key: refusal for key, refusal in zip(self.batch.rows, refusals, strict=True) if refusal}
        rows = {key: request for key, request in self.batch.rows.items() if key not in refused}
        booked = {key: self.attempts[key].id for key in rows}
        batch = replace(self.batch, rows=rows, attempts=booked, created=utc_now())
        if rows:
            _insert(connection, holder, batch)
        return Planned(batch, refused)


@dataclass(frozen=True, slots=True)
class NoteBatch:
    """What the provider calls a batch, or its input file."""

    tag: str
    input_file_id: str = ""
    provider_id: str = ""

    def apply(self, connection: Connection, _: str, *, repeated: bool = False) -> None:
        """Write down what is given."""
        given = {"input_file_id": self.input_file_id, "provider_id": self.provider_id}
        values = {name: value for name, value in given.items() if value}
        values["state"] = "made" if self.provider_id else "uploaded"
        connection.execute(update(batches).where(batches.c.tag == self.tag).values(values))


@dataclass(frozen=True, slots=True)
class AdoptBatches:
    """Take over the batches that nobody leads and that hold one of these keys."""

    keys: tuple[str, ...]

    def apply(self, connection: Connection, holder: str, *, repeated: bool = False) -> list[OpenBatch]:
        """The batches that ``holder`` leads from now on."""
        call_the_roll(connection, holder)
        tags = read_column(connection, batch_rows.c.batch, batch_rows.c.key, self.keys)
        living = select(holders.c.id)
        # A try before this one may have taken them over already.
        led = living.where(holders.c.id != holder) if repeated else living
        free = select(batches).where(batches.c.tag.in_(tags), batches.c.driver.not_in(led))
        found = connection.execute(free).mappings().all()
        adopted = [row["tag"] for row in found]
        connection.execute(update(batches).where(batches.c.tag.in_(adopted)).values(driver=holder))
        return [_read(connection, row) for row in found]


@dataclass(frozen=True, slots=True)
class LeaveBatch:
    """Stop leading a batch: whoever asks next for one of its keys takes it over."""

    tag: str

    def apply(self, connection: Connection, holder: str, *, repeated: bool = False) -> None:
        """Nobody leads it, if ``holder`` did."""
        ours = (batches.c.tag == self.tag, batches.c.driver == holder)
        connection.execute(update(batches).where(*ours).values(driver=""))


@dataclass(frozen=True, slots=True)
class EndBatch:
    """A batch has nothing more to give: the claims of what it still owes end, and what was booked for it."""

    tag: str
    state: str
    """The provider's last status, or why the batch was dropped."""

    def apply(self, connection: Connection, _: str, *, repeated: bool = False) -> None:
        """The row of `batches` stays as a record."""
        if self.state != LOST:
            owed = connection.execute(select(batch_rows.c.attempt).where(batch_rows.c.batch == self.tag)).scalars()
            settle(connection, [Settlement(attempt, "", Spend()) for attempt in owed])
        connection.execute(delete(claims).where(claims.c.holder == self.tag))
        connection.execute(delete(batch_rows).where(batch_rows.c.batch == self.tag))
        values = {"state": self.state, "driver": "", "ended": utc_now()}
        connection.execute(update(batches).where(batches.c.tag == self.tag).values(values))


BatchWrite = PlanBatch | NoteBatch | AdoptBatches | LeaveBatch | EndBatch


def read_batched(connection: Connection, keys: Sequence[str]) -> set[str]:
    """Which of ``keys`` are in a batch that has not ended."""
    return read_column(connection, batch_rows.c.key, batch_rows.c.key, keys)


def _read(connection: Connection, row: Mapping[Any, Any]) -> OpenBatch:
    owed = (
        select(batch_rows)
        .join(claims, claims.c.key == batch_rows.c.key)
        .where(batch_rows.c.batch == row["tag"], claims.c.holder == row["tag"])
    )
    found = connection.execute(owed).all()
    rows = {
        each.key: Request(
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
    attempts = {each.key: each.attempt for each in found}
    files = row["input_file_id"], row["provider_id"]
    return OpenBatch(row["tag"], row["address"], rows, attempts, *files, row["created"])


def _insert(connection: Connection, holder: str, batch: OpenBatch) -> None:
    first = batch.any_row
    row = {"tag": batch.tag, "driver": holder, "state": "planned", "address": batch.address, "rows": len(batch.rows)}
    asked = {"run": first.run, "role": first.role, "model": first.model, "identity": first.identity}
    files = {"input_file_id": "", "provider_id": "", "created": batch.created}
    connection.execute(insert_or_ignore(connection.dialect.name, batches).values(row | asked | files))
    for some in in_groups(batch.rows):
        connection.execute(delete(batch_rows).where(batch_rows.c.key.in_(some)))
        connection.execute(update(claims).where(claims.c.key.in_(some)).values(holder=batch.tag))
    rows = [
        {
            "key": key,
            "batch": batch.tag,
            "prompt_version": request.prompt_version,
            "sample_index": request.sample_index,
            "attempt": batch.attempts[key],
        }
        for key, request in batch.rows.items()
    ]
    connection.execute(insert(batch_rows), rows)
