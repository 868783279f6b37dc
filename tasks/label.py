"""Stage `label`: the teacher names the task type of every instruction of the pool."""

from collections import Counter

import polars as pl

from tapir_core.calls import Parsed, ask_parsed
from tapir_core.curriculum import parse_label, render_label
from tapir_core.run_folder import RunFolder
from tapir_core.stages import LABEL, StageAt
from tasks._task import shard_task
from tasks.asking import Watch, chat, counts_of, make_request, worked
from tasks.inputs import read_once
from tasks.outcomes import Worked
from tasks.runtime import current


@read_once
def pool_rows(run: RunFolder, _: StageAt) -> pl.DataFrame:
    """The pool, sorted by id."""
    return run.rows(StageAt("pool")).sort("instruction_id")


@shard_task(LABEL, plan=pool_rows)
def label_shard(run: RunFolder, at: StageAt, rows: pl.DataFrame) -> Worked:
    """Task types of some instructions; one that the teacher refuses or garbles has none, and leaves the pool."""
    parsed = ask_labels(run, at, rows["instruction"].to_list())
    pairs = zip(rows["instruction_id"], parsed, strict=True)
    labels = [(instruction_id, each.value) for instruction_id, each in pairs if not each.retryable]
    frame = pl.DataFrame(labels, schema={"instruction_id": pl.String, "task_type": pl.String}, orient="row")
    reasons = Counter(f"unlabelled_{each.reason}" for each in parsed if each.value is None and not each.retryable)
    return worked(frame, {**counts_of(parsed), **reasons}, rows, [each.settled for each in parsed])


def ask_labels(run: RunFolder, at: StageAt, instructions: list[str]) -> list[Parsed[str]]:
    """Ask the teacher for the task type of each instruction."""
    runtime, teacher, watch = current(run), run.config.teacher, Watch(run, at)
    prompt = runtime.prompt("label")
    requests = [
        make_request(
            run,
            "label",
            runtime.teacher.voice,
            chat(render_label(prompt, each)),
            teacher.labelling,
            prompt=prompt,
        )
        for each in instructions
    ]
    return ask_parsed(
        runtime.calls,
        requests,
        runtime.teacher.source,
        parse_label,
        teacher.reasks,
        on_outcome=watch.on_outcome,
        is_stopped=watch.is_stopped,
        first=watch.first,
    )
