"""Removing rows of a store by age, model, identity, role or status, after saying what asking again would cost."""

from dataclasses import dataclass

from sqlalchemy import Engine, delete, func, select

from tapir_core.calls.store_tables import answers
from tapir_core.errors import ConfigError
from tapir_core.store_admin.filters import RowFilter
from tapir_core.store_admin.opening import changing, reading
from tapir_core.store_admin.stats import text_bytes

__all__ = ["DoomedRows", "plan_prune", "prune_answers"]

ROWS_PER_COMMIT = 2_000
"""Removed in one transaction, so that a run at work waits for milliseconds only."""


@dataclass(frozen=True, slots=True)
class DoomedRows:
    """Rows of one role, model, identity and first asker that would go."""

    role: str
    model: str
    identity: str
    run: str
    """The run that asked first."""
    rows: int
    bytes: int
    """Of texts and raw replies."""
    tokens: int
    """Prompt and completion tokens that were paid for them."""
    usd: float
    """What they cost, and asking again would cost at those prices."""


def plan_prune(engine: Engine, chosen: RowFilter) -> list[DoomedRows]:
    """What `prune_answers` would remove.

    Raises:
        ConfigError: no condition is set.
        TapirError: the store cannot be read.
    """
    _check_chosen(chosen)
    names = (answers.c.role, answers.c.model, answers.c.identity, answers.c.run)
    query = (
        select(
            *names,
            func.count(),
            func.sum(text_bytes(engine)),
            func.sum(answers.c.prompt_tokens + answers.c.completion_tokens),
            func.sum(answers.c.usd),
        )
        .where(*chosen.conditions())
        .group_by(*names)
        .order_by(*names)
    )
    with reading(engine) as connection:
        return [
            DoomedRows(role, model, identity, run, rows, int(size), int(tokens), float(usd))
            for role, model, identity, run, rows, size, tokens, usd in connection.execute(query)
        ]


def prune_answers(engine: Engine, chosen: RowFilter) -> int:
    """Remove the rows that ``chosen`` meets; gives how many went. What is asked for again is paid again.

    Raises:
        ConfigError: no condition is set.
        TapirError: the store cannot be written; what was removed before stays removed.
    """
    _check_chosen(chosen)
    removed, last = 0, ""
    while True:
        page = select(answers.c.key).where(*chosen.conditions(), answers.c.key > last)
        with reading(engine) as connection:
            keys = list(connection.execute(page.order_by(answers.c.key).limit(ROWS_PER_COMMIT)).scalars())
        if not keys:
            return removed
        with changing(engine) as connection:
            removed += connection.execute(delete(answers).where(answers.c.key.in_(keys), *chosen.conditions())).rowcount
        last = keys[-1]


def _check_chosen(chosen: RowFilter) -> None:
    if chosen.is_empty:
        ways = "--older-than 30d, --model, --identity, --role or --status"
        raise ConfigError(f"nothing says which rows to prune; give {ways}")
