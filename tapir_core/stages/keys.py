"""What a stage is known by: when its rows hold, and when they must be redone.

A stage's key covers: run id, stage, stage version, the config fields that can change its output, its ingredients
(prompt files, input files, the backbone) and its inputs' digests. Concurrency, retries, base URLs, batch sizes of
engines and shard sizes are no part of any key.

The parts of the configuration are made of `Section.shaping()`; what a section names in its `free` can be changed at any
time and runs nothing again.
"""

from collections.abc import Mapping
from typing import Any

from tapir_core.config import RunConfig, listed
from tapir_core.stages.stage import StageAt
from tapir_core.text import digest

Json = Any


def settings_of(at: StageAt, config: RunConfig, ingredients: Mapping[str, str]) -> list[Any]:
    """What a user puts into a stage: config fields, and name → digest of its ingredients."""
    return [at.stage.settings(config, at), {name: ingredients.get(name, "") for name in at.stage.files(config, at)}]


def own_digest(at: StageAt, config: RunConfig, ingredients: Mapping[str, str], version: int | None = None) -> str:
    """Digest of what goes into a stage beside its inputs' rows: what a user puts there, and the version of its code.

    That is ``version``, or today's.
    """
    return digest([at.name, version or at.stage.version, *settings_of(at, config, ingredients)])


def stage_key(
    at: StageAt,
    config: RunConfig,
    ingredients: Mapping[str, str],
    run_id: str,
    inputs: list[str],
    version: int | None = None,
) -> str:
    """The key that a stage's manifest must have to be served, if ``version`` of its code made it (today's if None).

    ``inputs`` are its inputs' digests in their order.
    """
    return digest([run_id, at.round, at.wave, own_digest(at, config, ingredients, version), inputs])


def pool_fields(config: RunConfig) -> Json:
    """Which instructions are read or generated."""
    return [config.run.seed, config.data.pool.shaping(), config.data.on_bad_row]


def searched_fields(config: RunConfig) -> Json:
    """What of the pool is looked through for evaluation questions: system texts too, where it has some."""
    return [*pool_fields(config), *(["system"] if config.data.pool.has_system_texts else [])]


def teacher_fields(config: RunConfig) -> Json:
    """Who the teacher is."""
    return config.teacher.endpoint.answers_as("teacher")


def judge_fields(config: RunConfig) -> Json:
    """Who judges, and how; the order of a panel changes no verdict."""
    judge = config.judge
    how = {name: value for name, value in judge.shaping().items() if name not in ("endpoint", "panel", "panel_rule")}
    return [sorted(judge.identities), *listed(how, "mode", "orders", "sampling", "reasks")]


def score_fields(config: RunConfig) -> Json:
    """How verdicts become one MFD."""
    return [config.judge.mode, config.judge.orders, config.judge.panel_rule]


def judge_prompts(config: RunConfig) -> list[str]:
    """The judge's prompt, as an ingredient."""
    return [f"prompt:{config.judge.prompt}"]


def student_fields(config: RunConfig) -> Json:
    """How the student's answers are drawn; which student it is comes with the checkpoint."""
    return [config.student.sampling.shaping(), *config.student.engine.answers_as]


def size_fields(config: RunConfig, number: int) -> Json:
    """How many examples a round (0: S_0) has, and of which task types."""
    if number == 0:
        return [config.run.seed, config.basic_tuning.examples]
    settings = config.round(number)
    return [config.run.seed, settings.examples, settings.alpha, config.curriculum.target_shares]


def tuning_fields(config: RunConfig, number: int) -> Json:
    """How a round's mixture (0: S_0's) is trained on."""
    settings = config.round(number) if number else config.basic_tuning
    shared = config.training.shaping() | {"batch_size": config.batch_size(number)}
    return [config.run.seed, settings.epochs, settings.learning_rate, shared]


def wave_fields(config: RunConfig, number: int) -> Json:
    """How a round's seeds are expanded."""
    teacher, expansion = config.teacher, config.curriculum.expansion
    sampling = [each.shaping() for each in (teacher.expanding, teacher.labelling, teacher.answering)]
    check = []
    if config.checks_expansion(number):
        check = [judge_fields(config), score_fields(config), student_fields(config)]
        check.append(config.round(number).selection.shaping())
    apart = config.evaluation.decontamination.shaping()
    size, who = size_fields(config, number), teacher_fields(config)
    return [size, expansion.shaping(), apart, who, teacher.reasks, sampling, check]
