"""An instruction as a conversation: optional system text, earlier turns as they are given, the user turn to answer.

A row holds it in the columns `system`, `earlier_turns` and `instruction`. `earlier_turns` is JSON, a list of messages
(role, content) in which user and assistant take turns; it is null in a row of one turn, and a table of such rows only
does not have the column.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

EARLIER = "earlier_turns"
"""Name of the column."""

Row = Mapping[str, Any]
"""An instruction: instruction, system, and maybe earlier_turns."""


class Turn(NamedTuple):
    """One message."""

    role: Literal["system", "user", "assistant"]
    content: str


def pack_turns(turns: Sequence[Turn]) -> str | None:
    """Turns as a cell of `earlier_turns`; nothing where there are none."""
    return json.dumps([turn._asdict() for turn in turns], ensure_ascii=False) if turns else None


def earlier_turns(row: Row) -> list[Turn]:
    """The turns before the one to answer."""
    return [Turn(**each) for each in json.loads(row.get(EARLIER) or "[]")]


def messages_of(row: Row) -> list[Turn]:
    """The whole conversation, as a model is asked it."""
    system = [Turn("system", row["system"])] if row["system"] else []
    return [*system, *earlier_turns(row), Turn("user", row["instruction"])]


def user_texts(row: Row) -> list[str]:
    """What the user says in it, in order; the turn to answer stands last."""
    return [*(turn.content for turn in earlier_turns(row) if turn.role == "user"), row["instruction"]]
