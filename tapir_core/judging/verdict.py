"""A judge's reply becomes scores. The last verdict in the reply counts; a score outside 1-10 is a parse failure.

The form is ``[[a, b]]`` (``[[a]]`` pointwise), with decimals; ``8/10`` is read as 8. Nothing here raises, and nothing
falls back on other numbers of the reply: a reply without a verdict is asked for again, then unscored.
"""

import re
from dataclasses import dataclass

from tapir_core.replies import Unparsed

__all__ = ["SCALE", "PairScores", "parse_pointwise", "parse_verdict"]

SCALE = (1.0, 10.0)
"""Lowest and highest score that a judge may give."""

_NUMBER = r"\s{0,8}([-+]?[0-9]{1,8}(?:\.[0-9]{1,8})?)(?:\s?/\s?10)?\s{0,8}"
_PAIR = re.compile(rf"\[\[{_NUMBER}[,;]{_NUMBER}\]\]")
_POINT = re.compile(rf"\[\[{_NUMBER}\]\]")


@dataclass(frozen=True, slots=True)
class PairScores:
    """Scores of the answers in the order in which they were shown."""

    answer_1: float
    answer_2: float


def parse_verdict(raw: str | None) -> PairScores | Unparsed:
    """The last pair of scores in a judge's reply."""
    scores = _last_scores(_PAIR, raw)
    return scores if isinstance(scores, Unparsed) else PairScores(*scores)


def parse_pointwise(raw: str | None) -> float | Unparsed:
    """The last single score in a judge's reply."""
    scores = _last_scores(_POINT, raw)
    return scores if isinstance(scores, Unparsed) else scores[0]


def _last_scores(form: re.Pattern[str], raw: str | None) -> list[float] | Unparsed:
    verdicts = list(form.finditer(raw or ""))
    if not verdicts:
        return Unparsed("no verdict")
    scores = [float(score) for score in verdicts[-1].groups()]
    lowest, highest = SCALE
    return scores if all(lowest <= score <= highest for score in scores) else Unparsed("score outside 1-10")
