"""What a hosted fine-tune leaves behind, as rows of a pool: its training file, preference pairs, stored completions.

A row stands for each answer that is to be learnt: of a conversation one for every assistant turn whose `weight` is not
0, asked with all turns before it; of a pair the preferred answer; of a stored completion what the model said. A
conversation that ends with its user is a row without an answer.

Some conversations are held out whole: their rows lose their answers, so that a run asks the fine-tune for them while
it lives, and compares the student with what it says.
"""

import json
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tapir_core import tools
from tapir_core.calls.words import TOOL_CALLS, WHOLE, read_ending
from tapir_core.data import readers
from tapir_core.data.records import MARKS, BadRecordError, Fields, Record, read_records
from tapir_core.errors import ConfigError
from tapir_core.turns import messages_of, user_texts

_ASKED = ("input", "request", "body")
"""Objects of a record that may hold its messages and tools: of a pair, of a logged call, of a line of a batch."""
_PREFERRED = ("preferred_output", "preferred_completion")
_NOT_LEARNT = "assistant turns that are not to be learnt (weight 0), shown as context only"
_SAID_NOTHING = "assistant turns without text, such as a refusal"
_BROKEN_OFF = "completions that were cut off or filtered"
_FURTHER = "further choices of completions"
_TWICE = "rows that ask what another asks"


class FineTune(NamedTuple):
    """The rows of a file."""

    rows: tuple[readers.Row, ...]
    """In the order of the file, those with an answer and those without."""
    groups: tuple[str, ...]
    """Of each row the question with which its conversation began: rows of one group may hold each other's text."""
    models: frozenset[str]
    """Who gave the answers, by each record; empty of one that does not say."""
    left_out: Mapping[str, int]
    """What is no row, in words → how often."""
    bad: tuple[str, ...]
    """Rows that are broken, with their numbers and reasons."""

    def held_out(self, rows: int, rng: random.Random) -> set[str]:
        """Groups drawn by ``rng`` that have about so many ``rows`` together: a larger one stays, if there are others.

        Those that have a row to ask for anyway come first. No row that stays holds the question of one that is drawn.

        Raises:
            ConfigError: none with an answer would stay.
        """
        sizes, drawn, lacking = Counter(self.groups), set[str](), rows
        asked = {group for group, row in zip(self.groups, self.rows, strict=True) if not row.answer}
        for each in sorted(rng.sample(sorted(sizes), len(sizes)), key=lambda group: group not in asked):
            if 0 < sizes[each] <= lacking:
                drawn.add(each)
                lacking -= sizes[each]
        held_out = drawn or {min(sizes, key=lambda each: (sizes[each], each))}
        if not any(row.answer for group, row in zip(self.groups, self.rows, strict=True) if group not in held_out):
            raise ConfigError(
                f"too few conversations to hold some out and learn from the others: {len(sizes)} with a first question "
                "of their own; bring more with answers"
            )
        return held_out

    def write(self, path: Path, held_out: set[str]) -> int:
        """Write the rows as JSON lines of messages, those of ``held_out`` without their answers; says how many have."""
        with path.open("w", encoding="utf-8") as file:
            for group, row in zip(self.groups, self.rows, strict=True):
                turns: list[tuple[str, str]] = [*messages_of(row._asdict())]
                if row.answer and group not in held_out:
                    turns.append(("assistant", row.answer))
                messages, defined = tools.structured(turns, as_text=True)
                fields = {"messages": messages, "tools": defined, "reference": row.reference, "source": row.source}
                record = {name: value for name, value in fields.items() if value}
                file.write(f"{json.dumps(record, ensure_ascii=False)}\n")
        return sum(
            bool(row.answer) and group not in held_out for group, row in zip(self.groups, self.rows, strict=True)
        )


def read_fine_tune(path: str) -> FineTune:
    """The rows of a file of fine-tuning examples, preference pairs or stored completions, or of any pool.

    Raises:
        ConfigError: it cannot be read, or no row is left.
    """
    found, left_out, bad, models = dict[str, readers.Row](), Counter[str](), list[str](), set[str]()
    for record in read_records(path, marks=(*MARKS, *_ASKED)):
        for row in _rows_of(record, left_out, bad, models):
            before = found.get(row.instruction_id)
            left_out[_TWICE] += before is not None
            if before is None or (row.answer and not before.answer):
                found[row.instruction_id] = row
    if not found:
        why = "; ".join([*(f"{count} {what}" for what, count in left_out.items()), *bad[:3]])
        raise ConfigError(f"{path!r} has no conversation that a student can learn ({why}); docs/adopt.md shows formats")
    rows = tuple(found.values())
    return FineTune(rows, tuple(user_texts(row._asdict())[0] for row in rows), frozenset(models), +left_out, tuple(bad))


def _rows_of(record: Record, left_out: Counter[str], bad: list[str], models: set[str]) -> Iterator[readers.Row]:
    try:
        fields = record.fields
        holders = [each for each in (fields, *map(fields.get, (*_ASKED, "response"))) if isinstance(each, dict)]
        models.add(next((str(each["model"]) for each in holders if each.get("model")), ""))
        asked, given = _asked(holders), _given(fields, holders, left_out)
        if not asked:  # Alpaca, a table: a row as the pool has it
            yield readers.read_row(fields, answers=True)
            return
        if given and readers.role_of(asked[-1]) == "assistant":
            given = []  # it stands there already
        beside = {
            name: each[name]
            for each in holders
            for name in (*readers.TOOL_FIELDS, "system", "source", "reference")
            if each.get(name)
        }
        # What is asked along with an answer of its own is context: an example, or a turn that nobody chose.
        turns, first = [*asked, *given], len(asked) + 1 if given else 1
        for place, turn in enumerate(turns[first - 1 :], start=first):
            if _is_learnt(turn, fields, left_out) or (place == len(turns) and readers.role_of(turn) != "assistant"):
                yield readers.read_row({**beside, "messages": turns[:place]}, answers=True)
    except BadRecordError as exc:
        bad.append(f"row {record.number}: {exc}")


def _is_learnt(turn: Fields, fields: Fields, left_out: Counter[str]) -> bool:
    """Whether it is an answer to be learnt."""
    if readers.role_of(turn) != "assistant":
        return False
    says = turn.get("content", turn.get("value")) or turn.get("tool_calls") or turn.get("function_call")
    masked = readers.is_masked(turn) or readers.is_masked(fields)
    left_out[_NOT_LEARNT] += masked
    left_out[_SAID_NOTHING] += not masked and not says
    return bool(says) and not masked


def _asked(holders: Sequence[Fields]) -> list[dict[str, Any]]:
    """The turns of a record as they are asked; none where it is no conversation.

    Raises:
        BadRecordError: one of them is none.
    """
    found: list[Any] = next(
        (
            each[name]
            for each in holders
            for name in ("messages", "conversations", "input_messages")
            if isinstance(each.get(name), list)
        ),
        [],
    )
    if not all(isinstance(each, dict) for each in found):
        raise BadRecordError("a turn is no object with a role and a text")
    return list(found)


def _given(fields: Fields, holders: Sequence[Fields], left_out: Counter[str]) -> list[dict[str, Any]]:
    """The preferred answer of a pair, or a stored completion."""
    preferred = next((fields[name] for name in _PREFERRED if fields.get(name)), None)
    if preferred is not None:
        given = preferred if isinstance(preferred, list) else [preferred]
    else:
        wholes = (part for each in holders for part in (each, each.get("body")) if isinstance(part, dict))
        choices: list[Any] = next((made for each in wholes if isinstance(made := each.get("choices"), list)), [])
        left_out[_FURTHER] += max(0, len(choices) - 1)
        first = choices[0] if choices and isinstance(choices[0], dict) else {}
        if first and read_ending(str(first.get("finish_reason") or "stop")) not in (WHOLE, TOOL_CALLS):
            # The empty turn in its place is counted as one that says nothing.
            left_out.update({_BROKEN_OFF: 1, _SAID_NOTHING: -1})
            return [{"role": "assistant", "content": ""}]
        is_told = isinstance(told := fields.get("output"), str) and bool(told.strip())
        given = [first["message"]] if "message" in first else [{"role": "assistant", "content": told}] * is_told
    if not all(isinstance(each, dict) for each in given):
        raise BadRecordError("its answer is no message with a role and a text")
    return given
