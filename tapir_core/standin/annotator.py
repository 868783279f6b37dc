"""The rule-based judge of benchmarks: AlpacaEval's annotator, by the judge's own grades.

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


def annotate(ask: Ask, behaviour: Behaviour) -> Reply:
    """A benchmark's judgment, in the form that its prompt asks for."""
    lead = _lead(ask, "instruction", ("output_1", "output_2"), behaviour)
    if isinstance(lead, Refusal):
        return lead
    first = 1 / (1 + math.exp(-lead))
    return Weighted("m" if first >= 0.5 else "M", {"m": first, "M": 1 - first})


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
