"""Which parts of a benchmark's configuration, and which of its files, can change the rows of each of its stages.

What holds for the stages of the run itself stands in `stage_fields`.
"""

from typing import Any

from tapir_core.config import AskedBenchmark, RunConfig
from tapir_core.stage_at import StageAt
from tapir_core.stage_fields import student_fields
from tapir_core.voices import benchmark_judge, voice_of

__all__ = ["answers", "asked", "item_files", "items", "prompts", "replies", "score_files", "scores"]

Json = Any


def asked(config: RunConfig, at: StageAt) -> AskedBenchmark:
    """The benchmark that a stage belongs to."""
    assert at.benchmark is not None, f"{at.name} is a stage of a benchmark"
    return config.evaluation.asked[at.benchmark]


def items(config: RunConfig, at: StageAt) -> Json:
    """What kind of benchmark its files are read as."""
    return [at.benchmark, asked(config, at).model_dump(include={"type", "modes"})]


def item_files(config: RunConfig, at: StageAt) -> list[str]:
    """All its files, and the run whose student is its baseline, as ingredients."""
    settings = asked(config, at)
    files = [f"file:{field}:{at.benchmark}" for field, path in settings.files.items() if path]
    runs = [f"run:baseline:{at.benchmark}"] if settings.baseline_run else []
    return [f"file:questions:{at.benchmark}", *files, *runs]


def answers(config: RunConfig, at: StageAt) -> Json:
    """How the student's answers are drawn; which student it is comes with the checkpoint."""
    return [student_fields(config), asked(config, at).model_dump(include={"answering", "max_tokens"})]


def replies(config: RunConfig, at: StageAt) -> Json:
    """Who judges, and how."""
    settings = asked(config, at)
    voice = voice_of(benchmark_judge(config, settings), "judge")
    return [voice.model, voice.identity, settings.model_dump(include={"sampling", "reasks", "top_logprobs", "orders"})]


def prompts(config: RunConfig, at: StageAt) -> list[str]:
    """The judge's prompts, as ingredients."""
    return [f"prompt:{name}" for name in asked(config, at).prompts]


def scores(config: RunConfig, at: StageAt) -> Json:
    """What judgments come to, and what is said beside it."""
    return [asked(config, at).max_failed_share, answers(config, at), replies(config, at)]


def score_files(config: RunConfig, at: StageAt) -> list[str]:
    """What stands beside a figure or makes it, as ingredients."""
    return [*prompts(config, at), *item_files(config, at)]
