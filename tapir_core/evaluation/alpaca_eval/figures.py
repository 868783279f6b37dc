"""All of AlpacaEval's figures for one model, from its judgments. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tapir_core.errors import ConfigError
from tapir_core.evaluation.alpaca_eval.length_control import (
    ControlledRate,
    LengthTables,
    control_length,
    is_far_from,
)
from tapir_core.evaluation.alpaca_eval.preference import Annotation
from tapir_core.evaluation.alpaca_eval.win_rate import WinRates, measure_position, measure_win_rates
from tapir_core.evaluation.statistics import MAX_FAILED_SHARE
from tapir_core.judging.estimates import Estimate

__all__ = ["AlpacaEvalFigures", "measure_annotations"]

_NO_TABLES = "needs the difficulty table and the anchors"


@dataclass(frozen=True, slots=True)
class AlpacaEvalFigures:
    """One model against the baseline, in per cent."""

    rates: WinRates
    controlled: Estimate
    """Length-controlled win rate, with its sampling error; ``n`` counts the judgments that it rests on."""
    controlled_spread: float | None
    """The spread of its predictions over the instructions, which the original calls ``lc_standard_error``."""
    position: Estimate
    """By how many points standing first raises the win rate; not defined where the orders are not known."""

    @property
    def length_is_doubtful(self) -> bool:
        """True when length control moves the rate so far that its regression is to be doubted."""
        raw = self.rates.win_rate.estimate.value
        return raw is not None and self.controlled.value is not None and is_far_from(self.controlled.value, raw)

    def to_dict(self) -> dict[str, float | int | None]:
        """The figures under the original's names."""
        rate = self.rates.win_rate.estimate
        return {
            "win_rate": rate.value,
            "standard_error": rate.stderr,
            "discrete_win_rate": self.rates.discrete.estimate.value,
            "n_total": rate.n,
            "length_controlled_winrate": self.controlled.value,
            "lc_standard_error": self.controlled_spread,
        }


def measure_annotations(
    judged: Sequence[Annotation],
    tables: LengthTables | None = None,
    *,
    max_failed_share: float = MAX_FAILED_SHARE,
) -> AlpacaEvalFigures:
    """Win rates, and with ``tables`` the length-controlled one; above ``max_failed_share`` (0-1) of failures, none.

    Raises:
        ConfigError: there are more judgments than rows in the difficulty table.
    """
    if tables is not None and len(judged) > len(tables.difficulty):
        raise ConfigError(
            f"{len(judged)} annotations, but a difficulty table of {len(tables.difficulty)} instructions; "
            "give the table of the same instructions, and the annotations of one model"
        )
    rates = measure_win_rates(judged, max_failed_share=max_failed_share)
    raw = rates.win_rate.estimate
    if raw.value is None or tables is None:
        controlled = ControlledRate(Estimate(None, 0, why=raw.why if raw.value is None else _NO_TABLES), spread=None)
    else:
        controlled = control_length(judged, tables)
    # A prediction for all instructions, with the count of the judgments.
    rate = replace(controlled.rate, n=raw.n)
    return AlpacaEvalFigures(rates, rate, controlled.spread, measure_position(judged))
