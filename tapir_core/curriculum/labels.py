"""Task types from the teacher: the labelling prompt and its reply.

Limits: the teacher's word is taken as it comes; only its spelling is forgiven.
"""

import re

from tapir_core.judging import neutralise
from tapir_core.prompts import Prompt
from tapir_core.task_types import TASK_TYPES
from tapir_core.text import Unparsed

__all__ = ["parse_label", "render_label"]

_NAME = re.compile(r"[A-Za-z][A-Za-z \u2010-\u2014-]*")
_LINE = re.compile(r"task[ _-]?type\W{0,8}?[:=](.*)", re.IGNORECASE)


def render_label(prompt: Prompt, instruction: str) -> str:
    """The teacher's message that asks for the task type of one instruction."""
    return prompt.render(instruction=neutralise(instruction), task_types="\n".join(TASK_TYPES))


def parse_label(raw: str | None) -> str | Unparsed:
    """The task type on the last ``Task type:`` line, or on the last line of a reply without one.

    Case, quotes, emphasis, hyphens and a plural s are forgiven; a name that is none of the 32 is not.
    """
    lines = [line for line in (raw or "").splitlines() if line.strip()]
    named = [found.group(1) for found in map(_LINE.search, lines) if found]
    candidate = _NAME.search((named or lines or [""])[-1])
    return _BY_SPELLING.get(_spelling(candidate.group()) if candidate else "") or Unparsed("no task type")


def _spelling(name: str) -> str:
    return re.sub(r"[^a-z]", "", name.lower()).removesuffix("s")


_BY_SPELLING = {_spelling(name): name for name in TASK_TYPES}
assert len(_BY_SPELLING) == len(TASK_TYPES)
