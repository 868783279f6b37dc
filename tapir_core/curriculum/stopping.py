"""When a run ends before its last round, and which of its students was best.

Stop rules and the choice of the best student read the dev split only. Where a judge scores it (`dev_values`), gains and
the best round go by what a paired interval over its instructions shows: verdicts are noisier than references.

A stop rule is a function in `STOP_RULES`: of S_0 and the rounds so far, in order, it gives in words why no further one
starts, or None, also where the last round lacks what it reads. Its settings are fields of `StopConfig`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tapir_core.config import StopConfig
from tapir_core.statistics import Estimate, estimate_mean


@dataclass(frozen=True, slots=True)
class RoundHistory:
    """What stop rules know of a round."""

    number: int
    """0 is S_0."""
    seeds: int | None = None
    """Seeds selected by their MFD in the round; None for S_0, and where they were drawn at random: that says nothing
    of how much is left to learn."""
    dev_score: float | None = None
    """Held-out dev score after the round; None without a held-out set, before the evaluation, or where too many
    answers failed for a figure."""
    dev_values: Mapping[str, float] | None = None
    """Instruction → its value, of a dev split that is judged; None of one with references."""
    alarm: str | None = None
    """What is wrong with how the student writes (`tapir_core.curriculum.alarms`), in words."""


def should_stop(history: Sequence[RoundHistory], stop: StopConfig) -> str | None:
    """The first rule's reason to start no further round; None when the run goes on, as it does after S_0.

    A round may be in ``history`` as soon as its seeds are known.
    """
    return next(filter(None, (rule(history, stop) for rule in STOP_RULES if history and history[-1].number)), None)


def few_seeds(history: Sequence[RoundHistory], stop: StopConfig) -> str | None:
    """Too few instructions are left that the student finds hard."""
    last = history[-1]
    if last.seeds is None or last.seeds >= stop.min_seeds:
        return None
    return f"round {last.number} has {last.seeds} seeds, fewer than min_seeds = {stop.min_seeds}"


def small_gain(history: Sequence[RoundHistory], stop: StopConfig) -> str | None:
    """The dev score has not grown for `patience` rounds.

    A gain is measured against the best score before, so that a fall and a recovery are no gain. Of a judged dev split
    it is too small only where the whole paired interval says so.
    """
    scored = [each for each in history if each.dev_score is not None]
    if history[-1].dev_score is None or stop.patience == 0 or len(scored) <= stop.patience:
        return None
    pairs = [(scored[at], _best(scored[:at])) for at in range(len(scored) - stop.patience, len(scored))]
    if scored[-1].dev_values is None:
        best = max((after.dev_score or 0.0) - (before.dev_score or 0.0) for after, before in pairs)
        said = (
            f"the dev score grew by less than min_gain = {stop.min_gain:g} for {stop.patience} rounds "
            f"(best gain {best:+.4f})"
        )
        return said if best < stop.min_gain else None
    gains = [_gain(*pair) for pair in pairs]
    if not all(gain.high is not None and gain.high < stop.min_gain for gain in gains):
        return None
    told = ", ".join(f"{each.value:+.4f} (95 % interval {each.low:+.4f} to {each.high:+.4f})" for each in gains)
    return (
        f"on the dev split the paired gain lies below min_gain = {stop.min_gain:g} for {stop.patience} rounds: {told}"
    )


def alarming(history: Sequence[RoundHistory], _stop: StopConfig) -> str | None:
    """A student writes worse than the one before; what its rollouts show is known when a round has begun with it."""
    return next((f"S_{each.number}: {each.alarm}" for each in history[-2:] if each.alarm), None)


STOP_RULES = (few_seeds, small_gain, alarming)
"""The first that has a reason ends the run."""


def best_round(history: Sequence[RoundHistory], average: RoundHistory | None = None) -> int | None:
    """The round of the highest dev score, the earliest of equal ones; None when no round has a score.

    Of a judged dev split that round only where its paired interval to the last round lies above 0, else the last. The
    rounds' ``average`` comes after them all, and is none that another one has to beat. None whose student raised an
    alarm is the best.
    """
    scored = [each for each in history if each.dev_score is not None and not each.alarm]
    if not scored:
        return None
    others = [] if average is None or average.dev_score is None or average.alarm else [average]
    best, last = _best([*scored, *others]), scored[-1]
    if last.dev_values is None:
        return best.number
    low = _gain(best, last).low
    return best.number if low is not None and low > 0 else last.number


def _best(scored: Sequence[RoundHistory]) -> RoundHistory:
    return max(scored, key=lambda each: (each.dev_score or 0.0, -each.number))


def _gain(after: RoundHistory, before: RoundHistory) -> Estimate:
    """Mean of the paired differences, over the instructions that are scored of both."""
    here, there = after.dev_values or {}, before.dev_values or {}
    return estimate_mean([value - there[item] for item, value in sorted(here.items()) if item in there])
