"""Which parts of a benchmark's configuration, and which of its files, can change the rows of each of its stages.

Its configuration class says which fields shape what (`AskedBenchmark.shaping_of`). What holds for the stages of the run
itself stands in `stage_fields`.
"""

from typing import Any

from tapir_core.config import AskedBenchmark, RunConfig
from tapir_core.stage_at import StageAt
from tapir_core.stage_fields import student_fields

__all__ = ["answers", "asked", "item_files", "items", "outputs", "prompts", "replies", "score_files", "scores"]

Json = Any


def asked(config: RunConfig, at: StageAt) -> AskedBenchmark:
    """The benchmark that a stage belongs to."""
    return config.evaluation.asked[at.benchmark_name]


def items(config: RunConfig, at: StageAt) -> Json:
    """What kind of benchmark its files are read as."""
    return [at.benchmark, asked(config, at).shaping_of("items")]


def item_files(config: RunConfig, at: StageAt) -> list[str]:
    """All its files and folders, and the run whose student is its baseline, as ingredients."""
    settings = asked(config, at)
    named = [f"file:{field}:{at.benchmark}" for field in (*settings.files, *settings.folders)]
    runs = [f"run:baseline:{at.benchmark}"] if settings.baseline_run else []
    return [f"file:questions:{at.benchmark}", *named, *runs]


def answers(config: RunConfig, at: StageAt) -> Json:
    """How the student's answers are drawn; which student it is comes with the checkpoint.

    Nothing is known of how those of a file were drawn.
    """
    return "outputs" if at.model is not None else [student_fields(config), asked(config, at).shaping_of("answers")]


def outputs(_: RunConfig, at: StageAt) -> list[str]:
    """The file with a model's outputs, as an ingredient; none of a student."""
    return [] if at.model is None else [f"file:outputs.{at.model}:{at.benchmark}"]


def replies(config: RunConfig, at: StageAt) -> Json:
    """Who judges, and how; where nobody does, all that makes the questions and their marks."""
    judged, shaping = config.evaluation.judged.get(at.benchmark_name), asked(config, at).shaping_of("replies")
    if judged is None:
        return [at.benchmark, asked(config, at).shaping_of("items") | shaping]
    voice = config.judge_of(judged).answers_as("judge")
    return [voice.model, voice.identity, shaping]


def prompts(config: RunConfig, at: StageAt) -> list[str]:
    """The judge's prompts, as ingredients; where nobody judges, the files that are marked by."""
    return [f"prompt:{name}" for name in asked(config, at).prompts] or item_files(config, at)


def scores(config: RunConfig, at: StageAt) -> Json:
    """What judgments come to, and what is said beside it."""
    return [asked(config, at).max_failed_share, answers(config, at), replies(config, at)]


def score_files(config: RunConfig, at: StageAt) -> list[str]:
    """What stands beside a figure or makes it, as ingredients."""
    return [*prompts(config, at), *item_files(config, at), *outputs(config, at)]
