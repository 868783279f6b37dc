"""Rows of `answers`, `reuse`, `attempts` and `spending`: what was received, how often it answered, what it cost.

An attempt is booked at the most that it can cost before it is sent, and settled at what its reply says. One whose reply
never came, because of a time-out, a broken connection or a kill, stays booked: its provider may charge for it. Reuse is
counted from when its table was made; a start that goes on counts its own run's earlier answers.

Functions on a connection whose transaction the store's writer holds, so that attempts, sums and answers agree at every
commit; each books nothing twice when it is repeated, for nobody knows of a commit that broke off whether it was made.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any, cast

from sqlalchemy import Connection, bindparam, case, delete, func, insert, select, update

from tapir_core.calls.asking import in_groups
from tapir_core.calls.budget import Attempt, Settlement, Spend, cap_reached
from tapir_core.calls.store_tables import (
    answers,
    attempts,
    insert_or_add,
    insert_or_ignore,
    read_column,
    reuse,
    spending,
    utc_now,
)
from tapir_core.calls.types import Answer, Failure, FailureKind, Outcome, Request
from tapir_core.calls.wire import Reply, read_logprobs
from tapir_core.config import BudgetConfig

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
    # Log-probabilities stand in the body alone, and benchmarks alone read them: other bodies are left where they are.
    case((answers.c.role == "benchmark", answers.c.raw)),
)

_NO_CAPS = BudgetConfig()

# Made once: to build a statement costs as much as to run it.
_SPENT = select(spending).where(spending.c.run == bindparam("of")).order_by(spending.c.role)
_UNSETTLED = select(attempts).where(attempts.c.id.in_(bindparam("ids", expanding=True)), attempts.c.outcome == "")
_BOOK = insert(attempts)

_SETTLE = (
    update(attempts)
    .where(attempts.c.id == bindparam("attempt"))
    .values(
        outcome=bindparam("came"),
        unknown=bindparam("unsure"),
        prompt_tokens=bindparam("prompt"),
        completion_tokens=bindparam("completion"),
        usd=bindparam("cost"),
    )
)


def make_row(key: str, request: Request, reply: Reply) -> dict[str, Any]:
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
        "status": "answer" if isinstance(outcome, Answer) else outcome.kind,
        "text": outcome.text if isinstance(outcome, Answer) else "",
        "finish_reason": outcome.finish_reason if isinstance(outcome, Answer) else "",
        "message": "" if isinstance(outcome, Answer) else outcome.message,
        "attempts": reply.attempts,
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.completion_tokens,
        "usd": reply.usd,
        "raw": reply.raw,
        "created": utc_now(),
    }


def insert_rows(connection: Connection, rows: Sequence[dict[str, Any]]) -> dict[str, Outcome]:
    """Insert ``rows``; of equal keys the first counts.

    Returns:
        The outcome that counts instead, for each key that was already there or is twice among ``rows``.
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


def read_outcomes(connection: Connection, keys: Sequence[str]) -> dict[str, Outcome]:
    """The stored outcome of each key that is there."""
    found: dict[str, Outcome] = {}
    for some in in_groups(keys):
        query = select(*_OUTCOME_COLUMNS).where(answers.c.key.in_(some))
        found.update((key, _outcome(*rest)) for key, *rest in map(tuple, connection.execute(query)))
    return found


def read_known(connection: Connection, keys: Sequence[str]) -> set[str]:
    """Which of ``keys`` are there."""
    return read_column(connection, answers.c.key, answers.c.key, keys)


def read_reuse(connection: Connection) -> dict[tuple[str, str, str, str], int]:
    """Requests that stored outcomes answered, of all runs, by role, model, identity and prompt version."""
    names = (reuse.c.role, reuse.c.model, reuse.c.identity, reuse.c.prompt_version)
    query = select(*names, func.sum(reuse.c.requests)).group_by(*names)
    return {
        (role, model, identity, prompt): int(requests)
        for role, model, identity, prompt, requests in connection.execute(query)
    }


def _outcome(
    status: str,
    text: str,
    finish_reason: str,
    message: str,
    attempts: int,
    prompt_tokens: int,
    completion_tokens: int,
    usd: float,
    raw: str | None,
) -> Outcome:
    if status == "answer":
        found = read_logprobs(raw)
        return Answer(text, finish_reason, prompt_tokens, completion_tokens, usd, stored=True, logprobs=found)
    return Failure(cast(FailureKind, status), message, attempts, stored=True)


def book(
    connection: Connection, wanted: Sequence[tuple[Attempt, BudgetConfig]], *, repeated: bool = False
) -> list[str]:
    """Reserve for each attempt in turn; gives for each the cap that has no room for it, in words, or an empty text.

    ``repeated`` says that this may have been committed before.
    """
    if not wanted:
        return []
    ids = [each.id for each, _ in wanted]
    known = read_column(connection, attempts.c.id, attempts.c.id, ids) if repeated else set()
    ledger = _Ledger(connection)
    refusals = ["" if each.id in known else ledger.reserve(each, budget) for each, budget in wanted]
    booked = [each for (each, _), refusal in zip(wanted, refusals, strict=True) if not refusal and each.id not in known]
    if booked:
        connection.execute(_BOOK, [_row(each) for each in booked])
        _add(connection, [(each.run, each.role, each.most) for each in booked])
    return refusals


def settle(connection: Connection, settlements: Sequence[Settlement]) -> None:
    """Replace what is booked for attempts by what they cost; one that is settled already stays as it is."""
    known = {each.attempt: each for each in settlements}
    booked: list[Any] = []
    for some in in_groups(sorted(known)):
        booked += connection.execute(_UNSETTLED, {"ids": some}).all()
    changed, dropped, more = [], [], []
    for row in booked:
        of = known[row.id]
        most = Spend(1, row.prompt_tokens, row.completion_tokens, row.usd)
        spent = most if of.spent is None else of.spent
        more.append((row.run, row.role, spent - most))
        if spent.requests:
            figures = {"prompt": spent.prompt_tokens, "completion": spent.completion_tokens, "cost": spent.usd}
            changed.append({"attempt": row.id, "came": of.outcome, "unsure": of.spent is None, **figures})
        else:
            dropped.append(row.id)
    if changed:
        connection.execute(_SETTLE, changed)
    for some in in_groups(dropped):
        connection.execute(delete(attempts).where(attempts.c.id.in_(some)))
    _add(connection, more)


def add_spend(connection: Connection, run: str, role: str, more: Spend) -> None:
    """Add to what a run has spent for a role."""
    connection.execute(insert_or_add(connection.dialect.name, spending), {"run": run, "role": role, **asdict(more)})


def read_spend(connection: Connection, run: str) -> dict[str, Spend]:
    """What a run has spent or reserved, by role."""
    return {
        row.role: Spend(row.requests, row.prompt_tokens, row.completion_tokens, row.usd, row.seconds)
        for row in connection.execute(_SPENT, {"of": run})
    }


def read_unknown(connection: Connection, run: str) -> Spend:
    """How much of that is for attempts whose cost nobody told."""
    sums = (func.sum(column) for column in (attempts.c.prompt_tokens, attempts.c.completion_tokens, attempts.c.usd))
    query = select(func.count(), *sums).where(attempts.c.run == run, attempts.c.unknown)
    requests, prompt, completion, usd = connection.execute(query).one()
    return Spend(requests, int(prompt or 0), int(completion or 0), float(usd or 0))


def adopt(connection: Connection, name: str, run: str, *, since: datetime) -> None:
    """Give the run with the id ``run``, made at ``since`` (UTC), what a version before schema 4 booked by its ``name``.

    Only where the first answer of that name is no older than the run: an older one was another run's, deleted since,
    and then nobody can say whose spending it is.
    """
    first = connection.scalar(select(func.min(answers.c.created)).where(answers.c.run == name))
    if first is not None and first >= since:
        for role, spent in read_spend(connection, name).items():
            add_spend(connection, run, role, spent)
        connection.execute(delete(spending).where(spending.c.run == name))
        connection.execute(update(attempts).where(attempts.c.run == name).values(run=run))


class _Ledger:
    """What the runs have spent and reserved at the moment of one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._spent: dict[str, dict[str, Spend]] = {}
        self._unknown: dict[str, Spend] = {}

    def reserve(self, wanted: Attempt, budget: BudgetConfig) -> str:
        """Add ``wanted``, or say which cap has no room for it."""
        if budget == _NO_CAPS:
            return ""
        if wanted.run not in self._spent:
            self._spent[wanted.run] = read_spend(self._connection, wanted.run)
        spent = self._spent[wanted.run]
        reason = cap_reached(budget, spent, wanted.role, wanted.most)
        if reason is None:
            spent[wanted.role] = spent.get(wanted.role, Spend()) + wanted.most
            return ""
        if wanted.run not in self._unknown:
            self._unknown[wanted.run] = read_unknown(self._connection, wanted.run)
        unknown = self._unknown[wanted.run]
        if unknown.requests:
            reason += f". Of {unknown.requests:,} requests ({unknown.usd:.4g} USD) no reply has told the cost"
        return reason


def _row(attempt: Attempt) -> dict[str, Any]:
    most = attempt.most
    asked = {"id": attempt.id, "run": attempt.run, "role": attempt.role, "key": attempt.key}
    amounts = {"prompt_tokens": most.prompt_tokens, "completion_tokens": most.completion_tokens, "usd": most.usd}
    return {**asked, **amounts, "outcome": "", "unknown": True, "sent": utc_now()}


def _add(connection: Connection, sums: Iterable[tuple[str, str, Spend]]) -> None:
    added: dict[tuple[str, str], Spend] = defaultdict(Spend)
    for run, role, more in sums:
        added[run, role] += more
    for (run, role), more in sorted(added.items(), key=lambda each: each[0]):
        if more != Spend():
            add_spend(connection, run, role, more)
