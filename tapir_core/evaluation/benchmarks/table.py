"""Scores of a benchmark as rows of its ``scores/``: each figure with judge, prompt version and settings beside it.

Of a task of lm-evaluation-harness the judge is the harness, and the prompt's version that of the task.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import polars as pl

from tapir_core.config import RunConfig
from tapir_core.evaluation.benchmarks.baseline import baseline_student
from tapir_core.evaluation.benchmarks.types import SCORES, Judged, Place, Score
from tapir_core.prompts import Prompt

__all__ = ["judged_places", "score_rows", "without_files"]

SPLIT = "test"
"""Figures of benchmarks are reported and read by no decision."""

_DIGITS = 12
"""Of a file's digest, in a figure's record."""

_FILES = "files (SHA-256): "


def score_rows(
    config: RunConfig,
    name: str,
    scores: Sequence[Score],
    prompts: Mapping[str, Prompt],
    replies: pl.DataFrame,
    *,
    outputs: tuple[str, str] | None = None,
    files: Mapping[str, str] = MappingProxyType({}),
) -> pl.DataFrame:
    """``SCORES`` of one student; ``prompts`` are those of the benchmark's judge, ``replies`` its ``replies/``.

    ``outputs`` are the model and the SHA-256 of its file where answers come from one, nothing for a student; ``files``
    are the benchmark's own, field → SHA-256.
    """
    beside = (*_judge_and_prompts(config, name, prompts, replies), _settings(config, name, outputs, files))
    rows = [each.row(name, SPLIT, *beside) for each in scores]
    return pl.DataFrame(rows, schema=SCORES, orient="row")


def without_files(settings: str) -> str:
    """A figure's settings without the digests of files: other bytes may say the same."""
    return "; ".join(each for each in settings.split("; ") if not each.startswith(_FILES))


def judged_places(replies: pl.DataFrame) -> dict[Place, Judged]:
    """The judgments of a benchmark's ``replies/``."""
    places = replies.select("question_id", "turn", "mode", "order").rows()
    said = pl.when(status="failed").then("raw").otherwise(pl.lit("")).alias("said")
    values = replies.select("value", "baseline_value", "how", "reason", said).rows()
    return {place: Judged(*found) for place, found in zip(places, values, strict=True)}


def _judge_and_prompts(
    config: RunConfig, name: str, prompts: Mapping[str, Prompt], replies: pl.DataFrame
) -> tuple[str, str]:
    judged = config.evaluation.judged.get(name)
    if judged is None:
        # The harness that marked, which may be another one than is installed by now.
        judge, task = replies.select("judge", "how").row(0)
        return judge, task
    voice = config.judge_of(judged).answers_as("judge")
    return f"{voice.model} ({voice.identity})", ", ".join(
        f"{each} {prompt.version}" for each, prompt in prompts.items()
    )


def _settings(config: RunConfig, name: str, outputs: tuple[str, str] | None, files: Mapping[str, str]) -> str:
    """How both sides' replies were drawn, what they were set against, and what was read, in words."""
    told = [f"student: {config.evaluation.asked[name].answering_in_words(config.student.sampling)}"]
    if outputs is not None:
        model, file = outputs
        told = [f"outputs: {model}, from a file (SHA-256 {file[:_DIGITS]})"]
    if (judged := config.evaluation.judged.get(name)) is not None:
        told = [f"judge: {judged.judging_in_words}", *told]
    if (against := baseline_student(config, name)) is not None:
        told.append(f"baseline: {against.in_words}")
    if files:
        told.append(_FILES + ", ".join(f"{field} {digest[:_DIGITS]}" for field, digest in files.items()))
    return "; ".join(told)
