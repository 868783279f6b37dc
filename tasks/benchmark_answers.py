"""Stage `benchmark_answers`: what a student answers to a benchmark's questions, turn after turn.

A later turn is asked with the earlier ones and the student's own answers to them before it. A model of a file has
answered already, and nobody is asked.
"""

from collections.abc import Sequence
from typing import NamedTuple

import polars as pl

from tapir_core.calls import Answer, Failure, Message, Outcome
from tapir_core.evaluation.benchmarks import benchmark_of, given_answers
from tapir_core.run_folder import RunFolder
from tapir_core.stages import BENCHMARK_ANSWERS, StageAt
from tasks._task import shard_task
from tasks.asking import ANSWER_COLUMNS, answer_cells, count_paid, make_request, worked
from tasks.benchmarks import items_of
from tasks.ingredients import check_benchmark_files
from tasks.inputs import read_once
from tasks.outcomes import Worked
from tasks.runtime import current

__all__ = ["asked_questions", "benchmark_answers_shard"]


class _Asked(NamedTuple):
    """One turn that was asked."""

    question_id: str
    turn: int
    text: str
    outcome: Outcome


@read_once
def asked_questions(run: RunFolder, at: StageAt) -> pl.DataFrame:
    """One row a question: question_id, category, turns (list of texts), so that a shard has all turns of its own."""
    by_question = items_of(run, at.benchmark_name).group_by("question_id", "category", maintain_order=True)
    return by_question.agg(turns=pl.col("question"))


@shard_task(BENCHMARK_ANSWERS, plan=asked_questions)
def benchmark_answers_shard(run: RunFolder, at: StageAt, rows: pl.DataFrame) -> Worked:
    """Answers of S_r (or of the untouched backbone, or of a model's file) to some questions."""
    if at.model is not None:
        return _given(run, at, rows)
    said: dict[str, tuple[Message, ...]] = dict.fromkeys(rows["question_id"], ())
    asked: list[_Asked] = []
    count = current(run).progress.row_counter(at)
    for turn in range(1, max(map(len, rows["turns"]), default=0) + 1):
        waiting = [row for row in rows.rows() if len(row[2]) >= turn and row[0] in said]
        prompts = [(*said[name], Message("user", turns[turn - 1])) for name, _, turns in waiting]
        outcomes = _ask(run, at, [category for _, category, _ in waiting], prompts)
        for (name, _, turns), messages, outcome in zip(waiting, prompts, outcomes, strict=True):
            asked.append(_Asked(name, turn, turns[turn - 1], outcome))
            if isinstance(outcome, Answer) and turn < len(turns):
                said[name] = (*messages, Message("assistant", outcome.text))
                continue
            del said[name]
            count(missing=isinstance(outcome, Failure) and outcome.retryable)
    return _worked(asked)


@read_once
def _given_to_all(run: RunFolder, at: StageAt) -> pl.DataFrame:
    """What a model's file has to all questions."""
    assert at.model is not None
    name = at.benchmark_name
    check_benchmark_files(run, name, [f"outputs.{at.model}"])
    return given_answers(name, at.model, run.kept_config.evaluation.judged[name], items_of(run, name))


def _given(run: RunFolder, at: StageAt, rows: pl.DataFrame) -> Worked:
    count = current(run).progress.row_counter(at)
    given = _given_to_all(run, at).filter(pl.col("question_id").is_in(rows["question_id"].implode()))
    for _ in range(rows.height):
        count()
    made = given.with_columns(prompt_tokens=pl.lit(0, pl.Int64), completion_tokens=pl.lit(0, pl.Int64))
    return Worked(made, {"given": made["response"].count(), "not given": made["response"].null_count()})


def _ask(
    run: RunFolder, at: StageAt, categories: Sequence[str], prompts: Sequence[tuple[Message, ...]]
) -> list[Outcome]:
    runtime, benchmark = current(run), benchmark_of(run.config, at.benchmark_name)
    student, own = runtime.student(at.number), run.config.student.sampling
    requests = [
        make_request(run, "answer", student.voice, messages, benchmark.answering(category, own))
        for category, messages in zip(categories, prompts, strict=True)
    ]
    return runtime.calls.ask(requests, student.source)


def _worked(asked: Sequence[_Asked]) -> Worked:
    """A terminal failure keeps its row without a response; what another try may bring has none."""
    rows = [
        (each.question_id, each.turn, *answer_cells(each.outcome))
        for each in asked
        if isinstance(each.outcome, Answer) or not each.outcome.retryable
    ]
    outcomes = [each.outcome for each in asked]
    shown = [(f"{each.question_id}, turn {each.turn}", each.text) for each in asked]
    return worked(
        pl.DataFrame(rows, schema={"question_id": pl.String, "turn": pl.Int64, **ANSWER_COLUMNS}, orient="row"),
        count_paid(outcomes),
        pl.DataFrame(shown, schema={"instruction_id": pl.String, "instruction": pl.String}, orient="row"),
        outcomes,
    )
