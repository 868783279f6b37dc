"""Stage `refine`: the teacher rewrites the answers of hard_r in the style that their task type needs."""

from collections import Counter

import polars as pl

from tapir_core.calls import Failure
from tapir_core.curriculum import (
    refinement_problem,
    refinement_prompt_name,
    render_refinement,
)
from tapir_core.curriculum.tables import REFINEMENT
from tapir_core.run_folder import RunFolder
from tapir_core.stages import REFINE, StageAt, drawn_at
from tasks._task import shard_task
from tasks.asking import Watch, chat, count_paid, demand_whole, ending_of, make_request, text_of, worked
from tasks.inputs import read_once, round_pool
from tasks.outcomes import Worked
from tasks.runtime import current


@read_once
def hard_rows(run: RunFolder, at: StageAt) -> pl.DataFrame:
    """The rows of hard_r with their texts and plain answers, by id; none when refinement is off."""
    drawn = run.rows(drawn_at(run.config, at)).filter(pl.col("origin") != "easy").select("instruction_id", "task_type")
    texts = round_pool(run, at.number + 1).drop("task_type")
    rows = drawn.join(texts, on="instruction_id", maintain_order="left")
    return rows if run.config.curriculum.refine else rows.clear()


@shard_task(REFINE, plan=hard_rows)
def refine_shard(run: RunFolder, at: StageAt, rows: pl.DataFrame) -> Worked:
    """Refined answers of some of hard_r. One that loses the plain answer's final result is kept but not accepted."""
    runtime, watch = current(run), Watch(run, at, demand_whole)
    prompts = {name: runtime.prompt(name) for name in map(refinement_prompt_name, rows["task_type"].unique())}
    requests = []
    for row in rows.iter_rows(named=True):
        prompt = prompts[refinement_prompt_name(row["task_type"])]
        text = render_refinement(prompt, row["instruction"], row["system"], row["response"])
        voice, sampling = runtime.teacher.voice, run.config.teacher.refining
        requests.append(make_request(run, "refine", voice, chat(text), sampling, prompt=prompt))
    outcomes = runtime.calls.ask(
        requests, runtime.teacher.source, on_outcome=watch.on_outcome, is_stopped=watch.is_stopped
    )
    table: list[tuple[object, ...]] = []
    reasons: Counter[str] = Counter()
    for row, outcome in zip(rows.iter_rows(named=True), outcomes, strict=True):
        if isinstance(outcome, Failure) and outcome.retryable:
            continue
        refined = text_of(outcome)
        problem = refinement_problem(row["response"], refined, row["task_type"], ending_of(outcome))
        reasons[f"refined_{problem or 'accepted'}"] += 1
        plain = row["response"]
        table.append((row["instruction_id"], row["task_type"], plain, refined, problem is None, problem))
    frame = pl.DataFrame(table, schema=REFINEMENT, orient="row")
    return worked(frame, {**count_paid(outcomes), **reasons}, rows, list(map(demand_whole, outcomes)))
