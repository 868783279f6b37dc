"""Rows of the `answers` table: read, insert, sum. Functions on an engine, without threads."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, cast

from sqlalchemy import Engine, func, select

from tapir_core.calls.spend import Spend
from tapir_core.calls.tables import answers, insert_or_ignore, writing
from tapir_core.calls.types import Answer, Failure, FailureKind, Outcome, Request, Role
from tapir_core.calls.wire import Reply

__all__ = ["insert_rows", "make_row", "read_known", "read_outcomes", "sum_spend"]

KEYS_PER_QUERY = 5000
OUTCOME_COLUMNS = (
    answers.c.key,
    answers.c.status,
    answers.c.text,
    answers.c.finish_reason,
    answers.c.message,
    answers.c.attempts,
    answers.c.prompt_tokens,
    answers.c.completion_tokens,
    answers.c.usd,
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
        "created": datetime.now(UTC).replace(tzinfo=None),
    }


def insert_rows(engine: Engine, rows: Sequence[dict[str, Any]]) -> dict[str, Outcome]:
    """Insert ``rows`` (keys all different) in one transaction.

    Returns:
        The outcome that another process stored first, for each key that was already there.
    """
    statement = insert_or_ignore(engine, answers).returning(answers.c.key)
    with writing(engine) as connection:
        inserted = set(connection.execute(statement, list(rows)).scalars())
    return read_outcomes(engine, [row["key"] for row in rows if row["key"] not in inserted])


def read_outcomes(engine: Engine, keys: Sequence[str]) -> dict[str, Outcome]:
    """The stored outcome of each key that is there."""
    found: dict[str, Outcome] = {}
    with engine.connect() as connection:
        for some in _batches(keys):
            query = select(*OUTCOME_COLUMNS).where(answers.c.key.in_(some))
            found.update((row[0], _outcome(*row[1:])) for row in connection.execute(query))
    return found


def read_known(engine: Engine, keys: Sequence[str]) -> set[str]:
    """Which of ``keys`` are there."""
    known: set[str] = set()
    with engine.connect() as connection:
        for some in _batches(keys):
            known.update(connection.execute(select(answers.c.key).where(answers.c.key.in_(some))).scalars())
    return known


def sum_spend(engine: Engine, run: str) -> dict[Role, Spend]:
    """What ``run`` paid for, by role."""
    query = (
        select(
            answers.c.role,
            func.count(),
            func.sum(answers.c.prompt_tokens),
            func.sum(answers.c.completion_tokens),
            func.sum(answers.c.usd),
        )
        .where(answers.c.run == run)
        .group_by(answers.c.role)
        .order_by(answers.c.role)
    )
    with engine.connect() as connection:
        return {
            row[0]: Spend(int(row[1]), int(row[2]), int(row[3]), float(row[4])) for row in connection.execute(query)
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
) -> Outcome:
    if status == "answer":
        return Answer(text, finish_reason, prompt_tokens, completion_tokens, usd, stored=True)
    return Failure(cast(FailureKind, status), message, attempts, stored=True)


def _batches(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(keys), KEYS_PER_QUERY):
        yield keys[start : start + KEYS_PER_QUERY]
