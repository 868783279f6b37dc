"""How a student writes, and when that is an alarm: answers that grow, do not end, repeat themselves, drift or collapse.

A student that learns from its own answers can lose itself while its loss falls (docs/training.md#alarms). Each figure
is compared with that of the student before, so that what a backbone brings along is no alarm. A round that imitates
raises none: there the teacher's answers say how long one is.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from operator import sub

import polars as pl

from tapir_core.config import StopConfig
from tapir_core.data.decontamination import words_of

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
    q = pl.col("log_probs").list.head(pl.col("log_probs_t").list.len())
    tokens = scored.select(q=q, t="log_probs_t").explode("q", "t").drop_nulls()
    return {_TOKENS: float(tokens.height), **{name: -float(tokens[of].sum()) for name, of in ((_Q, "q"), (_T, "t"))}}


def habits_of(answers: pl.DataFrame) -> Habits:
    """What answers show: rows of response, finish_reason and completion_tokens."""
    given = answers.drop_nulls("response")
    runs = [_runs_of(text) for text in given["response"]]
    said, told_apart = sum(map(len, runs)), sum(len({*each}) for each in runs)
    return Habits(
        answers=given.height,
        length=_mean(given.filter(finish_reason="stop")["completion_tokens"]),
        unended=_mean(given["finish_reason"] == "length"),
        repeated=1 - told_apart / said if said else None,
    )


def _runs_of(text: str) -> list[tuple[str, ...]]:
    words = words_of(text)
    return [tuple(words[start : start + _RUN]) for start in range(len(words) - _RUN + 1)]


def _mean(values: pl.Series) -> float | None:
    mean = values.mean()
    return float(mean) if isinstance(mean, (int, float)) else None


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
