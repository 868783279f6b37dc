"""When a run ends before its last round, which of its students was best, and when how a student writes is an alarm.

Stop rules and the choice of the best student read the dev split only. Where a judge scores it (`dev_values`), gains and
the best round go by what a paired interval over its instructions shows: verdicts are noisier than references.

A stop rule is a function in `STOP_RULES`: of S_0 and the rounds so far, in order, it gives in words why no further one
starts, or None, also where the last round lacks what it reads. Its settings are fields of `StopConfig`.

Alarms: answers that grow, do not end, repeat themselves, drift or collapse. A student that learns from its own answers
can lose itself while its loss falls (docs/training.md#alarms). Each figure is compared with that of the student before,
so that what a backbone brings along is no alarm. A round that imitates raises none: there the teacher's answers say how
long one is.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import sub
from typing import cast

import polars as pl

from tapir_core.config import StopConfig
from tapir_core.data.decontamination import words_of
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
    """What is wrong with how the student writes (`alarm`), in words."""


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


_RUN = 4


@dataclass(frozen=True, slots=True)
class Habits:
    """How a student writes; nothing where nobody measured it."""

    answers: int = 0
    """Answers to the dev split that the first three are of."""
    length: float | None = None
    """Mean tokens of those that are whole."""
    unended: float | None = None
    """Share of them that broke off."""
    repeated: float | None = None
    """Share of the runs of four words in them that stood in the same answer before."""
    divergence: float | None = None
    """KL(student ‖ teacher) as the tokens of its rollouts estimate it: the mean of q − t, nats a token."""
    entropy: float | None = None
    """The mean of −q over the same tokens, nats a token."""

    def with_rollouts(self, counts: Mapping[str, float]) -> "Habits":
        """And of its rollouts, by what `measure_rollouts` counted of all shards."""
        if not (tokens := counts.get(_TOKENS)):
            return self
        entropy = counts.get(_Q, 0.0) / tokens
        return replace(self, divergence=counts.get(_T, 0.0) / tokens - entropy, entropy=entropy)


_TOKENS, _Q, _T = "scored_tokens", "minus_q", "minus_t"


def measure_rollouts(rollouts: pl.DataFrame, scores: pl.DataFrame) -> dict[str, float]:
    """Tokens that are scored, and over them the sums of −q and −t: for the counts of the stage `score`."""
    scored = rollouts.join(scores, on=["instruction_id", "sample"], suffix="_t", maintain_order="left")
    tokens = (
        scored.select(q=pl.col("log_probs").list.head(pl.col("log_probs_t").list.len()), t="log_probs_t")
        .explode("q", "t")
        .drop_nulls()
    )
    return {_TOKENS: float(tokens.height), **{name: -float(tokens[of].sum()) for name, of in ((_Q, "q"), (_T, "t"))}}


def habits_of(answers: pl.DataFrame) -> Habits:
    """What answers show: rows of response, finish_reason and completion_tokens."""
    given = answers.drop_nulls("response")
    runs = [_runs_of(text) for text in given["response"]]
    said, told_apart = sum(map(len, runs)), sum(len({*each}) for each in runs)
    return Habits(
        answers=given.height,
        length=cast(float | None, given.filter(finish_reason="stop")["completion_tokens"].mean()),
        unended=cast(float | None, (given["finish_reason"] == "length").mean()),
        repeated=1 - told_apart / said if said else None,
    )


def _runs_of(text: str) -> list[tuple[str, ...]]:
    words = words_of(text)
    return [tuple(words[start : start + _RUN]) for start in range(len(words) - _RUN + 1)]


def alarm(
    before: Habits, after: Habits, stop: StopConfig, taught: Callable[[], float | None] = lambda: None
) -> str | None:
    """What is wrong with how a student writes, beside the one before it; None without a figure of both.

    Args:
        before: of the student before.
        after: of the student.
        stop: the limits.
        taught: gives the tokens of a teacher's answer: a student whose answers grow up to these learns its lesson.
    """
    for setting, (figure, worse_by, words) in _ALARMS.items():
        limit, was, became = getattr(stop, setting), getattr(before, figure), getattr(after, figure)
        fewest = 0 if figure in _OF_ROLLOUTS else min(before.answers, after.answers)
        too_few = figure not in _OF_ROLLOUTS and fewest < _FEWEST
        if None in (limit, was, became) or too_few:
            continue
        by_chance = (
            _CHANCE * math.sqrt((was * (1 - was) + became * (1 - became)) / fewest) if figure == "unended" else 0
        )
        if worse_by(became, was) > max(limit, by_chance) and not (figure == "length" and became <= (taught() or 0.0)):
            return f"{words.format(was, became)}, {setting} = {limit:g}"
    return None


_FEWEST, _CHANCE = 20, 2.6
"""Answers to the dev split without which there is no alarm; and by how many standard errors a share must differ."""
_OF_ROLLOUTS = ("divergence", "entropy")


def _grown(became: float, was: float) -> float:
    return became / was - 1 if was else 0.0


_ALARMS: dict[str, tuple[str, Callable[[float, float], float], str]] = {
    "max_growth": ("length", _grown, "its whole answers grew from {:.0f} to {:.0f} tokens"),
    "max_unended": ("unended", sub, "the share of its answers that broke off went from {:.0%} to {:.0%}"),
    "max_repeated": ("repeated", sub, "the share of its words that repeat themselves went from {:.0%} to {:.0%}"),
    "max_divergence": ("divergence", sub, "its distance to the teacher grew from {:.2f} to {:.2f} nats a token"),
    "max_entropy_loss": (
        "entropy",
        lambda became, was: -_grown(became, was),
        "its entropy fell from {:.2f} to {:.2f} nats a token",
    ),
}
"""Field of `StopConfig` → a figure, by how much it is worse, and the alarm in words. The first counts."""
