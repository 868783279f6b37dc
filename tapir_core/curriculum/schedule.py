"""When to stop, and which round was best. Both read the dev split only.

α itself is resolved by the configuration (``RunConfig.round``); nothing here computes it again.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tapir_core.config import StopConfig


@dataclass(frozen=True, slots=True)
class RoundHistory:
    """What the stop rule knows of a round."""

    number: int
    """0 is S_0."""
    seeds: int | None = None
    """Seeds selected by their MFD in the round; nothing for S_0, and where they were drawn at random: that says nothing
    of how much is left to learn."""
    dev_score: float | None = None
    """Held-out dev score after the round; nothing without a held-out set, before the evaluation, or where too many
    answers failed for a figure."""


def should_stop(history: Sequence[RoundHistory], stop: StopConfig) -> str | None:
    """The reason to start no further round, in words; nothing when the run goes on.

    Args:
        history: S_0 and the rounds so far, in order. A round may be given as soon as its seeds are known.
        stop: the rule. A gain is measured against the best score before, so that a fall and a recovery are no gain.
    """
    if not history:
        return None
    last = history[-1]
    if last.seeds is not None and last.seeds < stop.min_seeds:
        return f"round {last.number} has {last.seeds} seeds, fewer than min_seeds = {stop.min_seeds}"
    scores = [each.dev_score for each in history if each.dev_score is not None]
    if stop.patience == 0 or last.dev_score is None or len(scores) <= stop.patience:
        return None
    recent = range(len(scores) - stop.patience, len(scores))
    gains = [scores[place] - max(scores[:place]) for place in recent]
    if all(gain < stop.min_gain for gain in gains):
        return (
            f"the dev score grew by less than min_gain = {stop.min_gain:g} for {stop.patience} rounds "
            f"(best gain {max(gains):+.4f})"
        )
    return None


def best_round(history: Sequence[RoundHistory]) -> int:
    """The round of the highest dev score, the earliest of equal ones; the last round when none has a score.

    Raises:
        ValueError: there is no round.
    """
    if not history:
        raise ValueError("no round has been trained yet")
    scored = [each for each in history if each.dev_score is not None]
    if not scored:
        return history[-1].number
    return max(scored, key=lambda each: (each.dev_score or 0.0, -each.number)).number
