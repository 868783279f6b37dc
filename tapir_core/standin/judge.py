"""The rule-based judge: graded scores with a position bias and noise that can be set.

Limits: it looks at the final result and at how it is stated, not at the way there. Noise derives from the request's
text, so the same request always gets the same scores and the two orders of a pair get different ones.
"""

import re
from collections import Counter
from dataclasses import dataclass
from difflib import SequenceMatcher

from tapir_core.randomness import derive_rng
from tapir_core.standin.families import Problem, recognise
from tapir_core.standin.sections import Ask, Reply
from tapir_core.standin.teacher import UNKNOWN
from tapir_core.verifiable import final_result, is_correct, normalise_result, states_result

__all__ = ["SCALE", "Grade", "Scale", "grade", "judge"]


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
_HIGHEST, _LOWEST = 10.0, 1.0
_LONGEST_COMPARED_CHARS = 200


@dataclass(frozen=True, slots=True)
class Grade:
    """Points and the reason for them."""

    points: float
    reason: str


def judge(ask: Ask, *, position_bias: float, noise: float) -> Reply:
    """The verdict on a pair, or on one answer: an explanation, then the scores on the last line."""
    problem = recognise(ask.sections["instruction"])
    if problem is None:
        return UNKNOWN
    rng = derive_rng(0, "judge", ask.text)
    if "answer_1" not in ask.sections:
        only = grade(ask.sections["answer"], problem)
        return f"The answer is {only.reason}.\nScore: [[{_printed(only.points + rng.gauss(0, noise))}]]"
    first, second = (grade(ask.sections[tag], problem) for tag in ("answer_1", "answer_2"))
    scores = (first.points + position_bias + rng.gauss(0, noise), second.points + rng.gauss(0, noise))
    return (
        f"Answer 1 is {first.reason}. Answer 2 is {second.reason}.\n"
        f"Scores: [[{_printed(scores[0])}, {_printed(scores[1])}]]"
    )


def grade(answer: str, problem: Problem) -> Grade:
    """Points for one answer to a problem, without bias and noise."""
    if _is_empty(answer):
        return Grade(SCALE.empty, "empty or gibberish")
    if is_correct(answer, problem.reference):
        if states_result(answer):
            return Grade(SCALE.exact, "right and well stated")
        return Grade(SCALE.unstated, "right, though its result is not stated as such")
    if _is_badly_formed(answer, problem.reference):
        return Grade(SCALE.badly_formed, "right, though its result is hard to find")
    points = _closeness(final_result(answer), normalise_result(problem.reference))
    return Grade(points, "wrong" if points == SCALE.wrong else "almost right")


def _printed(points: float) -> str:
    return f"{min(_HIGHEST, max(_LOWEST, points)):.1f}"


def _is_empty(answer: str) -> bool:
    words = re.findall(r"\w+", answer)
    return not words or (len(words) >= 24 and len(set(words)) <= 4)


def _is_badly_formed(answer: str, reference: str) -> bool:
    """The result ends a sentence ("the sum is 91"), or a unit follows a number ("Answer: 91 apples")."""
    result, wanted = final_result(answer), normalise_result(reference)
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


_NUMBER = re.compile(r"-?\d{1,15}(?:\.\d{1,15})?", re.ASCII)
_PART = re.compile(r"\w+")
_LIKENESS = ((0.9, SCALE.close), (0.8, SCALE.near), (0.7, SCALE.distant))
