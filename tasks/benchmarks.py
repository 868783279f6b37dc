"""Stages `benchmark_items` and `benchmark_scores`: what a benchmark asks, what the judgments of one come to."""

from dataclasses import replace

import polars as pl

from tapir_core.benchmark_fields import outputs as outputs_file
from tapir_core.data.fetched import file_ingredient
from tapir_core.evaluation.benchmarks import (
    DIGITS,
    benchmark_of,
    exchanges_of,
    judged_one,
    judged_places,
    score_rows,
)
from tapir_core.run_folder import RunFolder
from tapir_core.stages import StageAt
from tasks._task import stage_task
from tasks.benchmark_marks import harness_questions
from tasks.ingredients import check_benchmark_files
from tasks.inputs import read_once
from tasks.outcomes import Worked
from tasks.runtime import current

__all__ = ["benchmark_items", "benchmark_scores", "items_of"]


@stage_task("benchmark_items")
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


@stage_task("benchmark_scores")
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
        score_rows(run.config, name, scores, prompts, replies, outputs=_outputs(run, at), files=_files(run, name))
    )


def _outputs(run: RunFolder, at: StageAt) -> str:
    """The model whose outputs are a file, and the file's digest; nothing for a student."""
    if at.model is None:
        return ""
    [file] = outputs_file(run.config, at)
    return f"{at.model}, from a file (SHA-256 {run.record.ingredients[file][:DIGITS]})"


def _files(run: RunFolder, name: str) -> dict[str, str]:
    """Field → SHA-256 of every file and folder that a benchmark reads."""
    asked = run.config.evaluation.asked[name]
    fields = ["questions", *(field for field, path in {**asked.files, **asked.folders}.items() if path)]
    return {field: run.record.ingredients[file_ingredient(name, field)] for field in fields}
