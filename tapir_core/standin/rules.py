"""What the stand-in says to a request: the teacher's answers, labels, expansions and refinements, the judge's verdicts.

A request is told by the sections of its prompt alone; all other words of a prompt may be edited. A section opens with
its tag at the start of a line and closes with its tag at the end of one. Text without any section is an instruction to
be answered. What no rule covers is refused.

An expansion is a new problem of the seed's family, level, phrasing and traits, with other content from the pool's
stream, so no held-out problem can come out. The judge scores pairs and single answers for the curriculum, and
benchmarks as AlpacaEval's annotator, MT-Bench's judge and Vicuna's referee, all on one graded scale. In benchmarks it
can be told to prefer the answer shown first, or the longer one, whatever they say: faults that an evaluation has to
show.

Draws and noise derive from the request's text (an expansion's also from its seed): the same request gets the same reply
again, and the two orders of a pair get different scores. Limits: the judge looks at the final result and at how it is
stated, not at the way there.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any, Literal

from tapir_core import randomness, task_types, verifiers
from tapir_core.standin.families import FAMILIES, draw_problem, recognise
from tapir_core.standin.family import Problem
from tapir_core.text import MISSING

Kind = Literal["answer", "label", "judge", "expand", "refine", "benchmark"]
Preference = Literal["better", "first", "longer"]


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


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What a judgment depends on besides its request."""

    position_bias: float = 0.5
    """Points added to the answer shown first."""
    noise: float = 0.5
    """Standard deviation of the scores, in points."""
    prefers: Preference = "better"
    """Which of two answers to a benchmark's question wins: the better one, or whatever it says the first or longer."""
    logprobs: bool = True
    """Whether log-probabilities are given to who asks for them."""


Reply = str | Weighted


@dataclass(frozen=True, slots=True)
class Ask:
    """One request, read."""

    sections: Mapping[str, str]
    """Tag → text; of a prompt without any, the whole as the instruction."""
    text: str
    """The whole conversation: what the noise of judgments and the expansions' draws derive from."""
    seed: int = 0

    @property
    def kind(self) -> Kind:
        """What is asked for."""
        return self.rule[0]

    @property
    def rule(self) -> "Rule":
        """The first rule whose sections are all there."""
        return next(rule for rule in _RULES if rule[1] <= self.sections.keys())


Rule = tuple[Kind, set[str], Callable[[Ask, Behaviour], Reply]]
"""A kind of request, the sections that tell it, and what answers it."""

_OPENING = re.compile(r"^<([a-z_0-9]+)>", re.MULTILINE)
_CLOSING = re.compile(r"</([a-z_0-9]+)>[ \t]*+$", re.MULTILINE)


def read_ask(messages: Sequence[Mapping[str, Any]], seed: int | None) -> Ask:
    """Read a conversation of one user turn. A system message makes it another task, which no rule here covers.

    Shown a reply of its own with the word that it cannot be read, the stand-in is asked the same again.

    Raises:
        Refusal: it is another conversation.
    """
    if messages[-1].get("content") == MISSING:
        messages = messages[:-2]
    users = [message for message in messages if message.get("role") == "user"]
    foreign = any(message.get("content") for message in messages if message.get("role") != "user")
    if len(users) != 1 or foreign or not isinstance(users[0].get("content"), str):
        raise Refusal("The stand-in answers one user message of text, without a system message or earlier turns.")
    text: str = users[0]["content"]
    sections = _read_sections(text)
    if "system" in sections:
        raise Refusal("The stand-in knows no instruction with a system message.")
    return Ask(sections or {"instruction": text}, text, seed or 0)


def say(ask: Ask, behaviour: Behaviour) -> Reply:
    """What the teacher or the judge says.

    Raises:
        Refusal: no rule covers it.
    """
    return ask.rule[2](ask, behaviour)


def known(instruction: str) -> Problem:
    """The problem that an instruction poses.

    Raises:
        Refusal: it is no family's.
    """
    problem = recognise(instruction)
    if problem is None:
        raise Refusal("The stand-in does not know this kind of instruction.")
    return problem


def label(ask: Ask, _behaviour: Behaviour) -> str:
    """The task type, if it is among those offered."""
    task_type = known(ask.sections["instruction"]).task_type
    if task_type not in map(_name_of, ask.sections["task_types"].splitlines()):
        raise Refusal(f"The stand-in knows this as {task_type}, which is not among the task types offered.")
    return f"Task type: {task_type}"


def discover(ask: Ask, _behaviour: Behaviour) -> str:
    """The task types of the instructions that it knows, in the words of ours."""
    lines = (line.strip().removeprefix("- ") for line in ask.sections["instructions"].splitlines())
    found = {problem.task_type for line in lines if (problem := recognise(line))}
    if not found:
        raise Refusal("The stand-in knows none of these instructions.")
    return "\n".join(f"Task type: {task_types.DEFINED.described(name)}" for name in task_types.in_order(found))


def expand(ask: Ask, _behaviour: Behaviour) -> str:
    """A new instruction as hard as the seed and for its reasons; of another task type one of the seed's level."""
    seed, wanted = known(ask.sections["seed"]), _name_of(ask.sections["task_type"])
    families = [each for each in FAMILIES.values() if each.task_type == wanted]
    if not families:
        raise Refusal(f"The stand-in has no family of task type {wanted!r}.")
    rng = randomness.derive_rng(ask.seed, "expand", ask.text)
    new = (
        FAMILIES[seed.family].draw_like(seed, "pool", rng)
        if seed.task_type == wanted
        else draw_problem(rng.choice(families), seed.level, "pool", rng)
    )
    return f"<new_instruction>\n{new.instruction}\n</new_instruction>"


def _name_of(described: str) -> str:
    """Of a task type with or without its definition."""
    return described.partition(": ")[0].strip()


def _read_sections(text: str) -> dict[str, str]:
    """Tag → text. No part of it is looked at more than twice, so a hostile text costs no more than its length."""
    last = {closing[1]: closing.start() for closing in _CLOSING.finditer(text)}
    sections, place = {}, 0
    while opening := _OPENING.search(text, place):
        tag, place = opening[1], opening.end()
        if last.get(tag, 0) >= place:
            closing = next(each for each in _CLOSING.finditer(text, place) if each[1] == tag)
            sections[tag] = text[place : closing.start()].strip()
            place = closing.end()
    return sections


@dataclass(frozen=True, slots=True)
class Scale:
    """Points for an answer before bias and noise."""

    exact: float = 9.0
    """The right result, stated as `Answer: …`."""
    unstated: float = 8.0
    """The right result alone on the last line, but not stated."""
    badly_formed: float = 7.0
    """The right result inside other words."""
    close: float = 6.0
    """Within 2 %, or nine tenths of the characters."""
    near: float = 5.0
    """Within 10 % or one off, eight tenths of the characters, or the right parts in the wrong order."""
    distant: float = 4.0
    """Within 25 %, or seven tenths of the characters."""
    wrong: float = 2.0
    empty: float = 1.0
    """Nothing, or the same few words over and over."""


SCALE = Scale()
_REASONS = {
    SCALE.exact: "right and well stated",
    SCALE.unstated: "right, though its result is not stated as such",
    SCALE.badly_formed: "right, though its result is hard to find",
    **dict.fromkeys((SCALE.close, SCALE.near, SCALE.distant), "almost right"),
    SCALE.wrong: "wrong",
    SCALE.empty: "empty or gibberish",
}
"""Points → what an answer of them is said to be."""
_LIKENESS = ((0.9, SCALE.close), (0.8, SCALE.near), (0.7, SCALE.distant))
"""Share of equal characters, and the points for it; the first that is reached counts."""
_NUMBER = re.compile(r"-?\d{1,15}(?:\.\d{1,15})?", re.ASCII)
_PART = re.compile(r"\w+")
_LONGEST_COMPARED_CHARS = 200
_SURE = 5.0
"""Points by which an answer to a benchmark's question is preferred for its place or length."""
_MIDDLE = 5.5


def judge(ask: Ask, behaviour: Behaviour) -> str:
    """The verdict on a pair, or on one answer: an explanation, then the scores on the last line."""
    problem, rng = known(ask.sections["instruction"]), randomness.derive_rng(0, "judge", ask.text)
    if "answer_1" not in ask.sections:
        only = grade(ask.sections["answer"], problem)
        return f"The answer is {_REASONS[only]}.\nScore: [[{_in_scale(only + rng.gauss(0, behaviour.noise)):.1f}]]"
    first, second = (grade(ask.sections[tag], problem) for tag in ("answer_1", "answer_2"))
    noises = rng.gauss(0, behaviour.noise), rng.gauss(0, behaviour.noise)
    scores = _in_scale(first + behaviour.position_bias + noises[0]), _in_scale(second + noises[1])
    return (
        f"Answer 1 is {_REASONS[first]}. Answer 2 is {_REASONS[second]}.\nScores: [[{scores[0]:.1f}, {scores[1]:.1f}]]"
    )


def grade(answer: str, problem: Problem) -> float:
    """Points for one answer to a problem, without bias and noise."""
    words = re.findall(r"\w+", answer)
    if not words or (len(words) >= 24 and len(set(words)) <= 4):
        return SCALE.empty
    if verifiers.is_correct(answer, problem.reference):
        return SCALE.exact if verifiers.states_result(answer) else SCALE.unstated
    if _is_badly_formed(answer, problem.reference):
        return SCALE.badly_formed
    return _closeness(verifiers.final_result(answer), verifiers.normalise_result(problem.reference))


def _choose(ask: Ask, behaviour: Behaviour) -> Weighted:
    """AlpacaEval: the identifier of the better output."""
    first = 1 / (1 + math.exp(-_lead(ask, "instruction", ("output_1", "output_2"), behaviour)))
    return Weighted("m" if first >= 0.5 else "M", {"m": first, "M": 1 - first})


def _review(ask: Ask, behaviour: Behaviour) -> str:
    """Vicuna: both scores, on the first line or, where the prompt shows a tuple, on the last."""
    lead = _lead(ask, "question", ("response_1", "response_2"), behaviour)
    first, second = (_in_scale(_MIDDLE + side * lead / 2) for side in (1, -1))
    said = f"The first answer leads by {lead:.1f} points."
    return f"{said}\n({first:.1f}, {second:.1f})" if "(7, 8)" in ask.text else f"{first:.1f} {second:.1f}\n{said}"


def _rate(ask: Ask, behaviour: Behaviour) -> str:
    """MT-Bench: the answer to the follow-up, where there is one."""
    question, answer = ("follow_up", "follow_up_answer") if "follow_up" in ask.sections else ("question", "answer")
    points = grade(ask.sections[answer], known(ask.sections[question]))
    noise = randomness.derive_rng(0, "benchmark", ask.text, question).gauss(0, behaviour.noise)
    return f"The answer is {_REASONS[points]}.\nRating: [[{_in_scale(points + noise):.1f}]]"


def _lead(ask: Ask, question: str, answers: tuple[str, str], behaviour: Behaviour) -> float:
    """Points by which the answer shown first is better; ``question`` and ``answers`` name sections."""
    first, second = (ask.sections[tag] for tag in answers)
    if behaviour.prefers == "first":
        return _SURE
    if behaviour.prefers == "longer":
        return math.copysign(_SURE, len(first) - len(second)) if len(first) != len(second) else 0.0
    problem, rng = known(ask.sections[question]), randomness.derive_rng(0, "benchmark", ask.text, question)
    noise = rng.gauss(0, behaviour.noise) - rng.gauss(0, behaviour.noise)
    return grade(first, problem) - grade(second, problem) + behaviour.position_bias + noise


def _in_scale(points: float) -> float:
    return min(10.0, max(1.0, points))


def _is_badly_formed(answer: str, reference: str) -> bool:
    """The result ends a sentence ("the sum is 91"), or a unit follows a number ("Answer: 91 apples")."""
    result, wanted = verifiers.final_result(answer), verifiers.normalise_result(reference)
    if re.search(rf"(?:\bis|=|:) {re.escape(wanted)}$", result):
        return True
    return _NUMBER.fullmatch(wanted) is not None and re.fullmatch(rf"{re.escape(wanted)} [a-z]+", result) is not None


def _closeness(result: str, reference: str) -> float:
    """Points for a wrong result, both in normal form."""
    if len(result) > _LONGEST_COMPARED_CHARS:
        return SCALE.wrong
    if _NUMBER.fullmatch(reference):
        return _closeness_of_numbers(result, reference) if _NUMBER.fullmatch(result) else SCALE.wrong
    parts = _PART.findall(reference)
    if len(parts) > 1 and Counter(_PART.findall(result)) == Counter(parts):
        return SCALE.near
    alike = SequenceMatcher(None, result, reference, autojunk=False).ratio()
    return next((points for share, points in _LIKENESS if alike >= share), SCALE.wrong)


def _closeness_of_numbers(result: str, reference: str) -> float:
    distance = abs(float(result) - float(reference))
    error = distance / max(1.0, abs(float(reference)))
    if error <= 0.02:
        return SCALE.close
    if error <= 0.1 or distance <= 1 or (len(reference) > 1 and Counter(result) == Counter(reference)):
        return SCALE.near
    return SCALE.distant if error <= 0.25 else SCALE.wrong


_RULES: tuple[Rule, ...] = (
    ("expand", {"seed", "task_type"}, expand),
    ("label", {"instruction", "task_types"}, label),
    ("label", {"instructions"}, discover),
    # The style of a refined answer is the one that the instruction's task type needs.
    ("refine", {"instruction", "answer", "style"}, lambda ask, _: known(ask.sections["instruction"]).refined),
    ("benchmark", {"instruction", "output_1", "output_2"}, _choose),
    ("benchmark", {"question", "answer"}, _rate),
    ("benchmark", {"question", "response_1", "response_2"}, _review),
    ("judge", {"instruction", "answer_1", "answer_2"}, judge),
    ("judge", {"instruction", "answer"}, judge),
    ("answer", set(), lambda ask, _: known(ask.sections.get("instruction", ask.text)).plain),
)
"""The first that fits counts."""
