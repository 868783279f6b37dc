"""What a request asks for, told by the sections of its prompt alone; all other words of a prompt may be edited.

A section opens with its tag at the start of a line and closes with its tag at the end of one. Text without any section
is an instruction to be answered.
"""

import re
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

__all__ = ["KINDS", "Ask", "Kind", "Refusal", "Reply", "Weighted", "read_ask"]

Kind = Literal["answer", "label", "judge", "expand", "refine", "benchmark"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True)
class Ask:
    """One request, read."""

    kind: Kind
    sections: Mapping[str, str]
    """Tag → text; for `answer` the instruction alone."""
    text: str
    """The whole conversation: what the noise of judgments and the expansions' draws derive from."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Refusal:
    """A typed refusal, with its reason."""

    reason: str


@dataclass(frozen=True, slots=True)
class Weighted:
    """A text of one token that was one of several."""

    text: str
    probabilities: Mapping[str, float]
    """Token → its probability; they sum to 1."""


Reply = str | Weighted | Refusal

_OPENING = re.compile(r"^<([a-z_0-9]+)>", re.MULTILINE)
_CLOSING = re.compile(r"</([a-z_0-9]+)>[ \t]*+$", re.MULTILINE)
_NEEDED: dict[Kind, tuple[str, ...]] = {
    "expand": ("seed", "task_type"),
    "label": ("instruction", "task_types"),
    "refine": ("instruction", "answer", "style"),
}
_JUDGED = ({"instruction", "answer_1", "answer_2"}, {"instruction", "answer"})
_BENCHMARKS = (
    {"instruction", "output_1", "output_2"},
    {"question", "answer"},
    {"question", "answer_a", "answer_b"},
    {"question", "response_1", "response_2"},
)


def read_ask(messages: Sequence[Mapping[str, Any]], seed: int | None) -> Ask | Refusal:
    """Read a conversation of one user turn. A system message makes it another task, which no rule here covers."""
    users = [message for message in messages if message.get("role") == "user"]
    foreign = any(message.get("content") for message in messages if message.get("role") != "user")
    if len(users) != 1 or foreign or not isinstance(users[0].get("content"), str):
        return Refusal("The stand-in answers one user message of text, without a system message or earlier turns.")
    text: str = users[0]["content"]
    sections = _read_sections(text)
    if "system" in sections:
        return Refusal("The stand-in knows no instruction with a system message.")
    return Ask(_kind(sections), sections or {"instruction": text}, text, seed or 0)


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


def _kind(sections: Mapping[str, str]) -> Kind:
    for kind, tags in _NEEDED.items():
        if all(tag in sections for tag in tags):
            return kind
    if any(tags <= set(sections) for tags in _BENCHMARKS):
        return "benchmark"
    return "judge" if any(tags <= set(sections) for tags in _JUDGED) else "answer"
