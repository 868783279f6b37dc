"""Rows of `answers`, and of `reuse`: how often they answered a request. Functions on a connection, without threads.

Reuse is counted from when the table was made; a start that goes on counts its own run's earlier answers.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from sqlalchemy import Connection, case, delete, func, select

from tapir_core.calls.asking import in_groups
from tapir_core.calls.store_tables import answers, insert_or_add, insert_or_ignore, read_column, reuse, utc_now
from tapir_core.calls.types import Answer, Failure, FailureKind, Outcome, Request
from tapir_core.calls.wire import Reply, read_logprobs

Asked = tuple[str, str, str, str, str]
"""Role, model, identity, prompt version and run of a request."""
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


def delete_rows(connection: Connection, keys: Sequence[str]) -> int:
    """Delete outcomes; gives how many there were."""
    return sum(connection.execute(delete(answers).where(answers.c.key.in_(some))).rowcount for some in in_groups(keys))


def count_asked(requests: Iterable[Request]) -> Counter[Asked]:
    """How many of ``requests`` were of each kind."""
    return Counter((each.role, each.model, each.identity, each.prompt_version, each.run) for each in requests)


def add_reuse(connection: Connection, counts: Mapping[Asked, int]) -> None:
    """Add requests that stored outcomes answered."""
    names = ("role", "model", "identity", "prompt_version", "run")
    for asked, requests in sorted(counts.items()):  # in one order, or two processes could wait for each other
        fields = dict(zip(names, asked, strict=True))
        connection.execute(insert_or_add(connection.dialect.name, reuse), fields | {"requests": requests})


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
