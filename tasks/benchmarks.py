"""Stages `benchmark_items` and `benchmark_scores`: what a benchmark asks, what the judgments of a student come to."""

from collections.abc import Iterator

import polars as pl

from tapir_core.evaluation.benchmarks import SCORES, Judged, Place, Score, benchmark_of, exchanges_of
from tapir_core.run_folder import RunFolder
from tapir_core.stages import StageAt
from tapir_core.voices import benchmark_judge, voice_of
from tasks._task import stage_task
from tasks.inputs import read_once
from tasks.outcomes import Worked
from tasks.runtime import current

__all__ = ["benchmark_items", "benchmark_scores", "items_of"]

SPLIT = "test"
"""Figures of benchmarks are reported and read by no decision."""


@stage_task("benchmark_items")
def benchmark_items(run: RunFolder, at: StageAt) -> Worked:
    """Read the files of a benchmark."""
    return Worked(benchmark_of(run.config, _name(at)).items())


@read_once
def items_of(run: RunFolder, name: str) -> pl.DataFrame:
    """The questions of a benchmark with what belongs to them."""
    return run.rows(StageAt("benchmark_items", benchmark=name))


@stage_task("benchmark_scores")
def benchmark_scores(run: RunFolder, at: StageAt) -> Worked:
    """Figures of one student, with what stands beside them."""
    name = _name(at)
    answers, replies = (
        run.rows(StageAt(stage, at.round, benchmark=name)) for stage in ("benchmark_answers", "benchmark_replies")
    )
    scores = benchmark_of(run.config, name).scores(exchanges_of(items_of(run, name), answers), _judged(replies))
    return Worked(pl.DataFrame(list(_rows(run, name, scores)), schema=SCORES, orient="row"))


def _judged(replies: pl.DataFrame) -> dict[Place, Judged]:
    places = replies.select("question_id", "turn", "mode", "order").rows()
    values = replies.select("value", "baseline_value", "how").rows()
    return {place: Judged(*found) for place, found in zip(places, values, strict=True)}


def _rows(run: RunFolder, name: str, scores: list[Score]) -> Iterator[tuple[object, ...]]:
    settings = run.config.evaluation.asked[name]
    voice = voice_of(benchmark_judge(run.config, settings), "judge")
    prompts = ", ".join(f"{each} {current(run).prompt(each).version}" for each in settings.prompts)
    beside = (f"{voice.model} ({voice.identity})", prompts, _settings(run, name))
    for each in scores:
        found = each.estimate
        figure = (found.value, found.stderr, found.n, found.low, found.high, each.n_failed, each.note)
        yield (name, SPLIT, each.category, each.metric, *figure, *beside)


def _settings(run: RunFolder, name: str) -> str:
    """How both sides' replies were drawn, in words."""
    settings = run.config.evaluation.asked[name]
    asked = f", {settings.logprobs_asked} log-probabilities" if settings.logprobs_asked else ""
    student = settings.answering_in_words(run.config.student.sampling)
    return f"judge: {settings.sampling.in_words}{asked}; student: {student}"


def _name(at: StageAt) -> str:
    assert at.benchmark is not None
    return at.benchmark
