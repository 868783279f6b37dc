"""Rows of the `answers` table: read, insert and delete. Functions on a connection, without threads."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, cast

from sqlalchemy import Connection, case, delete, select

from tapir_core.calls.store_tables import answers, insert_or_ignore
from tapir_core.calls.types import Answer, Failure, FailureKind, Outcome, Request
from tapir_core.calls.wire import Reply, read_logprobs

__all__ = ["delete_rows", "insert_rows", "make_row", "read_known", "read_outcomes"]

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
    # Log-probabilities stand in the body alone, and benchmarks alone read them: other bodies are left where they are.
    case((answers.c.role == "benchmark", answers.c.raw)),
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
    statement = insert_or_ignore(connection.engine, answers).returning(answers.c.key)
    inserted = set(connection.execute(statement, list(firsts.values())).scalars())
    others = {row["key"] for row in rows if row["key"] not in inserted or row is not firsts[row["key"]]}
    return read_outcomes(connection, sorted(others))


def read_outcomes(connection: Connection, keys: Sequence[str]) -> dict[str, Outcome]:
    """The stored outcome of each key that is there."""
    found: dict[str, Outcome] = {}
    for some in _batches(keys):
        query = select(*OUTCOME_COLUMNS).where(answers.c.key.in_(some))
        found.update((key, _outcome(*rest)) for key, *rest in map(tuple, connection.execute(query)))
    return found


def read_known(connection: Connection, keys: Sequence[str]) -> set[str]:
    """Which of ``keys`` are there."""
    known: set[str] = set()
    for some in _batches(keys):
        known.update(connection.execute(select(answers.c.key).where(answers.c.key.in_(some))).scalars())
    return known


def delete_rows(connection: Connection, keys: Sequence[str]) -> int:
    """Delete outcomes; gives how many there were."""
    return sum(connection.execute(delete(answers).where(answers.c.key.in_(some))).rowcount for some in _batches(keys))


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


def _batches(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(keys), KEYS_PER_QUERY):
        yield keys[start : start + KEYS_PER_QUERY]
