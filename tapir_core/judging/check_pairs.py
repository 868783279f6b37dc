"""Pairs of answers with a known better one, to see how far a judge can be trusted. Pure, drawn from a generator.

Grain: one `CheckPair` is one instruction of the stand-in's verifiable families with two answers. A problem gives a
pair of each plain kind; each hostile case stands around the wrong answer of one of them, so that what it changed can be
told.
Limits: short instructions with one right result. How a judge weighs good prose against better prose is not measured.
"""

import random
import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

from tapir_core.judging.hostile import HostileCase, hostile_cases
from tapir_core.standin.families import FAMILIES, Problem
from tapir_core.standin.judge import grade
from tapir_core.standin.sampling import EQUAL_SHARES, draw_problem, sample_problems
from tapir_core.verifiable import is_correct

__all__ = ["PAIR_KINDS", "CheckPair", "PairKind", "build_pairs"]

PairKind = Literal["wrong", "almost right", "no answer", "padded", "hostile"]
PAIR_KINDS: tuple[PairKind, ...] = get_args(PairKind)

_MAX_LEVEL = 3
_CANDIDATES = 20
_REFUSALS = (
    "I'm sorry, but I can't help with that.",
    "",
    "As an AI language model I am not able to answer this question.",
    "I do not know.",
)
_PADDING = (
    "Thank you very much for this interesting question, which I am happy to look at together with you.",
    "Before I come to the result, let me say that it is always worth taking a moment to think about such questions.",
    "With all of this in mind, and after careful consideration, I can now come to what you wanted to know.",
    "I hope that this helps, and please do not hesitate to come back if anything at all is unclear.",
)


@dataclass(frozen=True, slots=True)
class CheckPair:
    """One instruction with two answers."""

    id: str
    kind: PairKind
    task_type: str
    instruction: str
    better: str
    """A right answer; where both are right (`padded`) the short one."""
    other: str
    case: str = ""
    """Name of the hostile case."""
    plain_id: str = ""
    """Of a hostile pair: the pair with the same wrong answer and nothing around it."""


def build_pairs(per_kind: int, rng: random.Random) -> list[CheckPair]:
    """``per_kind`` pairs of each plain kind over all families in turn, and one for each hostile case."""
    problems = sample_problems(per_kind, max_level=_MAX_LEVEL, rng=rng, shares=EQUAL_SHARES)
    pairs = [pair for number, problem in enumerate(problems) for pair in _plain_pairs(number, problem, rng)]
    wrong = [pair for pair in pairs if pair.kind == "wrong"]
    return pairs + [_hostile_pair(case, wrong[place % len(wrong)]) for place, case in enumerate(hostile_cases())]


def _plain_pairs(number: int, problem: Problem, rng: random.Random) -> list[CheckPair]:
    # Both answers of a pair have the same form: nothing but the result can make one the better.
    others: dict[PairKind, str] = {
        "wrong": f"Answer: {_wrong_result(problem, rng)}",
        "almost right": f"Answer: {_slip(problem.reference, rng)}",
        "no answer": _REFUSALS[number % len(_REFUSALS)],
        "padded": f"{' '.join(_PADDING[:3])}\n{problem.plain}\n{_PADDING[3]}",
    }
    return [
        CheckPair(f"{kind} {number}", kind, problem.task_type, problem.instruction, problem.plain, other)
        for kind, other in others.items()
    ]


def _hostile_pair(case: HostileCase, plain: CheckPair) -> CheckPair:
    return CheckPair(
        id=f"hostile {case.name}",
        kind="hostile",
        task_type=plain.task_type,
        instruction=plain.instruction,
        better=plain.better,
        other=case.wrap(plain.other),
        case=case.name,
        plain_id=plain.id,
    )


def _wrong_result(problem: Problem, rng: random.Random) -> str:
    """The result of another problem of the family, as far from the right one as some draws give."""
    family = FAMILIES[problem.family]
    drawn = [draw_problem(family, problem.level, "pool", rng).reference for _ in range(_CANDIDATES)]
    wrong = [result for result in drawn if not is_correct(f"Answer: {result}", problem.reference)]
    return min(wrong, key=lambda result: grade(f"Answer: {result}", problem).points, default="I cannot tell")


def _slip(reference: str, rng: random.Random) -> str:
    """The right result with one slip: a number one off, two words in the wrong order, or a letter lost."""
    numbers, words = list(re.finditer(r"\d+", reference)), list(re.finditer(r"\w+", reference))
    if numbers:
        found = rng.choice(numbers)
        return f"{reference[: found.start()]}{int(found[0]) + 1}{reference[found.end() :]}"
    neighbours = [(one, next_) for one, next_ in pairwise(words) if one[0].casefold() != next_[0].casefold()]
    if neighbours:
        one, next_ = rng.choice(neighbours)
        between = reference[one.end() : next_.start()]
        return f"{reference[: one.start()]}{next_[0]}{between}{one[0]}{reference[next_.end() :]}"
    return reference[:-1] if len(reference) > 1 else f"{reference}{reference}"
