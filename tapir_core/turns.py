"""An instruction as a conversation: optional system text, earlier turns as they are given, the user turn to answer.

A row holds it in the columns `system`, `earlier_turns` and `instruction`. `earlier_turns` is JSON, a list of messages
(role, content) in which user and assistant take turns, after one of tools where there are some (`tapir_core.tools`); it
is null in a row of one turn, and a table of such rows only does not have the column.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

EARLIER = "earlier_turns"
"""Name of the column."""

CONTROL_TOKEN = re.compile(
    r"<([|｜])[\w▁.:/-]{1,64}\1>|<\|turn>|<turn\|>|<(?:start|end)_of_turn>|\[\|\w+\|\]|\[/?INST\]|<</?SYS>>"
)
"""In ChatML, Llama 3 and 4, Phi, GLM, gpt-oss, DeepSeek; Gemma 4 and older; EXAONE; Llama 2 and Mistral."""

CONTROL_BEGINS = ("<", "[")
"""With one of which each begins."""

MARKED = "control_token_in_instruction"
"""Why an instruction with one leaves the pool: a student's server would end a turn there."""

Row = Mapping[str, Any]
"""An instruction: instruction, system, and maybe earlier_turns."""


class Turn(NamedTuple):
    """One message."""

    role: Literal["system", "tools", "user", "assistant"]
    content: str


def pack_turns(turns: Sequence[Turn]) -> str | None:
    """Turns as a cell of `earlier_turns`; nothing where there are none."""
    return json.dumps([turn._asdict() for turn in turns], ensure_ascii=False) if turns else None


def earlier_turns(row: Row) -> list[Turn]:
    """The turns before the one to answer."""
    return [Turn(**each) for each in json.loads(packed)] if (packed := row.get(EARLIER)) else []


def has_tools(row: Row) -> bool:
    """Whether a model that is asked it has tools to call, or calls stand in it."""
    return any(turn.role == "tools" for turn in earlier_turns(row))


def messages_of(row: Row) -> list[Turn]:
    """The whole conversation, as a model is asked it."""
    return [
        *([Turn("system", row["system"])] if row["system"] else []),
        *earlier_turns(row),
        Turn("user", row["instruction"]),
    ]


def user_texts(row: Row) -> list[str]:
    """What the user says in it, in order; the turn to answer stands last."""
    return [*(turn.content for turn in earlier_turns(row) if turn.role == "user"), row["instruction"]]


def holds_control_token(text: str) -> bool:
    """Whether a text has a token with which a chat template ends or begins a turn; servers read it as one.

    ``</s>`` is one unless ``<s>`` stands before it: those two are HTML.
    """
    return any(each in text for each in CONTROL_BEGINS) and (
        bool(CONTROL_TOKEN.search(text)) or "</s>" in text.partition("<s>")[0]
    )


def asks_with_control_token(row: Row) -> bool:
    """Whether a student's server would end a turn within the conversation that it is asked."""
    return any(holds_control_token(turn.content) for turn in messages_of(row))
