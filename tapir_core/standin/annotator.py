"""The rule-based judge of benchmarks: AlpacaEval's annotator, MT-Bench's judge, Vicuna's referee, on one scale.

It can be told to prefer the answer shown first, or the longer one, whatever they say: faults that an evaluation has to
show. Limits: like the judge it looks at final results only, and refuses instructions that are no family's, unless it
is told to look at nothing but places or lengths.
"""

import math

from tapir_core.randomness import derive_rng
from tapir_core.standin.behaviour import Behaviour
from tapir_core.standin.families import recognise
from tapir_core.standin.judge import grade
from tapir_core.standin.sections import Ask, Refusal, Reply, Weighted
from tapir_core.standin.teacher import UNKNOWN

__all__ = ["annotate"]

_SURE = 5.0
"""Points by which an answer is preferred for its place or length."""
_TIE = 0.5
"""A lead below this is a tie."""
_MIDDLE = 5.5


def annotate(ask: Ask, behaviour: Behaviour) -> Reply:
    """A benchmark's judgment, in the form that its prompt asks for."""
    if "output_1" in ask.sections:
        return _choose(ask, behaviour)
    if "response_1" in ask.sections:
        return _review(ask, behaviour)
    # The last turn is the one that is judged.
    last = "follow_up" if "follow_up" in ask.sections else "question"
    prefix = "follow_up_" if last == "follow_up" else ""
    if "answer" in ask.sections:
        return _rate(ask, last, f"{prefix}answer", behaviour)
    return _compare(ask, last, (f"{prefix}answer_a", f"{prefix}answer_b"), behaviour)


def _choose(ask: Ask, behaviour: Behaviour) -> Reply:
    """AlpacaEval: the identifier of the better output."""
    lead = _lead(ask, "instruction", ("output_1", "output_2"), behaviour)
    if isinstance(lead, Refusal):
        return lead
    first = 1 / (1 + math.exp(-lead))
    return Weighted("m" if first >= 0.5 else "M", {"m": first, "M": 1 - first})


def _rate(ask: Ask, question: str, answer: str, behaviour: Behaviour) -> Reply:
    """MT-Bench, one answer."""
    problem = recognise(ask.sections[question])
    if problem is None:
        return UNKNOWN
    found = grade(ask.sections[answer], problem)
    noise = derive_rng(0, "benchmark", ask.text, question).gauss(0, behaviour.noise)
    return f"The answer is {found.reason}.\nRating: [[{_in_scale(found.points + noise):.1f}]]"


def _compare(ask: Ask, question: str, answers: tuple[str, str], behaviour: Behaviour) -> Reply:
    """MT-Bench, a pair."""
    lead = _lead(ask, question, answers, behaviour)
    if isinstance(lead, Refusal):
        return lead
    verdict = "C" if abs(lead) < _TIE else "A" if lead > 0 else "B"
    return f"Answer A leads by {lead:.1f} points.\nVerdict: [[{verdict}]]"


def _review(ask: Ask, behaviour: Behaviour) -> Reply:
    """Vicuna: both scores, on the first line or, where the prompt shows a tuple, on the last."""
    lead = _lead(ask, "question", ("response_1", "response_2"), behaviour)
    if isinstance(lead, Refusal):
        return lead
    first, second = (_in_scale(_MIDDLE + side * lead / 2) for side in (1, -1))
    if "(7, 8)" in ask.text:
        return f"The first answer leads by {lead:.1f} points.\n({first:.1f}, {second:.1f})"
    return f"{first:.1f} {second:.1f}\nThe first answer leads by {lead:.1f} points."


def _lead(ask: Ask, question: str, answers: tuple[str, str], behaviour: Behaviour) -> float | Refusal:
    """Points by which the answer shown first is better; ``question`` and ``answers`` name sections."""
    first, second = (ask.sections[tag] for tag in answers)
    if behaviour.prefers == "first":
        return _SURE
    if behaviour.prefers == "longer":
        return math.copysign(_SURE, len(first) - len(second)) if len(first) != len(second) else 0.0
    problem = recognise(ask.sections[question])
    if problem is None:
        return UNKNOWN
    rng = derive_rng(0, "benchmark", ask.text, question)
    noise = rng.gauss(0, behaviour.noise) - rng.gauss(0, behaviour.noise)
    return grade(first, problem).points - grade(second, problem).points + behaviour.position_bias + noise


def _in_scale(points: float) -> float:
    return min(10.0, max(1.0, points))
