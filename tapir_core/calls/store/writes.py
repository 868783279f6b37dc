"""What the store's writer writes, in one transaction: answers, claims and what was spent agree at each commit."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine

from tapir_core.calls.spend import Spend
from tapir_core.calls.store import answer_rows, claim_rows, reuse_rows
from tapir_core.calls.store.batch_rows import BatchWrite
from tapir_core.calls.store.claim_rows import Grant, Wanted
from tapir_core.calls.store.lease import Holder
from tapir_core.calls.store.reuse_rows import Asked
from tapir_core.calls.store.tables import writing
from tapir_core.calls.types import Outcome
from tapir_core.config.budget import BudgetConfig

__all__ = [
    "Beat",
    "Claim",
    "Forget",
    "Grant",
    "Leave",
    "Put",
    "Release",
    "Reuse",
    "Wanted",
    "Write",
    "commit",
    "rows_of",
]


@dataclass(frozen=True, slots=True)
class Put:
    """An outcome that came: it is stored, paid, and its claim ends."""

    row: dict[str, Any]
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Release:
    """Something was spent without an outcome to store, and the claim of ``key`` ends if there is one."""

    key: str | None
    run: str
    role: str
    spent: Spend


@dataclass(frozen=True, slots=True)
class Claim:
    """Requests that are about to be sent."""

    wanted: tuple[Wanted, ...]
    budget: BudgetConfig


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


Write = Put | Release | Claim | Beat | Leave | Forget | Reuse | BatchWrite


def rows_of(write: Write) -> int:
    """How many rows a write touches, about."""
    return len(write.wanted) if isinstance(write, Claim) else 1


def commit(engine: Engine, holder: str, writes: Sequence[Write]) -> list[Any]:
    """Write all in one transaction; gives each write's result: of a `Put` its outcome, of a `Claim` its grants.

    What came is stored first and claims are looked at last, so that a claim sees all that was settled before it.
    """
    results: list[Any] = [None] * len(writes)
    with writing(engine) as connection:
        puts = {place: write for place, write in enumerate(writes) if isinstance(write, Put)}
        before = answer_rows.insert_rows(connection, [put.row for put in puts.values()])
        for place, put in puts.items():
            results[place] = before.get(put.row["key"], put.outcome)
        _settle(connection, [write for write in writes if isinstance(write, Put | Release)])
        for place, write in enumerate(writes):
            if isinstance(write, Claim):
                results[place] = claim_rows.claim(connection, holder, write.wanted, write.budget)
            elif isinstance(write, Beat):
                claim_rows.beat(connection, holder, Holder.this_process())
            elif isinstance(write, Forget):
                results[place] = answer_rows.delete_rows(connection, write.keys)
            elif isinstance(write, Reuse):
                reuse_rows.add_reuse(connection, write.requests)
            elif isinstance(write, Leave):
                claim_rows.drop_holder(connection, holder)
            elif isinstance(write, BatchWrite):
                results[place] = write.apply(connection, holder)
    return results


def _settle(connection: Any, writes: Sequence[Put | Release]) -> None:
    keys: list[str] = []
    spent: dict[tuple[str, str], Spend] = defaultdict(Spend)
    for write in writes:
        if isinstance(write, Put):
            row = write.row
            keys.append(row["key"])
            spent[row["run"], row["role"]] += Spend(
                row["attempts"], row["prompt_tokens"], row["completion_tokens"], row["usd"]
            )
        else:
            keys += [write.key] if write.key else []
            spent[write.run, write.role] += write.spent
    claim_rows.release(connection, keys)
    # In one order everywhere: two processes that lock the same rows crosswise would wait for each other.
    for (run, role), more in sorted(spent.items(), key=lambda each: each[0]):
        if more != Spend():
            claim_rows.add_spend(connection, run, role, more)
