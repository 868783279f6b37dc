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
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tapir_core import tools
from tapir_core.data import readers
from tapir_core.data.records import BadRecordError, Fields, Record, read_records
from tapir_core.errors import ConfigError
from tapir_core.text import normalise
from tapir_core.turns import messages_of

_ASKED = ("input", "request", "body")
"""Objects of a record that may hold its messages and tools: of a pair, of a logged call, of a line of a batch."""
_PREFERRED = ("preferred_output", "preferred_completion")
_TOOLS = ("tools", "functions")
_NOT_LEARNT = "assistant turns that are not to be learnt (weight 0), shown as context only"
_SAID_NOTHING = "assistant turns without text, such as a refusal"
_TWICE = "rows that ask what another asks"


class FineTune(NamedTuple):
    """The rows of a file."""

    rows: tuple[readers.Row, ...]
    """In the order of the file, those with an answer and those without."""
    conversations: tuple[int, ...]
    """Of each row the number of its record, from 1."""
    models: frozenset[str]
    """Who gave the answers, by each record; empty of one that does not say."""
    left_out: Mapping[str, int]
    """What is no row, in words → how often."""
    bad: tuple[str, ...]
    """Rows that are broken, with their numbers and reasons."""

    def held_out(self, rows: int, rng: random.Random) -> set[int]:
        """Conversations drawn by ``rng`` that have at least so many ``rows`` together, as far as there are."""
        drawn, conversations = set[int](), sorted({*self.conversations})
        sizes = Counter(self.conversations)
        for each in rng.sample(conversations, len(conversations)):
            if sum(sizes[other] for other in drawn) >= rows:
                break
            drawn.add(each)
        return drawn

    def write(self, path: Path, held_out: set[int]) -> int:
        """Write the rows as JSON lines of messages, those of ``held_out`` without their answers; says how many have."""
        answers = 0
        with path.open("w", encoding="utf-8") as file:
            for conversation, row in zip(self.conversations, self.rows, strict=True):
                turns: list[tuple[str, str]] = [*messages_of(row._asdict())]
                if row.answer and conversation not in held_out:
                    answers += 1
                    turns.append(("assistant", row.answer))
                messages, defined = tools.structured(turns, as_text=True)
                record = {"messages": messages, **({"tools": defined} if defined else {})}
                file.write(f"{json.dumps(record, ensure_ascii=False)}\n")
        return answers


def read_fine_tune(path: str) -> FineTune:
    """The rows of a file of fine-tuning examples, preference pairs or stored completions, or of any pool.

    Raises:
        ConfigError: it cannot be read, or no row is left.
    """
    found, left_out, bad, models = dict[str, tuple[int, readers.Row]](), Counter[str](), list[str](), set[str]()
    for record in read_records(path):
        for row in _rows_of(record, left_out, bad, models):
            before = found.get(row.instruction_id)
            left_out[_TWICE] += before is not None
            if before is None or (row.answer and not before[1].answer):
                found[row.instruction_id] = (record.number, row)
    if not found:
        why = "; ".join([*(f"{count} {what}" for what, count in left_out.items()), *bad[:3]])
        raise ConfigError(f"{path!r} has no conversation that a student can learn ({why}); docs/adopt.md shows formats")
    numbers, rows = zip(*found.values(), strict=True)
    return FineTune(rows, numbers, frozenset(models), +left_out, tuple(bad))


def _rows_of(record: Record, left_out: Counter[str], bad: list[str], models: set[str]) -> Iterator[readers.Row]:
    try:
        fields = record.fields
        turns = _turns_of(fields)
        holders = [each for each in (fields, *map(fields.get, (*_ASKED, "response"))) if isinstance(each, dict)]
        models.add(next((str(each["model"]) for each in holders if each.get("model")), ""))
        defined = {name: each[name] for each in holders for name in _TOOLS if each.get(name)}
        if not turns:  # Alpaca, a table: a row as the pool has it
            yield readers.read_row(fields, answers=True)
    except BadRecordError as exc:
        bad.append(f"row {record.number}: {exc}")
        return
    for place, turn in enumerate(turns, start=1):
        is_answer = readers.role_of(turn) == "assistant"
        if is_answer and readers.is_masked(turn):
            left_out[_NOT_LEARNT] += 1
        elif is_answer and not (normalise(_said(turn)) or turn.get("tool_calls") or turn.get("function_call")):
            left_out[_SAID_NOTHING] += 1
        elif is_answer or place == len(turns):
            try:
                yield readers.read_row({**defined, "messages": turns[:place]}, answers=True)
            except BadRecordError as exc:
                bad.append(f"row {record.number}: {exc}")
                return


def _turns_of(fields: Fields) -> list[dict[str, Any]]:
    """All turns of a record, the preferred or given answer last; none where it is no conversation."""
    holders = [fields, *(fields.get(name) for name in _ASKED)]
    asked = next((each["messages"] for each in holders if isinstance(each, dict) and each.get("messages")), None)
    given = asked or fields.get("conversations") or fields.get("input_messages")
    if not isinstance(given, list):
        return []
    turns = [*given, *next((fields[name] for name in _PREFERRED if fields.get(name)), []), *_completed(fields)]
    if not all(isinstance(each, dict) for each in turns):
        raise BadRecordError("a turn is no object with a role and a text")
    return turns


def _completed(fields: Fields) -> list[Any]:
    """The message of a stored completion."""
    response = fields.get("response", fields)
    response = response.get("body", response) if isinstance(response, dict) else {}
    choices = response.get("choices") or []
    return [each["message"] for each in choices[:1] if isinstance(each, dict) and "message" in each]


def _said(turn: Mapping[str, Any]) -> str:
    content = turn.get("content", turn.get("value"))
    return content if isinstance(content, str) else "".join(map(str, content or []))
