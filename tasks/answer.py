"""Stages `answer`, `answer_heldout` and `evaluate`: what the student answers, ỹ ← S(x), and its held-out scores."""

import polars as pl

from tapir_core.calls import Outcome
from tapir_core.evaluation.scores import score_answers
from tapir_core.run_folder import RunFolder
from tapir_core.stages import ANSWER, ANSWER_HELDOUT, EVALUATE, StageAt
from tasks._task import shard_task, stage_task
from tasks.asking import answer_rows, ask_plainly
from tasks.outcomes import Worked
from tasks.pool import round_pool
from tasks.runtime import current, read_once


@read_once
def heldout_rows(run: RunFolder, _: StageAt) -> pl.DataFrame:
    """The held-out set, sorted by id."""
    return run.rows(StageAt("heldout")).sort("instruction_id")


def pool_at(run: RunFolder, at: StageAt) -> pl.DataFrame:
    """The pool of the round."""
    return round_pool(run, at.number)


@shard_task(ANSWER, plan=pool_at)
def answer_shard(run: RunFolder, at: StageAt, rows: pl.DataFrame) -> Worked:
    """Answers of S_{r−1} to some instructions of the round's pool."""
    outcomes = ask_student(run, at, at.number - 1, rows)
    return answer_rows(rows, outcomes)


@shard_task(ANSWER_HELDOUT, plan=heldout_rows)
def answer_heldout_shard(run: RunFolder, at: StageAt, rows: pl.DataFrame) -> Worked:
    """Answers of S_r (or of the untouched backbone) to some held-out instructions."""
    outcomes = ask_student(run, at, at.number, rows)
    return answer_rows(rows, outcomes)


@stage_task(EVALUATE)
def evaluate(run: RunFolder, at: StageAt) -> Worked:
    """Scores of the student after the round, from its stored answers."""
    questions, answers = run.rows(StageAt("heldout")), run.rows(StageAt("answer_heldout", at.round))
    scores = score_answers(questions, answers, f"student: {run.config.student.sampling.in_words}")
    return Worked(scores, {"missing": questions.height - answers.height})


def ask_student(run: RunFolder, at: StageAt, checkpoint: int, rows: pl.DataFrame) -> list[Outcome]:
    """Ask the student after round ``checkpoint`` for an answer to each row (columns instruction, system)."""
    return ask_plainly(run, at, "answer", current(run).student(checkpoint), run.config.student.sampling, rows)
