"""Stages `benchmark_items` and `benchmark_scores`: what a benchmark asks, what the judgments of one come to."""

from dataclasses import replace

import polars as pl

from tapir_core.benchmark_fields import item_files
from tapir_core.benchmark_fields import outputs as outputs_file
from tapir_core.evaluation.benchmarks import benchmark_of, exchanges_of, judged_one, judged_places, score_rows
from tapir_core.run_folder import RunFolder
from tapir_core.stages import BENCHMARK_ITEMS, BENCHMARK_SCORES, StageAt
from tasks._task import stage_task
from tasks.benchmark_marks import harness_questions
from tasks.ingredients import check_benchmark_files
from tasks.inputs import read_once
from tasks.outcomes import Worked
from tasks.runtime import current

__all__ = ["benchmark_items", "benchmark_scores", "items_of"]


@stage_task(BENCHMARK_ITEMS)
def benchmark_items(run: RunFolder, at: StageAt) -> Worked:
    """Read the files of a benchmark; lm-evaluation-harness reads its own."""
    name = at.benchmark_name
    check_benchmark_files(run, name)
    judged = name in run.config.evaluation.judged
    return Worked(judged_one(run.kept_config, name).items() if judged else harness_questions(run, at))


@read_once
def items_of(run: RunFolder, name: str) -> pl.DataFrame:
    """The questions of a benchmark with what belongs to them."""
    return run.rows(StageAt("benchmark_items", benchmark=name))


@stage_task(BENCHMARK_SCORES)
def benchmark_scores(run: RunFolder, at: StageAt) -> Worked:
    """Figures of one student, with what stands beside them."""
    name = at.benchmark_name
    check_benchmark_files(run, name, run.config.evaluation.asked[name].read_for_figures)
    answers, replies = (run.rows(replace(at, name=stage)) for stage in ("benchmark_answers", "benchmark_replies"))
    exchanges = exchanges_of(items_of(run, name), answers)
    scores = benchmark_of(run.kept_config, name).scores(exchanges, judged_places(replies))
    judged = run.config.evaluation.judged.get(name)
    prompts = {each: current(run).prompt(each) for each in (judged.prompts if judged else ())}
    return Worked(
        score_rows(run.config, name, scores, prompts, replies, outputs=_outputs(run, at), files=_files(run, at))
    )


def _outputs(run: RunFolder, at: StageAt) -> tuple[str, str] | None:
    """The model whose outputs are a file, and the file's SHA-256; nothing for a student."""
    if at.model is None:
        return None
    [file] = outputs_file(run.config, at)
    return at.model, run.record.ingredients[file]


def _files(run: RunFolder, at: StageAt) -> dict[str, str]:
    """Field → SHA-256 of every file and folder that a benchmark reads."""
    named = {each: each.split(":", 2) for each in item_files(run.config, at)}
    return {field: run.record.ingredients[each] for each, (kind, field, _) in named.items() if kind == "file"}
