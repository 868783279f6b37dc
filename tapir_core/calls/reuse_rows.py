"""Rows of `reuse`: how often stored outcomes answered a request. Functions on a connection, without threads.

Counting begins with the table; a start that goes on counts its own run's earlier answers.
"""

from collections import Counter
from collections.abc import Iterable, Mapping

from sqlalchemy import Connection, func, select

from tapir_core.calls.store_tables import insert_or_add, reuse
from tapir_core.calls.types import Request

__all__ = ["Asked", "add_reuse", "count_asked", "read_reuse"]

Asked = tuple[str, str, str, str, str]
"""Role, model, identity, prompt version and run of a request."""


def count_asked(requests: Iterable[Request]) -> Counter[Asked]:
    """How many of ``requests`` were of each kind."""
    return Counter((each.role, each.model, each.identity, each.prompt_version, each.run) for each in requests)


def add_reuse(connection: Connection, counts: Mapping[Asked, int]) -> None:
    """Add requests that stored outcomes answered."""
    names = ("role", "model", "identity", "prompt_version", "run")
    for asked, requests in sorted(counts.items()):  # in one order, or two processes could wait for each other
        fields = dict(zip(names, asked, strict=True))
        connection.execute(insert_or_add(connection.engine, reuse), fields | {"requests": requests})


def read_reuse(connection: Connection) -> dict[tuple[str, str, str, str], int]:
    """Requests that stored outcomes answered, of all runs, by role, model, identity and prompt version."""
    names = (reuse.c.role, reuse.c.model, reuse.c.identity, reuse.c.prompt_version)
    query = select(*names, func.sum(reuse.c.requests)).group_by(*names)
    return {
        (role, model, identity, prompt): int(requests)
        for role, model, identity, prompt, requests in connection.execute(query)
    }
