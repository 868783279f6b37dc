"""MT-Bench: what an answer and its grading need by category, and averages of single-answer ratings. Pure.

Grain: a ``Rating`` is one judge reply on one turn of one question. Pairwise grading stands in `pairwise`. Source:
FastChat (`fastchat/llm_judge`). Its rule for a rating is kept, the absent check of the scale too: ``[[11]]`` is 11.
Departures: a failed rating is None and not -1; ``[[08]]``, on which the original fails, is 8.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tapir_core.evaluation.pairwise import NUMBER
from tapir_core.evaluation.statistics import MAX_FAILED_SHARE, Figure, mean_figure
from tapir_core.replies import Unparsed

__all__ = [
    "Rating",
    "RatingFigures",
    "measure_ratings",
    "needs_reference",
    "parse_rating",
    "temperature_of",
]

_SCALE = (1.0, 10.0)
"""What the judge is asked for; not checked."""
_WITH_REFERENCE = frozenset({"math", "reasoning", "coding"})
_TEMPERATURES = {"extraction": 0.0, "math": 0.0, "coding": 0.0, "reasoning": 0.0, "stem": 0.1, "humanities": 0.1}
_TEMPERATURE = 0.7

_RATINGS = (re.compile(rf"\[\[{NUMBER}\]\]"), re.compile(rf"\[{NUMBER}\]"))


@dataclass(frozen=True, slots=True)
class Rating:
    """What the judge gave one turn."""

    question: str
    category: str
    turn: int
    """1 or 2."""
    rating: float | None
    """None when it failed."""


@dataclass(frozen=True, slots=True)
class RatingFigures:
    """Mean ratings, 1-10."""

    turn_1: Figure
    turn_2: Figure
    average: Figure
    """Of all ratings together, not of the two means: the MT-Bench score."""


def temperature_of(category: str) -> float:
    """The temperature at which a student answers, in MT-Bench and Vicuna-Instructions alike."""
    return _TEMPERATURES.get(category, _TEMPERATURE)


def needs_reference(category: str) -> bool:
    """Whether the judge is shown a reference answer."""
    return category in _WITH_REFERENCE


def parse_rating(reply: str | None) -> float | Unparsed:
    """The first number in double brackets; where there is none, the first in single ones."""
    found = next((match for form in _RATINGS if (match := form.search(reply or ""))), None)
    return Unparsed("no rating") if found is None else float(found[1])


def measure_ratings(ratings: Sequence[Rating], *, max_failed_share: float = MAX_FAILED_SHARE) -> RatingFigures:
    """Means over the ratings that did not fail; intervals take questions as independent, not turns."""

    def mean(of: Sequence[Rating]) -> Figure:
        values, questions = [each.rating for each in of], [each.question for each in of]
        return mean_figure(values, clusters=questions, scale=_SCALE, max_failed_share=max_failed_share)

    first, second = ([each for each in ratings if each.turn == turn] for turn in (1, 2))
    return RatingFigures(mean(first), mean(second), mean(ratings))
