"""Judgments of a benchmark and marks of the held-out set as they are kept, and the figures made of them, as rows. Pure.

Grain: a `Judgment` is one row of a benchmark's ``replies/``, a `Score` one of its ``scores/``. Failures are counted in
questions, whatever a figure counts: a question is in it once for each reason.

The held-out set is what scores, gains and comparisons of arms are made of. One of its instructions without an answer
(one that failed for good, or that the run went on without) is neither right nor wrong: it is counted, and no part of an
accuracy.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import polars as pl

from tapir_core.config import ACCURACY, LENGTHS, NATURAL, RETENTION, WIN_RATE, RunConfig
from tapir_core.evaluation.statistics import (
    ALL,
    SHARE,
    Figure,
    mean_figure,
    mean_value,
    ratio_figure,
    share_figure,
)
from tapir_core.judging.estimates import NO_TASK_TYPE, Estimate, favoured_position
from tapir_core.stages import EVALUATE
from tapir_core.text import first_few, shorten
from tapir_core.verifiers import is_correct

SCORE_RATIO = "score_ratio"
"""Of a judged held-out set: the student's scores ÷ the teacher's."""

NO_ANSWER, NO_BASELINE = "there is no answer", "the baseline has no answer"
"""Why a judgment has failed that nobody can be asked for: whose answer is not there."""

Order = Literal["model_first", "baseline_first", "single"]

ItemValues = dict[str, float | None]
"""Question → its value, over its turns and orders; None where one of them failed."""

Place = tuple[str, int, str, Order]
"""Question, turn, mode and order of a judgment."""

_LISTED = 5
_LONGEST_SAID = 160

_RULE = "exact match of the final result"
"""What stands in the place of a judge of the held-out set; it is asked as it is, so a prompt's version is empty."""
_OF_LOGPROBS = re.compile("log.?prob", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Judgment:
    """What a judge's reply comes to, as the benchmark counts it; its values are nothing where it failed."""

    value: float | None = None
    baseline_value: float | None = None
    """Of the baseline's answer, where a reply scores both."""
    how: str = ""
    """What it was read from, where that differs from reply to reply."""
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
        """As a row of ``scores/``, with what stands beside it."""
        found = self.estimate
        figure = (found.value, found.stderr, found.n, found.low, found.high, self.n_failed, self.note)
        return (benchmark, split, self.category, self.metric, *figure, judge, prompt_version, settings)


def judgments_of(replies: pl.DataFrame) -> dict[Place, Judgment]:
    """The judgments of a benchmark's ``replies/``."""
    places = replies.select("question_id", "turn", "mode", "order").rows()
    said = pl.when(status="failed").then("raw").otherwise(pl.lit("")).alias("said")
    values = replies.select("value", "baseline_value", "how", "reason", said).rows()
    return {place: Judgment(*found) for place, found in zip(places, values, strict=True)}


def by_question(values: Mapping[tuple[str, Any], float | None]) -> ItemValues:
    """Question → the mean of its values, which are told apart by what stands behind it (a turn, an order)."""
    found: dict[str, list[float | None]] = {}
    for (question, _), value in values.items():
        found.setdefault(question, []).append(value)
    return {question: mean_value(of) for question, of in found.items()}


def score(metric: str, found: Figure, category: str = ALL, failures: str = "") -> Score:
    """A figure as a row: its note, where there is a figure, why it lacks something, and the ``failures`` in words."""
    told = (found.note if found.estimate.value is not None else "", found.estimate.why, failures)
    return Score(category, metric, found.estimate, found.n_failed, "; ".join(filter(None, told)))


def withhold_categories(scores: Sequence[Score]) -> list[Score]:
    """The same figures, but none of a category where too much failed for that of the whole.

    Failures are no random sample: a category that seems to have been spared is no safer to read than the rest.
    """
    none = {each.metric: each.estimate.why for each in scores if each.category == ALL and each.estimate.value is None}
    return [
        replace(each, estimate=Estimate(None, each.estimate.n, why=why), note=why)
        if each.estimate.value is not None and (why := none.get(each.metric))
        else each
        for each in scores
    ]


def position_note(gain: Estimate) -> str:
    """The flag of a judge that favours a position; empty where it favours none, or too little is there to tell.

    ``gain`` is what standing first is worth.
    """
    favoured = favoured_position(gain)
    return f"position bias: favours the answer shown {favoured}" if favoured in ("first", "second") else ""


def grade_answers(questions: pl.DataFrame, answers: pl.DataFrame, marks: pl.DataFrame | None = None) -> pl.DataFrame:
    """One row a held-out instruction, right, wrong or without an answer.

    Args:
        questions: instruction_id, task_type, reference (null where a verifier marks without), split.
        answers: instruction_id, response (null where it failed for good).
        marks: instruction_id, correct, as a verifier says it; nothing where the exact final result is what counts.

    Returns:
        instruction_id, split, task_type, correct (null without an answer or what tells); in the order of ``questions``.
    """
    columns = ["instruction_id", "split", "task_type", "correct"]
    if marks is not None:
        marked = marks.select("instruction_id", "correct")
        return questions.join(marked, on="instruction_id", how="left", maintain_order="left").select(columns)
    rows = questions.join(
        answers.select("instruction_id", "response"), on="instruction_id", how="left", maintain_order="left"
    )
    pairs = rows.select("response", "reference").iter_rows()
    correct = [
        None if None in (response, reference) else is_correct(response, reference) for response, reference in pairs
    ]
    return rows.with_columns(correct=pl.Series(correct, dtype=pl.Boolean)).select(columns)


def score_answers(
    questions: pl.DataFrame,
    answers: pl.DataFrame,
    settings: str,
    marks: pl.DataFrame | None = None,
    verifier: str = "",
    *,
    weights: Mapping[str, float] | None = None,
) -> pl.DataFrame:
    """Share of the answers with the right final result, or right to a verifier; Wilson's 95 % interval; ``scores/``.

    Grain: one row per split and category (`all`, or a task type); ``value``, ``stderr``, ``low`` and ``high`` are
    shares (0-1). Where too much of a split failed there is no figure, in no category either.

    Args:
        questions: as `grade_answers` takes them.
        answers: likewise.
        settings: how the answers were drawn, in words.
        marks: as `grade_answers` takes them.
        verifier: whose marks they are; empty without.
        weights: instruction_id → weight of a held-out instruction at natural shares. With them each split has a
            weighted share too, with the interval of a ratio's linearisation.
    """
    rule = f"verifier {verifier}" if verifier else _RULE
    graded = grade_answers(questions, answers, marks)

    def figures(rows: pl.DataFrame, category: str) -> dict[str, Figure]:
        found = {ACCURACY: share_figure(rows["correct"].to_list())}
        if category != ALL or not weights:
            return found
        marked = rows.select("instruction_id", "correct").rows()
        pairs = [None if mark is None else (weights[item] * mark, weights[item]) for item, mark in marked]
        return {**found, NATURAL: ratio_figure(pairs, scale=SHARE, unit="answers")}

    return _figures_of_splits(graded, figures, "heldout", rule, "", settings)


def score_judged(
    compared: pl.DataFrame, *, judge: str, prompt_version: str, settings: str, max_failed_share: float
) -> pl.DataFrame:
    """The figures of the judged held-out set: quality retention, win rate, score ratio, lengths in characters.

    Grain: one row a split, category (`all`, or a task type) and metric, with 95 % intervals. Means are over the
    instructions that are scored; others are counted, and in no figure.

    Args:
        compared: what `tapir_core.run_state.compare_answers` gives.
        judge: who judged.
        prompt_version: of the judge's prompt.
        settings: how the answers were drawn and shown, in words.
        max_failed_share: share of unscored instructions of a split above which it has no figure.
    """
    whose: dict[str, Any] = {"max_failed_share": max_failed_share, "unit": "instructions"}

    def figures(rows: pl.DataFrame, _category: str) -> dict[str, Figure]:
        scores = rows.select("student_score", "teacher_score").rows()
        pairs = [None if student is None else (student, teacher) for student, teacher in scores]
        return {
            **{name: mean_figure(rows[name].to_list(), scale=SHARE, **whose) for name in (RETENTION, WIN_RATE)},
            SCORE_RATIO: ratio_figure(pairs, **whose),
            **{name: mean_figure(rows[name].to_list(), **whose) for name in LENGTHS},
        }

    return _figures_of_splits(compared, figures, "judged_heldout", judge, prompt_version, settings)


def judges_in_words(config: RunConfig) -> str:
    """Who judges; a judge that is the teacher itself is said to be."""
    names = " and ".join(config.judge.all_names)
    return f"{names} (the teacher, which judges its own answers)" if config.judges_itself else names


def _figures_of_splits(
    rows: pl.DataFrame, figures: Callable[[pl.DataFrame, str], Mapping[str, Figure]], benchmark: str, *beside: str
) -> pl.DataFrame:
    """``scores/`` of a held-out set: metric → figure, of every split and of each task type in it.

    Args:
        rows: split, task_type and what ``figures`` are made of; one row an instruction.
        figures: of some of them, and whose they are: a task type, or `ALL`.
        benchmark: what the figures stand under.
        beside: judge, prompt_version and settings of every row.
    """
    rows, found = rows.with_columns(pl.col("task_type").fill_null(NO_TASK_TYPE)), list[tuple[object, ...]]()
    for (split,), of_split in sorted(rows.group_by("split")):
        categories = {ALL: of_split} | {str(name): of for (name,), of in sorted(of_split.group_by("task_type"))}
        made = [
            score(metric, each, name) for name, of in categories.items() for metric, each in figures(of, name).items()
        ]
        found += [each.row(benchmark, str(split), *beside) for each in withhold_categories(made)]
    return pl.DataFrame(found, schema=EVALUATE.columns, orient="row")


def failures_in_words(
    judged: Mapping[Place, Judgment], mode: str | None = None, *, field: str = "", baseline: str = "", logprobs: int = 0
) -> str:
    """The failed judgments by reason, counted in questions; empty where no reason is known.

    Args:
        judged: The judgments.
        mode: Those of one mode only.
        field: Of the configuration, which has the benchmark; named where a setting of it is the remedy.
        baseline: Whose answers stand against the student's.
        logprobs: Log-probabilities that the judge was asked for.
    """
    reasons: dict[str, dict[str, str]] = {}
    for (question, _, of, _), each in judged.items():
        if each.value is None and each.reason and mode in (None, of):
            reasons.setdefault(each.reason, {}).setdefault(question, each.said)
    told = []
    for reason, questions in reasons.items():
        if reason in (NO_ANSWER, NO_BASELINE):
            whose = f"the baseline, {baseline}, has no answer" if reason == NO_BASELINE else reason
            told.append(f"{whose} to {_counted(questions)} ({first_few(questions, _LISTED)})")
        else:
            refused = logprobs and any(_OF_LOGPROBS.search(each) for each in questions.values())
            remedy = f" (an endpoint that gives no log-probabilities: set {field}.top_logprobs = 0)" if refused else ""
            said = next((f", {shorten(each, _LONGEST_SAID)!r}" for each in questions.values() if each), "")
            told.append(f"{_counted(questions)}: {reason}{said}{remedy}")
    return f"failed: {'; '.join(told)}" if told else ""


def _counted(questions: Mapping[str, str]) -> str:
    return f"{len(questions)} question{'s' if len(questions) != 1 else ''}"
