"""Task types that the teacher finds in a sample of the pool: what it is shown, what it replies, and the file of them.

The file is TOML as a configuration has it, so that a user edits it and hands it back as `curriculum.task_types`.

Limits: the teacher sees the beginnings of so many instructions of a large pool; a rare kind may not be among them, and
goes to `Others`.
"""

import json
import random
from collections.abc import Iterable, Mapping, Sequence

from pydantic import ValidationError

from tapir_core.config.curriculum import CurriculumConfig
from tapir_core.judging import neutralise
from tapir_core.prompts import Prompt
from tapir_core.task_types import spelling
from tapir_core.text import Unparsed, shorten

SHOWN, LONGEST, MOST = 60, 300, 24
"""Instructions that the teacher is shown, characters of each, and task types that it may name."""

_MARKS = ' -*_`"'
_HEAD = "# Task types that the teacher found in the pool. Change, remove or add some (docs/own-data.md)."


def sample_instructions(instructions: Sequence[str], rng: random.Random) -> str:
    """What the teacher is shown of the pool: some of the instructions, a line each."""
    drawn = rng.sample(instructions, min(SHOWN, len(instructions)))
    return "\n".join(f"- {shorten(each, LONGEST)}" for each in drawn)


def render_discovery(prompt: Prompt, sample: str) -> str:
    """The teacher's message that asks for task types."""
    return prompt.render(instructions=neutralise(sample, ("instructions",)))


def parse_task_types(raw: str | None) -> Mapping[str, str] | Unparsed:
    """Name → definition of the task types in a reply, if they can be those of a configuration, and are not too many."""
    lines = [[part.strip(_MARKS) for part in line.split(":", 2)] for line in (raw or "").splitlines()]
    found = {line[1]: line[2] for line in lines if len(line) == 3 and spelling(line[0]).endswith("tasktype")}
    try:
        types = CurriculumConfig.model_validate({"task_types": found}).types
    except ValidationError:
        return Unparsed("no task types")
    return types.definitions if len(found) <= MOST else Unparsed(f"more than {MOST} task types")


def task_types_toml(types: Iterable[tuple[str, str]]) -> str:
    """The file that a user edits."""
    lines = (f"{_quoted(name)} = {_quoted(definition)}" for name, definition in types)
    return "\n".join([_HEAD, "", "[curriculum.task_types]", *lines, ""])


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
