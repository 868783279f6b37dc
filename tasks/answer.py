"""Stages `answer` and `answer_heldout`: what the student answers, ỹ ← S(x)."""

import polars as pl

from tapir_core.calls import Outcome
from tapir_core.run_folder import RunFolder
from tapir_core.stages import ANSWER, ANSWER_HELDOUT, StageAt
from tasks._task import shard_task
from tasks.asking import Watch, answer_rows, chat, make_request
from tasks.inputs import read_once, round_pool
from tasks.outcomes import Worked
from tasks.runtime import current


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


def ask_student(run: RunFolder, at: StageAt, checkpoint: int, rows: pl.DataFrame) -> list[Outcome]:
    """Ask the student after round ``checkpoint`` for an answer to each row (columns instruction, system)."""
    runtime, watch = current(run), Watch(run, at)
    student = runtime.student(checkpoint)
    requests = [
        make_request(run, "answer", student.voice, chat(instruction, system), run.config.student.sampling)
        for instruction, system in rows.select("instruction", "system").iter_rows()
    ]
    return runtime.calls.ask(requests, student.source, on_outcome=watch.on_outcome, is_stopped=watch.is_stopped)
