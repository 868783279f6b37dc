"""Win rates of AlpacaEval 2.0, in per cent, from the preferences of one model's judgments. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from tapir_core.evaluation.alpaca_eval.preference import BASELINE, DRAW, Annotation
from tapir_core.evaluation.statistics import MAX_FAILED_SHARE, PERCENT, Figure, estimate_difference, mean_figure
from tapir_core.judging.estimates import Estimate

__all__ = ["WinRates", "measure_position", "measure_win_rates"]


@dataclass(frozen=True, slots=True)
class WinRates:
    """How often the model's output is better than the baseline's."""

    win_rate: Figure
    """Mean probability that the model's output is better, in per cent; its standard error is the published one."""
    discrete: Figure
    """Share of judgments that the model wins, a draw as one half, in per cent."""
    n_wins: int
    n_wins_base: int
    n_draws: int
    """Judgments of exactly 1.5."""


def measure_win_rates(judged: Sequence[Annotation], *, max_failed_share: float = MAX_FAILED_SHARE) -> WinRates:
    """Win rates over one model's judgments; above ``max_failed_share`` (0-1) of failures there are none."""
    shares = [None if each.preference is None else 100 * (each.preference - BASELINE) for each in judged]
    outcomes = [None if each.preference is None else _outcome(each.preference) for each in judged]
    return WinRates(
        mean_figure(shares, scale=PERCENT, max_failed_share=max_failed_share),
        mean_figure(outcomes, scale=PERCENT, max_failed_share=max_failed_share),
        n_wins=outcomes.count(100.0),
        n_wins_base=outcomes.count(0.0),
        n_draws=outcomes.count(50.0),
    )


def measure_position(judged: Sequence[Annotation]) -> Estimate:
    """How much standing first raises the model's win rate, in points of 100.

    Between different instructions, since each is shown in one order only: the rate where the model's output stood
    first minus the rate where it stood second. `judging.agreement.favoured_position` reads it.
    """
    sides: dict[bool, list[float]] = {True: [], False: []}
    for each in judged:
        if each.preference is not None and each.switched is not None:
            sides[each.switched].append(100 * (each.preference - BASELINE))
    return estimate_difference(sides[True], sides[False])


def _outcome(preference: float) -> float:
    """100 for a win of the model, 0 for a loss, 50 for a draw."""
    return 50.0 if preference == DRAW else 100.0 if preference > DRAW else 0.0
