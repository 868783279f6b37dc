"""Stage `teach`: the teacher's plain answers to the pool, y ← T(x)."""

import polars as pl

from tapir_core.calls import Outcome
from tapir_core.run_folder import RunFolder
from tapir_core.stages import TEACH, StageAt
from tasks._task import shard_task
from tasks.asking import Watch, answer_rows, chat, demand_whole, make_request
from tasks.label import pool_rows
from tasks.outcomes import Worked
from tasks.runtime import current


@shard_task(TEACH, plan=pool_rows)
def teach_shard(run: RunFolder, at: StageAt, rows: pl.DataFrame) -> Worked:
    """Plain answers to some instructions; a refused or failed one keeps its row and is unusable later."""
    return answer_rows(rows, ask_teacher(run, at, rows), demand_whole)


def ask_teacher(run: RunFolder, at: StageAt, rows: pl.DataFrame) -> list[Outcome]:
    """Ask the teacher for a plain answer to each row (columns instruction, system)."""
    runtime, watch = current(run), Watch(run, at, demand_whole)
    requests = [
        make_request(run, "teach", runtime.teacher.voice, chat(instruction, system), run.config.teacher.answering)
        for instruction, system in rows.select("instruction", "system").iter_rows()
    ]
    return runtime.calls.ask(requests, runtime.teacher.source, on_outcome=watch.on_outcome, is_stopped=watch.is_stopped)
