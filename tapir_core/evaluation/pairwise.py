"""Two answers to one question, judged twice: each stands first once, and what the two games disagree on is a tie. Pure.

Grain: a ``Pair`` is one question and turn; a game is one call, in one order. Source: FastChat's pairwise grading
(`fastchat/llm_judge`); the verdict of a reply is found by containment as there, ``[[A]]`` before ``[[B]]``.
"""

import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

from tapir_core.evaluation.statistics import MAX_FAILED_SHARE, SHARE, Figure, mean_figure
from tapir_core.judging.agreement import favoured_position
from tapir_core.replies import Unparsed

__all__ = [
    "NUMBER",
    "WINS",
    "Outcomes",
    "Pair",
    "PairFigures",
    "Shown",
    "Winner",
    "combine_games",
    "measure_outcomes",
    "measure_pairs",
    "parse_pair_verdict",
    "parse_two_scores",
    "winner_of_game",
]

Shown = Literal["A", "B", "tie"]
"""What a judge says of the answers it is shown: A stood first."""

Winner = Literal["model", "baseline", "tie"]

NUMBER = r"([0-9]{1,8}(?:\.[0-9]{0,8})?)"
"""A rating or a score as these judges write it: digits, perhaps a point, perhaps digits; no sign, no blank."""

_VERDICTS: tuple[tuple[str, Shown], ...] = (("[[A]]", "A"), ("[[B]]", "B"), ("[[C]]", "tie"))
_TWO_SCORES = (re.compile(rf"\[\[{NUMBER},\s?{NUMBER}\]\]"), re.compile(rf"\[{NUMBER},\s?{NUMBER}\]"))
_TIE_GAP = 0.1
WINS: dict[Winner, float] = {"model": 1.0, "tie": 0.5, "baseline": 0.0}
"""What an outcome is worth to the model."""


@dataclass(frozen=True, slots=True)
class Pair:
    """The model's and the baseline's answer to one question, in both orders."""

    question: str
    category: str
    turn: int
    model_first: Winner | None
    """Who won the game in which the model's answer stood first; None when it failed."""
    baseline_first: Winner | None

    @property
    def winner(self) -> Winner | None:
        """Of both games; None when one failed."""
        return combine_games(self.model_first, self.baseline_first)

    @property
    def order_gap(self) -> float | None:
        """The model's outcome (win 1, tie 0.5, loss 0) where it stood first minus the one where it stood second."""
        if self.model_first is None or self.baseline_first is None:
            return None
        return WINS[self.model_first] - WINS[self.baseline_first]


@dataclass(frozen=True, slots=True)
class Outcomes:
    """How often the model wins against the baseline; rates are shares (0-1)."""

    wins: int
    losses: int
    ties: int
    win_rate: Figure
    loss_rate: Figure
    win_rate_adjusted: Figure
    """Wins and half of the ties."""


@dataclass(frozen=True, slots=True)
class PairFigures:
    """What both orders come to, and whether the judge favours one of them."""

    outcomes: Outcomes
    order_gap: Figure
    """By how much standing first raises the outcome of a game, -1 to 1."""

    @property
    def favoured(self) -> Literal["first", "second", "neither"] | None:
        """The position that the judge favours; None where too few pairs can tell."""
        return favoured_position(self.order_gap.estimate)


def parse_pair_verdict(reply: str | None) -> Shown | Unparsed:
    """The verdict that a reply contains: A before B before C (tie), wherever they stand."""
    return next((shown for mark, shown in _VERDICTS if mark in (reply or "")), Unparsed("no verdict"))


def parse_two_scores(reply: str | None) -> Shown | Unparsed:
    """The verdict of a reply that scores both answers, ``[[7, 8]]`` or else ``[7, 8]``; up to 0.1 apart is a tie."""
    found = next((match for form in _TWO_SCORES if (match := form.search(reply or ""))), None)
    if found is None:
        return Unparsed("no scores")
    first, second = map(float, found.groups())
    return "tie" if abs(first - second) <= _TIE_GAP else "A" if first > second else "B"


def winner_of_game(shown: Shown, *, model_first: bool) -> Winner:
    """Whose answer a verdict on the shown answers favours."""
    if shown == "tie":
        return "tie"
    return "model" if (shown == "A") == model_first else "baseline"


def combine_games(model_first: Winner | None, baseline_first: Winner | None) -> Winner | None:
    """The winner of both games; whatever they disagree on is a tie. None when one of them failed."""
    if model_first is None or baseline_first is None:
        return None
    return model_first if model_first == baseline_first else "tie"


def measure_pairs(pairs: Sequence[Pair], *, max_failed_share: float = MAX_FAILED_SHARE) -> PairFigures:
    """The model against the baseline over all turns; intervals take questions as independent, not turns."""
    questions = [pair.question for pair in pairs]
    gaps = [pair.order_gap for pair in pairs]
    return PairFigures(
        measure_outcomes([pair.winner for pair in pairs], questions, max_failed_share=max_failed_share),
        mean_figure(gaps, clusters=questions, scale=(-1.0, 1.0), max_failed_share=max_failed_share),
    )


def measure_outcomes(
    winners: Sequence[Winner | None], questions: Sequence[Hashable], *, max_failed_share: float = MAX_FAILED_SHARE
) -> Outcomes:
    """Counts and rates; ``questions`` says which question each winner belongs to."""

    def rate(values: dict[Winner, float]) -> Figure:
        marks = [None if winner is None else values[winner] for winner in winners]
        return mean_figure(marks, clusters=questions, scale=SHARE, max_failed_share=max_failed_share)

    return Outcomes(
        wins=winners.count("model"),
        losses=winners.count("baseline"),
        ties=winners.count("tie"),
        win_rate=rate({"model": 1.0, "tie": 0.0, "baseline": 0.0}),
        loss_rate=rate({"model": 0.0, "tie": 0.0, "baseline": 1.0}),
        win_rate_adjusted=rate(WINS),
    )
