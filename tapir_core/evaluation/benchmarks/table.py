"""Scores of a benchmark as rows of its ``scores/``: each figure with judge, prompt version and settings beside it."""

from collections.abc import Mapping, Sequence

import polars as pl

from tapir_core.config import RunConfig
from tapir_core.evaluation.benchmarks.baseline import baseline_student
from tapir_core.evaluation.benchmarks.types import SCORES, Judged, Place, Score
from tapir_core.prompts import Prompt
from tapir_core.voices import benchmark_judge, voice_of

__all__ = ["judged_places", "score_rows"]

SPLIT = "test"
"""Figures of benchmarks are reported and read by no decision."""


def score_rows(config: RunConfig, name: str, scores: Sequence[Score], prompts: Mapping[str, Prompt]) -> pl.DataFrame:
    """``SCORES`` of one student; ``prompts`` are those of the benchmark's judge."""
    voice = voice_of(benchmark_judge(config, config.evaluation.asked[name]), "judge")
    versions = ", ".join(f"{each} {prompt.version}" for each, prompt in prompts.items())
    beside = (f"{voice.model} ({voice.identity})", versions, _settings(config, name))
    rows = []
    for each in scores:
        found = each.estimate
        figure = (found.value, found.stderr, found.n, found.low, found.high, each.n_failed, each.note)
        rows.append((name, SPLIT, each.category, each.metric, *figure, *beside))
    return pl.DataFrame(rows, schema=SCORES, orient="row")


def judged_places(replies: pl.DataFrame) -> dict[Place, Judged]:
    """The judgments of a benchmark's ``replies/``."""
    places = replies.select("question_id", "turn", "mode", "order").rows()
    values = replies.select("value", "baseline_value", "how").rows()
    return {place: Judged(*found) for place, found in zip(places, values, strict=True)}


def _settings(config: RunConfig, name: str) -> str:
    """How both sides' replies were drawn, in words; of a baseline that is a student, which one it is."""
    settings = config.evaluation.asked[name]
    asked = f", {settings.logprobs_asked} log-probabilities" if settings.logprobs_asked else ""
    student = settings.answering_in_words(config.student.sampling)
    against = baseline_student(config, name)
    baseline = "" if against is None else f"; baseline: {against.in_words}"
    return f"judge: {settings.sampling.in_words}{asked}; student: {student}{baseline}"
