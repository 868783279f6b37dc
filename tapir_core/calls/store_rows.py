"""Rows of `answers`, `reuse`, `attempts` and `spending`: what was received, how often it was re-used, what it cost.

An attempt is booked at the most that it can cost before it is sent, and settled at the cost that its reply states. An
attempt without a reply, because of a time-out, a broken connection or a kill, stays booked: the provider may charge for
it. Reuse is counted from when its table was made; a resumed run counts its own earlier answers.

Functions on a connection whose transaction the store's writer holds, so that attempts, sums and answers agree at every
commit. Each may be repeated without booking twice, because it is unknown whether an interrupted commit was made.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict
from datetime import datetime
from functools import cache, partial
from typing import Any, cast

import sqlalchemy as sa

from tapir_core.calls import types, wire, words
from tapir_core.calls.budget import LOST_HOLD, Attempt, Settlement, cap_reached
from tapir_core.calls.store_tables import (
    answers,
    attempts,
    in_groups,
    insert_or_add,
    insert_or_ignore,
    meta,
    read_known,
    reuse,
    spending,
    utc_now,
)
from tapir_core.config import BudgetConfig
from tapir_core.text import digest

_OUTCOME_COLUMNS = (
    answers.c.key,
    answers.c.status,
    answers.c.text,
    answers.c.finish_reason,
    answers.c.message,
    answers.c.attempts,
    answers.c.prompt_tokens,
    answers.c.completion_tokens,
    answers.c.usd,
    # Log-probabilities are only in the body, and few roles read them: other bodies are not fetched.
    sa.case((answers.c.role.in_(("benchmark", "rollout", "score")), answers.c.raw)),
)

_NO_CAPS = BudgetConfig()
_LONGEST_NAME = 500
"""Characters of an identity in a key; PostgreSQL's takes 2,704 bytes in all."""
_SHARED = "budget.shared {}\n"
"""Before a run's id, in a value of `meta`."""

# Made once: building a statement costs as much as running it.
_SPENT = (
    sa.select(
        spending.c.role,
        *(
            sa.func.sum(spending.c[each]).label(each)
            for each in ("requests", "prompt_tokens", "completion_tokens", "usd", "seconds")
        ),
    )
    .where(spending.c.run.in_(sa.bindparam("runs", expanding=True)))
    .group_by(spending.c.role)
    .order_by(spending.c.role)
)
_BOOK = sa.insert(attempts)
_TAKE = (
    sa.delete(attempts)
    .where(attempts.c.id.in_(sa.bindparam("ids", expanding=True)), attempts.c.outcome == "")
    .returning(
        *(attempts.c.id, attempts.c.run, attempts.c.role, attempts.c.key, attempts.c.sent),
        *(attempts.c.prompt_tokens, attempts.c.completion_tokens, attempts.c.usd),
    )
)
"""Settling deletes an attempt and inserts it again: one statement reads and removes it."""


def make_row(key: str, request: types.Request, reply: wire.Reply) -> dict[str, Any]:
    """The row that keeps ``reply`` to ``request``."""
    outcome = reply.outcome
    return {
        "key": key,
        "role": request.role,
        "model": request.model,
        "identity": request.identity,
        "prompt_version": request.prompt_version,
        "run": request.run,
        "sample_index": request.sample_index,
        "status": "answer" if isinstance(outcome, types.Answer) else outcome.kind,
        "text": outcome.text if isinstance(outcome, types.Answer) else "",
        "finish_reason": outcome.finish_reason if isinstance(outcome, types.Answer) else "",
        "message": "" if isinstance(outcome, types.Answer) else outcome.message,
        "attempts": reply.spent.requests,
        "prompt_tokens": reply.spent.prompt_tokens,
        "completion_tokens": reply.spent.completion_tokens,
        "usd": reply.spent.usd,
        "raw": reply.raw,
        "created": utc_now(),
    }


def insert_rows(connection: sa.Connection, rows: Sequence[dict[str, Any]]) -> dict[str, types.Outcome]:
    """Insert ``rows``; for equal keys the first counts.

    Returns:
        The outcome that counts instead, for each key that was already there or appears twice in ``rows``.
    """
    if not rows:
        return {}
    firsts: dict[str, dict[str, Any]] = {}
    for row in rows:
        firsts.setdefault(row["key"], row)
    statement = insert_or_ignore(connection.dialect.name, answers).returning(answers.c.key)
    inserted = set(connection.execute(statement, list(firsts.values())).scalars())
    others = {row["key"] for row in rows if row["key"] not in inserted or row is not firsts[row["key"]]}
    return read_outcomes(connection, sorted(others))


def read_outcomes(connection: sa.Connection, keys: Sequence[str]) -> dict[str, types.Outcome]:
    """The stored outcome of each key in the store."""
    return {
        row[0]: _outcome(row)
        for some in in_groups(keys)
        for row in connection.execute(sa.select(*_OUTCOME_COLUMNS).where(answers.c.key.in_(some)))
    }


def short_name(identity: str) -> str:
    """An identity as `reuse` has it: PostgreSQL indexes no long text, such as one with a chat template in it."""
    return identity if len(identity) <= _LONGEST_NAME else digest(identity)


def read_reuse(connection: sa.Connection) -> dict[tuple[str, str, str, str], int]:
    """How many requests of all runs were answered from the store, by role, model, identity and prompt version."""
    names = (reuse.c.role, reuse.c.model, reuse.c.identity, reuse.c.prompt_version)
    found = connection.execute(sa.select(*names, sa.func.sum(reuse.c.requests)).group_by(*names))
    return {(role, model, identity, prompt): int(requests) for role, model, identity, prompt, requests in found}


def _outcome(row: Sequence[Any]) -> types.Outcome:
    _, status, text, finish_reason, message, attempts, prompt_tokens, completion_tokens, usd, raw = row
    if status != "answer":
        return types.Failure(cast(types.FailureKind, status), message, attempts, stored=True)
    ending, tokens = words.read_ending(finish_reason), wire.read_tokens(raw)
    more: dict[str, Any] = {"tokens": tokens} if tokens else {"logprobs": wire.read_logprobs(raw)}
    return types.Answer(text, ending, prompt_tokens, completion_tokens, usd, stored=True, **more)


def book(
    connection: sa.Connection,
    wanted: Sequence[tuple[Attempt, BudgetConfig]],
    *,
    lost: Collection[str] = (),
    repeated: bool = False,
) -> list[str]:
    """Reserve for each attempt in turn; returns for each why it may not be sent, or an empty text.

    No cap may be exceeded, and nothing is sent for the lists in ``lost``, which another process has by now.
    ``repeated`` says that this may have been committed before.
    """
    known = read_known(connection, [each.id for each, _ in wanted] if repeated else [], attempts.c.id)
    spent_by, unknown_of = cache(partial(read_spend, connection)), cache(partial(read_unknown, connection))
    for name, run in sorted({(budget.shared, attempt.run) for attempt, budget in wanted if budget.shared}):
        _share(connection, name, run)
    sharing = cache(partial(_sharing, connection))
    refusals, booked = [], []
    for attempt, budget in wanted:
        refusal = LOST_HOLD if attempt.shard in lost else ""
        if not refusal and attempt.id not in known:
            runs = sharing(budget.shared) if budget.shared else (attempt.run,)
            refusal = "" if budget == _NO_CAPS else _reserve(attempt, budget, spent_by(*runs), unknown_of, runs)
            booked += [] if refusal else [attempt]
        refusals.append(refusal)
    if booked:
        sent = utc_now()
        connection.execute(_BOOK, [_row(each, each.most, sent) for each in booked])
        _add(connection, [(each.run, each.role, each.most) for each in booked])
    return refusals


def settle(connection: sa.Connection, settlements: Sequence[Settlement]) -> None:
    """Replace the bookings of attempts by what they cost; settled attempts stay as they are."""
    came = {each.attempt: each for each in settlements}
    rows, more = [], []
    for some in in_groups(sorted(came)):
        for attempt, run, role, key, sent, *amounts in connection.execute(_TAKE, {"ids": some}).all():
            outcome, spent = came[attempt].outcome, came[attempt].spent
            booked = Attempt(attempt, run, role, key, types.Spend(1, *amounts))
            cost = booked.most if spent is None else spent
            more.append((run, role, cost - booked.most))
            if cost.requests:  # otherwise it was never sent
                rows.append(_row(booked, cost, sent, outcome=outcome, unknown=spent is None))
    if rows:
        connection.execute(_BOOK, rows)
    _add(connection, more)


def add_spend(connection: sa.Connection, run: str, role: str, more: types.Spend) -> None:
    """Add to what a run has spent in a role."""
    connection.execute(insert_or_add(connection.dialect.name, spending), {"run": run, "role": role, **asdict(more)})


def read_spend(connection: sa.Connection, *runs: str) -> dict[str, types.Spend]:
    """What runs have spent or reserved, by role."""
    return {
        row.role: types.Spend(
            int(row.requests), int(row.prompt_tokens), int(row.completion_tokens), row.usd, row.seconds
        )
        for row in connection.execute(_SPENT, {"runs": runs})
    }


def _share(connection: sa.Connection, name: str, run: str) -> None:
    """Note that a run shares its caps under a name, before its first booking there; it stays so under another name."""
    if run not in _sharing(connection, name):
        connection.execute(
            sa.insert(meta), {"name": f"budget {digest([name, run])[:32]}", "value": _SHARED.format(name) + run}
        )


def _sharing(connection: sa.Connection, name: str) -> tuple[str, ...]:
    """The runs that share their caps under ``name``."""
    begins = _SHARED.format(name)
    query = sa.select(meta.c.value).where(meta.c.value.startswith(begins, autoescape=True)).order_by(meta.c.value)
    # LIKE of SQLite takes small letters for large ones.
    return tuple(each.removeprefix(begins) for each in connection.scalars(query) if each.startswith(begins))


def read_unknown(connection: sa.Connection, *runs: str) -> types.Spend:
    """The part of that for attempts of unknown cost."""
    sums = (sa.func.sum(column) for column in (attempts.c.prompt_tokens, attempts.c.completion_tokens, attempts.c.usd))
    query = sa.select(sa.func.count(), *sums).where(attempts.c.run.in_(runs), attempts.c.unknown)
    requests, prompt, completion, usd = connection.execute(query).one()
    return types.Spend(requests, int(prompt or 0), int(completion or 0), float(usd or 0))


def _reserve(
    wanted: Attempt,
    budget: BudgetConfig,
    spent: dict[str, types.Spend],
    unknown_of: Callable[..., types.Spend],
    runs: Sequence[str],
) -> str:
    """Add an attempt to what its run, and others that share its caps, have ``spent`` or reserved.

    Or return which cap has no room for it.
    """
    reason = cap_reached(budget, spent, wanted.role, wanted.most)
    if reason is None:
        spent[wanted.role] = spent.get(wanted.role, types.Spend()) + wanted.most
        return ""
    reason += f", by {len(runs)} runs (budget.shared = {budget.shared!r})" if len(runs) > 1 else ""
    unknown = unknown_of(*runs)
    if unknown.requests:
        reason += f". Of {unknown.requests:,} requests ({unknown.usd:.4g} USD) no reply has told the cost"
    return reason


def _row(
    attempt: Attempt, cost: types.Spend, sent: datetime, *, outcome: str = "", unknown: bool = True
) -> dict[str, Any]:
    return {
        "id": attempt.id,
        "run": attempt.run,
        "role": attempt.role,
        "key": attempt.key,
        "outcome": outcome,
        "prompt_tokens": cost.prompt_tokens,
        "completion_tokens": cost.completion_tokens,
        "usd": cost.usd,
        "unknown": unknown,
        "sent": sent,
    }


def _add(connection: sa.Connection, sums: Iterable[tuple[str, str, types.Spend]]) -> None:
    added: dict[tuple[str, str], types.Spend] = defaultdict(types.Spend)
    for run, role, more in sums:
        added[run, role] += more
    for run, role in sorted(added):  # in one order, or two processes could wait for each other
        add_spend(connection, run, role, added[run, role])
