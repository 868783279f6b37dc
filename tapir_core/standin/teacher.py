"""What a request asks, and what the rule-based teacher says to it: answers, labels, expansions, refinements, refusals.

A request is told by the sections of its prompt alone; all other words of a prompt may be edited. A section opens with
its tag at the start of a line and closes with its tag at the end of one. Text without any section is an instruction to
be answered.

An expansion is a new problem of the seed's family and level, from the pool's stream, so no held-out problem can come
out. Its draw derives from the request's text and seed: the same request gives the same instruction again.
"""

import re
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tapir_core.randomness import derive_rng
from tapir_core.standin.families import FAMILIES, draw_problem, families_of, recognise
from tapir_core.standin.family import Problem

Kind = Literal["answer", "label", "judge", "expand", "refine", "benchmark"]


@dataclass(frozen=True, slots=True)
class Ask:
    """One request, read."""

    kind: Kind
    sections: Mapping[str, str]
    """Tag → text; for `answer` the instruction alone."""
    text: str
    """The whole conversation: what the noise of judgments and the expansions' draws derive from."""
    seed: int = 0


@dataclass(eq=False)
class Refusal(Exception):
    """Raised for what no rule covers: a typed refusal, with its reason."""

    reason: str


@dataclass(frozen=True, slots=True)
class Weighted:
    """A text of one token that was one of several."""

    text: str
    probabilities: Mapping[str, float]
    """Token → its probability; they sum to 1."""


Reply = str | Weighted

_OPENING = re.compile(r"^<([a-z_0-9]+)>", re.MULTILINE)
_CLOSING = re.compile(r"</([a-z_0-9]+)>[ \t]*+$", re.MULTILINE)
_TOLD_BY: tuple[tuple[Kind, set[str]], ...] = (
    ("expand", {"seed", "task_type"}),
    ("label", {"instruction", "task_types"}),
    ("refine", {"instruction", "answer", "style"}),
    ("benchmark", {"instruction", "output_1", "output_2"}),
    ("benchmark", {"question", "answer"}),
    ("benchmark", {"question", "answer_a", "answer_b"}),
    ("benchmark", {"question", "response_1", "response_2"}),
    ("judge", {"instruction", "answer_1", "answer_2"}),
    ("judge", {"instruction", "answer"}),
)
"""Kind of request and the sections that tell it; the first that fits counts."""


def read_ask(messages: Sequence[Mapping[str, Any]], seed: int | None) -> Ask:
    """Read a conversation of one user turn. A system message makes it another task, which no rule here covers.

    Raises:
        Refusal: it is another conversation.
    """
    users = [message for message in messages if message.get("role") == "user"]
    foreign = any(message.get("content") for message in messages if message.get("role") != "user")
    if len(users) != 1 or foreign or not isinstance(users[0].get("content"), str):
        raise Refusal("The stand-in answers one user message of text, without a system message or earlier turns.")
    text: str = users[0]["content"]
    sections = _read_sections(text)
    if "system" in sections:
        raise Refusal("The stand-in knows no instruction with a system message.")
    kind: Kind = next((kind for kind, tags in _TOLD_BY if tags <= set(sections)), "answer")
    return Ask(kind, sections or {"instruction": text}, text, seed or 0)


def known(instruction: str) -> Problem:
    """The problem that an instruction poses.

    Raises:
        Refusal: it is no family's.
    """
    problem = recognise(instruction)
    if problem is None:
        raise Refusal("The stand-in does not know this kind of instruction.")
    return problem


def answer(ask: Ask) -> str:
    """The plain answer."""
    return known(ask.sections["instruction"]).plain


def label(ask: Ask) -> str:
    """The task type, if it is among those offered."""
    task_type = known(ask.sections["instruction"]).task_type
    if task_type not in map(str.strip, ask.sections["task_types"].splitlines()):
        raise Refusal(f"The stand-in knows this as {task_type}, which is not among the task types offered.")
    return f"Task type: {task_type}"


def refine(ask: Ask) -> str:
    """The refined answer; its style is the one that the instruction's task type needs."""
    return known(ask.sections["instruction"]).refined


def expand(ask: Ask) -> str:
    """A new instruction like the seed; of another family when another task type is wanted."""
    seed, wanted = known(ask.sections["seed"]), ask.sections["task_type"]
    families = [FAMILIES[seed.family]] if seed.task_type == wanted else families_of(wanted)
    if not families:
        raise Refusal(f"The stand-in has no family of task type {wanted!r}.")
    rng = derive_rng(ask.seed, "expand", ask.text)
    family = rng.choice(families)
    new: Problem = seed
    while new.instruction == seed.instruction:
        new = draw_problem(family, seed.level, "pool", rng)
    return f"<new_instruction>\n{new.instruction}\n</new_instruction>"


def _read_sections(text: str) -> dict[str, str]:
    """Tag → text. Each closing tag is looked at once, so a long or hostile text costs no more than its length."""
    closings: dict[str, deque[re.Match[str]]] = {}
    for closing in _CLOSING.finditer(text):
        closings.setdefault(closing[1], deque()).append(closing)
    sections, place = {}, 0
    while opening := _OPENING.search(text, place):
        tag, place = opening[1], opening.end()
        following = closings.get(tag, deque())
        while following and following[0].start() < place:
            following.popleft()
        if following:
            sections[tag] = text[place : following[0].start()].strip()
            place = following[0].end()
    return sections
