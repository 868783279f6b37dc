"""A benchmark that is asked: its questions, the judgments to be made of a student's answers, their scores.

Grain: an `Exchange` is one question with all its turns and a student's answers; a `Game` is one judgment, one call of
the judge at most; a `Score` is one row of a benchmark's ``scores/``. Nothing here makes a call.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import polars as pl

from tapir_core.config import Sampling
from tapir_core.evaluation.statistics import ALL, Figure
from tapir_core.judging.estimates import Estimate
from tapir_core.prompts import Prompt
from tapir_core.replies import Unparsed

__all__ = [
    "ITEMS",
    "NO_ANSWER",
    "NO_BASELINE",
    "REPLIES",
    "SCORES",
    "Benchmark",
    "Exchange",
    "Game",
    "ItemValues",
    "Judged",
    "JudgedOne",
    "Order",
    "Place",
    "Reading",
    "Score",
    "Turn",
    "exchanges_of",
    "failed",
    "in_percent",
    "items_table",
    "mean_value",
    "position_note",
    "score",
    "settled",
    "withhold_categories",
]

ITEMS = pl.Schema(
    {
        "question_id": pl.String(),
        "category": pl.String(),
        "turn": pl.Int64(),
        "question": pl.String(),
        "reference": pl.String(),
        "baseline": pl.String(),
    }
)
"""One row a question and turn, in the order of the file; a reference where it has one.

The baseline's answer is nothing where there is none to compare with, or it has failed.
"""

REPLIES = pl.Schema(
    {
        "question_id": pl.String(),
        "turn": pl.Int64(),
        "mode": pl.String(),
        "order": pl.String(),
        "value": pl.Float64(),
        "baseline_value": pl.Float64(),
        **dict.fromkeys(("how", "status", "reason", "raw", "judge"), pl.String()),
    }
)
"""One row a judgment of one student's answers."""

SCORES = pl.Schema(
    {
        **dict.fromkeys(("benchmark", "split", "category", "metric"), pl.String()),
        **dict.fromkeys(("value", "stderr"), pl.Float64()),
        "n": pl.Int64(),
        **dict.fromkeys(("low", "high"), pl.Float64()),
        "n_failed": pl.Int64(),
        **dict.fromkeys(("note", "judge", "prompt_version", "settings"), pl.String()),
    }
)
"""One row a figure and category of one student."""

NO_ANSWER, NO_BASELINE = "there is no answer", "the baseline has no answer"
"""Why a judgment has failed that nobody can be asked for: whose answer is not there."""

Order = Literal["model_first", "baseline_first", "single"]

ItemValues = dict[str, float | None]
"""Question → its value, over its turns and orders; None where one of them failed."""

Place = tuple[str, int, str, Order]
"""Question, turn, mode and order of a judgment."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What is asked in one turn, and what was answered."""

    question: str
    reference: str | None
    baseline: str | None
    """The baseline's answer without blanks around it; nothing where it gave none."""
    response: str | None
    """The student's, likewise."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """One question and everything said about it."""

    question_id: str
    category: str
    turns: tuple[Turn, ...]


@dataclass(frozen=True, slots=True)
class Reading:
    """What a judge's reply comes to, as the benchmark counts it."""

    value: float
    baseline_value: float | None = None
    """Of the baseline's answer, where a reply scores both."""
    how: str = ""
    """What it was read from, where that differs from reply to reply."""


@dataclass(frozen=True, slots=True)
class Game:
    """One judgment to be made: a text for the judge, or what is known without asking."""

    question_id: str
    category: str
    turn: int
    """From 1."""
    mode: str
    order: Order
    text: str | None
    prompt: str = ""
    """The prompt that the text was made with."""
    reading: Reading | None = None
    """What it comes to where nobody has to be asked."""
    reason: str = ""
    """Why nobody can be asked; it has failed then."""

    @property
    def place(self) -> Place:
        """What tells it from the other judgments of one student."""
        return self.question_id, self.turn, self.mode, self.order


@dataclass(frozen=True, slots=True)
class Judged:
    """A judgment as it is kept; its values are nothing where it failed."""

    value: float | None = None
    baseline_value: float | None = None
    how: str = ""
    reason: str = ""
    """Why it failed; empty where it did not, or nobody wrote it down."""
    said: str = ""
    """What the judge, or its provider, said when it failed."""


@dataclass(frozen=True, slots=True)
class Score:
    """A figure of one category, or why there is none."""

    category: str
    metric: str
    estimate: Estimate
    n_failed: int
    note: str = ""
    """A bias that was found, what the figure rests on, or why there is no figure or no interval."""

    def row(self, benchmark: str, split: str, judge: str, prompt_version: str, settings: str) -> tuple[object, ...]:
        """As a row of ``SCORES``, with what stands beside it."""
        found = self.estimate
        figure = (found.value, found.stderr, found.n, found.low, found.high)
        beside = (self.n_failed, self.note, judge, prompt_version, settings)
        return (benchmark, split, self.category, self.metric, *figure, *beside)


class Benchmark(Protocol):
    """One benchmark, as its part of the configuration says."""

    def answering(self, category: str, student: Sampling) -> Sampling:
        """How the student's answers are drawn; ``student`` is its own sampling."""
        ...

    def scores(self, exchanges: Sequence[Exchange], judged: Mapping[Place, Judged]) -> list[Score]:
        """All figures of one student; a judgment that is not there has failed."""
        ...

    def values(self, exchanges: Sequence[Exchange], judged: Mapping[Place, Judged]) -> dict[str, ItemValues]:
        """What each headline is made of, by metric: for a comparison of two students on the same questions."""
        ...


class JudgedOne(Benchmark, Protocol):
    """A benchmark whose answers a judge is asked about."""

    def items(self) -> pl.DataFrame:
        """The questions with what belongs to them, ``ITEMS``.

        Raises:
            ConfigError: a file is wrong, or lacks what another one asks for.
        """
        ...

    def games(self, exchange: Exchange, prompts: Mapping[str, Prompt]) -> list[Game]:
        """Every judgment on one question."""
        ...

    def read(self, game: Game, text: str, logprobs: Mapping[str, float]) -> Reading | Unparsed:
        """What a reply says; ``logprobs`` are those of its first token, none where none came."""
        ...


def items_table(rows: Iterable[tuple[object, ...]]) -> pl.DataFrame:
    """Rows as ``ITEMS``."""
    return pl.DataFrame(list(rows), schema=ITEMS, orient="row")


def exchanges_of(items: pl.DataFrame, answers: pl.DataFrame) -> list[Exchange]:
    """Questions (``ITEMS``) with a student's answers (question_id, turn, response), in the order of ``items``.

    Blanks around an answer and around a baseline's are left out: they are no part of either side's length.
    """
    given = {
        (question, turn): text for question, turn, text in answers.select("question_id", "turn", "response").rows()
    }
    found: dict[str, list[Turn]] = {}
    for row in items.iter_rows(named=True):
        replies = (row["baseline"], given.get((row["question_id"], row["turn"])))
        baseline, response = (None if text is None else text.strip() for text in replies)
        found.setdefault(row["question_id"], []).append(Turn(row["question"], row["reference"], baseline, response))
    categories = dict(items.select("question_id", "category").rows())
    return [Exchange(name, categories[name], tuple(turns)) for name, turns in found.items()]


def failed(exchange: Exchange, turn: int, mode: str, order: Order, reason: str) -> Game:
    """A judgment that cannot be asked for."""
    return Game(exchange.question_id, exchange.category, turn, mode, order, None, reason=reason)


def settled(exchange: Exchange, turn: int, mode: str, order: Order, reading: Reading) -> Game:
    """A judgment that nobody has to be asked for."""
    return Game(exchange.question_id, exchange.category, turn, mode, order, None, reading=reading)


def score(metric: str, found: Figure, category: str = ALL, note: str = "", failures: str = "") -> Score:
    """A figure as a row; what it says of itself stands behind ``note``, which says nothing where there is no figure.

    Last come the ``failures``, in words.
    """
    told = (note if found.estimate.value is not None else "", found.estimate.why, failures)
    return Score(category, metric, found.estimate, found.n_failed, "; ".join(filter(None, told)))


def withhold_categories(scores: Iterable[Score]) -> list[Score]:
    """The same figures, but none of a category where too much failed for that of the whole.

    Failures are no random sample: a category that seems to have been spared is no safer to read than the rest.
    """
    found = list(scores)
    none = {each.metric: each.estimate.why for each in found if each.category == ALL and each.estimate.value is None}
    return [
        replace(each, estimate=Estimate(None, each.estimate.n, why=why), note=why)
        if each.estimate.value is not None and (why := none.get(each.metric))
        else each
        for each in found
    ]


def mean_value(values: Sequence[float | None]) -> float | None:
    """The mean; None where one failed."""
    kept = [value for value in values if value is not None]
    return math.fsum(kept) / len(kept) if kept and len(kept) == len(values) else None


def in_percent(share: Figure) -> Figure:
    """A figure of shares (0-1) in per cent."""
    found = share.estimate
    value, low, high, stderr = (
        None if each is None else 100 * each for each in (found.value, found.low, found.high, found.stderr)
    )
    return replace(share, estimate=replace(found, value=value, low=low, high=high, stderr=stderr))


def position_note(favoured: str | None) -> str:
    """The flag of a judge that favours a position; empty where it favours none, or too little is there to tell."""
    return f"position bias: favours the answer shown {favoured}" if favoured in ("first", "second") else ""
