"""What the judge report says in words: position, agreement, length, unscored."""

from collections.abc import Callable

from tapir_core.judging import POINTWISE
from tapir_core.judging.agreement import favoured_position
from tapir_core.judging.estimates import Estimate
from tapir_core.reporting.judge_round import JudgeRound
from tapir_core.summary.formats import count, percent

__all__ = [
    "agreement_sentence",
    "correlation",
    "length_sentence",
    "points",
    "position_sentence",
    "tell",
    "unscored_sentence",
]

_STRENGTHS = ((0.4, "weak"), (0.6, "moderate"), (0.8, "good"))
"""Kappa below → what it is called; above the last it is very good."""


def points(value: float) -> str:
    """+0.50, in points of the judge's scale; never -0.00."""
    return f"{round(value, 2) + 0.0:+.2f}"


def correlation(value: float) -> str:
    """0.42, a number from -1 to 1."""
    return f"{round(value, 2) + 0.0:.2f}"


def tell(estimate: Estimate, cell: Callable[[float], str]) -> str:
    """The value with its interval, or why there is none."""
    if estimate.value is None:
        return f"not defined ({estimate.why})"
    if estimate.low is None or estimate.high is None:
        return f"{cell(estimate.value)} (no interval: {estimate.why})"
    return f"{cell(estimate.value)} (95 % interval {cell(estimate.low)} to {cell(estimate.high)})"


def position_sentence(found: JudgeRound) -> str:
    """Whether the judge favours a position."""
    if found.whole.agreement is None:
        asked = found.orders[0].replace("_", " ")
        seen = "one answer a call" if asked == POINTWISE else f"every pair in one order only, {asked}"
        tail = "there is no position to favour" if asked == POINTWISE else "a favoured position cannot be told"
        return f"The judge saw {seen}, so {tail}."
    gap = found.whole.agreement.gap
    told = f"order gap {tell(gap, points)}"
    favoured = favoured_position(gap)
    if favoured is None or gap.value is None:
        return f"Whether the judge favours a position cannot be told: {told}."
    if favoured == "neither":
        return f"No favoured position can be told from {count(gap.n)} instructions: {told}."
    return (
        f"The judge favours the answer shown {favoured}, by {abs(gap.value) / 2:.2f} points a verdict: {told}. "
        f"The MFD is the mean of both orders, in which this cancels."
    )


def agreement_sentence(found: JudgeRound) -> str:
    """How well the two orders agree; empty when one order only was asked."""
    if found.whole.agreement is None:
        return ""
    share, kappa = found.whole.agreement.same_winner, found.whole.agreement.kappa
    if share.value is None:
        return "No instruction is scored in both orders, so their agreement is not defined."
    told = (
        f"Both orders name the same winner for {percent(share.value)} of {count(share.n)} instructions; Cohen's κ is "
    )
    if kappa.value is None:
        return f"{told}{tell(kappa, correlation)}."
    strength = next((name for below, name in _STRENGTHS if kappa.value < below), "very good")
    return f"{told}{tell(kappa, correlation)}: {strength} agreement beyond chance."


def length_sentence(found: JudgeRound) -> str:
    """Whether longer answers get higher scores."""
    effect = found.whole.length.difference
    told = f"rank correlation of MFD and length difference {tell(effect, correlation)}"
    if effect.low is None or effect.high is None:
        return f"Whether scores go with length cannot be told: {told}."
    if effect.low <= 0 <= effect.high:
        return f"No link between score and length can be told: {told}."
    which = "longer" if effect.low > 0 else "shorter"
    return f"Of two answers the {which} one tends to score higher: {told}. It may also be the better one."


def unscored_sentence(found: JudgeRound) -> str:
    """How much is unscored and for what reason mostly."""
    missing = found.whole.unscored
    if not missing.reasons:
        return f"All {count(found.verdicts)} verdicts are scored." if found.verdicts else "There are no verdicts."
    reason, times = next(iter(missing.reasons.items()))
    total = sum(missing.reasons.values())
    return (
        f"{count(total)} of {count(found.verdicts)} verdicts ({percent(missing.share.value)}) are unscored; "
        f"the most frequent reason is “{reason}” ({count(times)})."
    )
