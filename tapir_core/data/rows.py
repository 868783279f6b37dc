"""One record of a user's file as one instruction: Alpaca, messages and ShareGPT, one turn each.

method.md, Identity and One turn: texts are kept in their normal form, so that equal ids are equal instructions. What a
file calls `output`, and every answer in a conversation, is ignored: the student is judged against the teacher's
answer. A reference is only what a field of that name gives.
"""

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from tapir_core.task_types import TASK_TYPES
from tapir_core.text import instruction_id, normalise

__all__ = ["BadRecordError", "Row", "read_heldout_row", "read_row"]

Fields = Mapping[str, Any]

SPLITS = ("dev", "test")
_USER = ("user", "human")
_CONVERSATIONS = {"messages": ("role", "content"), "conversations": ("from", "value")}
"""Field of a conversation → where its turns say who speaks, and what."""


class BadRecordError(ValueError):
    """Raised when a record is no instruction; the message says why. It never leaves the readers."""


class _Asked(NamedTuple):
    system: str | None
    instruction: str | None
    dropped_turns: int = 0


@dataclass(frozen=True, slots=True)
class Row:
    """One instruction."""

    instruction_id: str
    instruction: str
    system: str | None
    source: str
    """The record's own `source`, or `file`; never the file's name, so that a renamed file is the same pool."""
    reference: str | None
    task_type: str | None = None
    split: str = "test"
    dropped_turns: int = 0
    """User turns after the first."""


def read_row(fields: Fields) -> Row:
    """One instruction of a pool.

    Raises:
        BadRecordError: the record is no instruction.
    """
    asked = _asked(fields)
    if asked.instruction is None:
        raise BadRecordError("the instruction is empty")
    return Row(
        instruction_id=instruction_id(asked.instruction, asked.system),
        instruction=asked.instruction,
        system=asked.system,
        source=_text(fields, "source") or "file",
        reference=_text(fields, "reference"),
        dropped_turns=asked.dropped_turns,
    )


def read_heldout_row(fields: Fields) -> Row:
    """One instruction of a held-out set.

    Raises:
        BadRecordError: the record is no instruction, has no reference, or names an unknown task type or split.
    """
    row = read_row(fields)
    if row.reference is None:
        raise BadRecordError("no `reference`, and a held-out row is scored by it")
    task_type, split = _text(fields, "task_type"), _text(fields, "split") or "test"
    if task_type is not None and task_type not in TASK_TYPES:
        near = difflib.get_close_matches(task_type, TASK_TYPES, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"the 32 are {', '.join(TASK_TYPES)}"
        raise BadRecordError(f"`task_type` {task_type!r} is unknown; {hint}")
    if split not in SPLITS:
        raise BadRecordError(f"`split` {split!r} is neither {' nor '.join(map(repr, SPLITS))}")
    return replace(row, task_type=task_type, split=split)


def _asked(fields: Fields) -> _Asked:
    """System and instruction of a record of any shape."""
    for name, (speaker, content) in _CONVERSATIONS.items():
        if fields.get(name) not in (None, ""):
            turns = _turns(name, fields[name])
            asked = _first_turn(turns, name, speaker, content)
            return asked._replace(system=asked.system or _text(fields, "system"))
    if "instruction" not in fields:
        known = ", ".join(sorted(map(str, fields))[:10]) or "no field"
        raise BadRecordError(f"none of `instruction`, `messages` and `conversations` (it has {known})")
    instruction, given = _text(fields, "instruction"), _text(fields, "input")
    if instruction is not None and given is not None:
        instruction = f"{instruction}\n\n{given}"
    return _Asked(_text(fields, "system"), instruction)


def _turns(name: str, value: Any) -> list[Any]:
    """The turns of a conversation; a CSV cell or Parquet text holds them as JSON."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as exc:
            raise BadRecordError(f"`{name}` is text but no JSON list: {exc}") from exc
    if not isinstance(value, list):
        raise BadRecordError(f"`{name}` is no list of turns")
    return value


def _first_turn(turns: list[Any], name: str, speaker: str, content: str) -> _Asked:
    """An optional system turn and the user turn after it; later ones are counted and not looked at."""
    has_system = _speaks(turns[:1], speaker) == "system"
    first = 1 if has_system else 0
    if _speaks(turns[first:], speaker) not in _USER:
        raise BadRecordError(f"`{name}` does not start with a user turn (after at most one system turn)")
    return _Asked(
        system=_text(turns[0], content) if has_system else None,
        instruction=_text(turns[first], content),
        dropped_turns=sum(_speaks([turn], speaker) in _USER for turn in turns[first + 1 :]),
    )


def _speaks(turns: list[Any], speaker: str) -> str | None:
    """Who speaks in the first of these turns."""
    if not turns or not isinstance(turns[0], dict):
        return None
    name = turns[0].get(speaker)
    return name if isinstance(name, str) else None


def _text(fields: Fields, name: str) -> str | None:
    """A field's text in its normal form; nothing where it is absent or blank."""
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise BadRecordError(f"`{name}` is {type(value).__name__}, not text")
    return normalise(value) or None
