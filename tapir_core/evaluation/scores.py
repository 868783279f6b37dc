"""Judgments of a benchmark and marks of the held-out set as they are kept, and the figures made of them, as rows. Pure.

Grain: a `Judgment` is one row of a benchmark's ``replies/``, an `Estimate` one of its ``scores/``. Failures are counted
in questions, whatever a figure counts: a question is in it once for each reason.

The held-out set is what scores, gains and comparisons of arms are made of. One of its instructions without an answer
(one that failed for good, or that the run went on without) is neither right nor wrong: it is counted, and no part of an
accuracy. Of the judged set the instructions that are scored count (`tapir_core.run_state.compare_answers`); lengths are
in characters, of the same instructions.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import polars as pl

from tapir_core import statistics, text, verifiers
from tapir_core.config import ACCURACY, LENGTHS, NATURAL, RETENTION, SAME_CALLS, WIN_RATE, RunConfig
from tapir_core.judging.agreement import NO_TASK_TYPE, favoured_position
from tapir_core.stages import EVALUATE

ALL = "all"
"""Category of the whole, as in ``scores/``."""

SCORE_RATIO = "score_ratio"
"""Metric of the judged held-out set: the student's score over the teacher's."""

Scores = Mapping[tuple[str, str], statistics.Estimate]
"""Category and metric → figure, in the order of the rows. Its note tells a bias, what it rests on, what failed."""

NO_ANSWER, NO_BASELINE = "there is no answer", "the baseline has no answer"
"""Why a judgment has failed that nobody can be asked for: whose answer is not there."""

Order = Literal["model_first", "baseline_first", "single"]

ItemValues = dict[str, float | None]
"""Question → its value, over its turns and orders; None where one of them failed."""

Place = tuple[str, int, str, Order]
"""Question, turn, mode and order of a judgment."""

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


def judgments_of(replies: pl.DataFrame) -> dict[Place, Judgment]:
    """The judgments of a benchmark's ``replies/``."""
    said = pl.when(status="failed").then("raw").otherwise(pl.lit("")).alias("said")
    rows = replies.select(
        "question_id", "turn", "mode", "order", "value", "baseline_value", "how", "reason", said
    ).rows()
    return {(question, turn, mode, order): Judgment(*found) for question, turn, mode, order, *found in rows}


def by_question(values: Mapping[tuple[str, Any], float | None]) -> ItemValues:
    """Question → the mean of its values, which are told apart by what stands behind it (a turn, an order)."""
    by_id = statistics.grouped((question, value) for (question, _), value in values.items())
    return {question: statistics.mean_value(of) for question, of in by_id.items()}


def withhold_categories(scores: Scores, failures: str = "") -> Scores:
    """The same figures, but none of a category where too much failed for that of the whole.

    Failures are no random sample: a category that seems to have been spared is no safer to read than the rest. The
    first figure says what failed: the ``failures`` in words.
    """
    why = {metric: each.note for (category, metric), each in scores.items() if category == ALL and each.value is None}
    found = {
        (category, metric): statistics.Estimate(None, n=each.n, failed=each.failed, note=why[metric])
        if each.value is not None and metric in why
        else each
        for (category, metric), each in scores.items()
    }
    if failures:
        first = next(iter(found))
        found[first] = replace(found[first], note="; ".join(filter(None, (found[first].note, failures))))
    return found


def scores_table(scores: Scores, benchmark: str, split: str, *beside: str) -> pl.DataFrame:
    """``scores/`` of these figures; ``beside`` are the judge, the prompts' versions and the settings of every row."""
    rows = [
        (benchmark, split, *of, each.value, each.stderr, each.n, each.low, each.high, each.failed, each.note, *beside)
        for of, each in scores.items()
    ]
    return pl.DataFrame(rows, schema=EVALUATE.columns, orient="row")


def position_note(gain: statistics.Estimate) -> str:
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
    if marks is None:
        references = questions.select("instruction_id", "reference").drop_nulls("reference")
        known = answers.drop_nulls("response").join(references, on="instruction_id")
        correct = [verifiers.is_correct(*pair) for pair in known.select("response", "reference").iter_rows()]
        marks = known.with_columns(correct=pl.Series(correct, dtype=pl.Boolean))
    return questions.join(
        marks.select("instruction_id", "correct"), on="instruction_id", how="left", maintain_order="left"
    ).select("instruction_id", "split", "task_type", "correct")


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

    def figures(rows: pl.DataFrame, category: str) -> dict[str, statistics.Estimate]:
        found = {ACCURACY: statistics.estimate_marks(rows["correct"].to_list())}
        if category != ALL or not weights:
            return found
        pairs = [
            None if mark is None else (weights[item] * mark, weights[item])
            for item, mark in rows.select("instruction_id", "correct").iter_rows()
        ]
        return {**found, NATURAL: statistics.estimate_ratio(pairs, scale=statistics.SHARE, unit="answers")}

    return _figures_of_splits(
        grade_answers(questions, answers, marks),
        figures,
        *("heldout", f"verifier {verifier}" if verifier else _RULE, "", settings),
    )


def score_judged(
    compared: pl.DataFrame, *, judge: str, prompt_version: str, settings: str, max_failed_share: float
) -> pl.DataFrame:
    """Quality retention, win rate, score ratio and lengths of the judged held-out set, as `score_answers` has them.

    Args:
        compared: what `compare_answers` gives.
        judge: who judged.
        prompt_version: of the judge's prompt.
        settings: how the answers were drawn and shown, in words.
        max_failed_share: share of unscored instructions of a split above which it has no figure.
    """
    unit = "instructions"
    mean = partial(statistics.estimate_mean, max_failed_share=max_failed_share, unit=unit)

    def figures(rows: pl.DataFrame, _category: str) -> dict[str, statistics.Estimate]:
        pairs = [
            None if student is None else (student, teacher)
            for student, teacher in rows.select("student_score", "teacher_score").iter_rows()
        ]
        called = rows[SAME_CALLS].drop_nulls()
        return {
            **{metric: mean(rows[metric].to_list(), scale=statistics.SHARE) for metric in (RETENTION, WIN_RATE)},
            SCORE_RATIO: statistics.estimate_ratio(pairs, max_failed_share=max_failed_share, unit=unit),
            **{metric: mean(rows[metric].to_list()) for metric in LENGTHS},
            **({SAME_CALLS: mean(called.to_list(), scale=statistics.SHARE)} if called.len() else {}),
        }

    return _figures_of_splits(compared, figures, "judged_heldout", judge, prompt_version, settings)


def judges_in_words(config: RunConfig) -> str:
    """Who judges; a judge that is the teacher itself is said to be."""
    names = " and ".join(config.judge.all_names)
    return f"{names} (the teacher, which judges its own answers)" if config.judges_itself else names


def _figures_of_splits(
    rows: pl.DataFrame,
    figures: Callable[[pl.DataFrame, str], Mapping[str, statistics.Estimate]],
    benchmark: str,
    *beside: str,
) -> pl.DataFrame:
    """``scores/`` of a held-out set: the ``figures`` of every split and of each task type in it, by metric.

    ``rows`` have split and task_type, and what figures are made of; ``figures`` are of some of them, and of a task type
    or `ALL`.
    """
    rows, found = (
        rows.with_columns(pl.col("task_type").fill_null(NO_TASK_TYPE)),
        [pl.DataFrame(schema=EVALUATE.columns)],
    )
    for (split,), of_split in sorted(rows.group_by("split")):
        categories = {ALL: of_split} | {str(name): of for (name,), of in sorted(of_split.group_by("task_type"))}
        made = {(name, metric): each for name, of in categories.items() for metric, each in figures(of, name).items()}
        found.append(scores_table(withhold_categories(made), benchmark, str(split), *beside))
    return pl.concat(found)


def failures_in_words(
    judged: Mapping[Place, Judgment], *, field: str = "", baseline: str = "", logprobs: int = 0
) -> str:
    """The failed judgments by reason, counted in questions; empty where no reason is known.

    Args:
        judged: The judgments.
        field: Of the configuration, which has the benchmark; named where a setting of it is the remedy.
        baseline: Whose answers stand against the student's.
        logprobs: Log-probabilities that the judge was asked for.
    """
    reasons: dict[str, dict[str, str]] = {}
    for (question, *_), each in judged.items():
        if each.value is None and each.reason:
            reasons.setdefault(each.reason, {}).setdefault(question, each.said)
    told = []
    for reason, questions in reasons.items():
        if reason in (NO_ANSWER, NO_BASELINE):
            whose = f"the baseline, {baseline}, has no answer" if reason == NO_BASELINE else reason
            told.append(f"{whose} to {_counted(questions)} ({text.first_few(questions, 5)})")
        else:
            refused = logprobs and any(_OF_LOGPROBS.search(each) for each in questions.values())
            remedy = f" (an endpoint that gives no log-probabilities: set {field}.top_logprobs = 0)" if refused else ""
            said = next((f", {text.shorten(each, 160)!r}" for each in questions.values() if each), "")
            told.append(f"{_counted(questions)}: {reason}{said}{remedy}")
    return f"failed: {'; '.join(told)}" if told else ""


def _counted(questions: Mapping[str, str]) -> str:
    return f"{len(questions)} question{'s' if len(questions) != 1 else ''}"
