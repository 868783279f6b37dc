"""Which parts of the configuration can change a stage's rows: what stands in the stages' keys, and nothing else.

A field that is left out can be changed at any time and runs nothing again.
"""

from typing import Any

from tapir_core.config import FilePool, RunConfig, VllmEngine
from tapir_core.voices import judge_voices, voice_of

__all__ = [
    "judge_fields",
    "judge_prompts",
    "pool_fields",
    "score_fields",
    "searched_fields",
    "size_fields",
    "student_fields",
    "teacher_fields",
    "tuning_fields",
    "wave_fields",
]

Json = Any


def pool_fields(config: RunConfig) -> Json:
    """Which instructions are read or generated; the place of their file is no part of it."""
    return [config.run.seed, config.data.pool.model_dump(exclude={"path"}), config.data.on_bad_row]


def searched_fields(config: RunConfig) -> Json:
    """What of the pool is looked through for evaluation questions: system texts too, which only a file's rows have."""
    return [*pool_fields(config), *(["system"] if isinstance(config.data.pool, FilePool) else [])]


def teacher_fields(config: RunConfig) -> Json:
    """Who the teacher is; its address is no part of it."""
    voice = voice_of(config.teacher.endpoint, "teacher")
    return [voice.model, voice.identity]


def judge_fields(config: RunConfig) -> Json:
    """Who judges, and how; the order of a panel changes no verdict."""
    judge = config.judge
    voices = sorted([voice.model, voice.identity] for voice in judge_voices(judge))
    return [voices, judge.mode, judge.orders, judge.sampling.model_dump(), judge.reasks]


def score_fields(config: RunConfig) -> Json:
    """How verdicts become one MFD."""
    return [config.judge.mode, config.judge.orders, config.judge.panel_rule]


def judge_prompts(config: RunConfig) -> list[str]:
    """The judge's prompt, as an ingredient."""
    return ["prompt:judge" if config.judge.mode == "pairwise" else "prompt:judge_pointwise"]


def student_fields(config: RunConfig) -> Json:
    """How the student's answers are drawn; which student it is comes with the checkpoint.

    vLLM answers alike in the process and on GPU workers.
    """
    engine, sampling = config.student.engine, config.student.sampling.model_dump()
    if isinstance(engine, VllmEngine):
        return [sampling, "vllm", [engine.dtype, engine.max_model_length]]
    return [sampling, engine.type, [engine.model]]


def size_fields(config: RunConfig, number: int) -> Json:
    """How many examples a round (0: S_0) has, and of which task types."""
    if number == 0:
        return [config.run.seed, config.basic_tuning.examples]
    settings = config.round(number)
    return [config.run.seed, settings.examples, settings.alpha, config.curriculum.target_shares]


def tuning_fields(config: RunConfig, number: int) -> Json:
    """How a round's mixture (0: S_0's) is trained on."""
    memory = {"zero_stage", "micro_batch_size", "processes", "gradient_checkpointing"}
    without_effect = {"runs_on", "save_minutes", "grace_seconds", *memory}
    settings = config.round(number) if number else config.basic_tuning
    shared = config.training.model_dump(exclude=without_effect) | {"batch_size": config.batch_size(number)}
    return [config.run.seed, settings.epochs, settings.learning_rate, shared]


def wave_fields(config: RunConfig, number: int) -> Json:
    """How a round's seeds are expanded."""
    teacher, expansion = config.teacher, config.curriculum.expansion
    sampling = [each.model_dump() for each in (teacher.expanding, teacher.labelling, teacher.answering)]
    check = []
    if config.checks_expansion(number):
        check = [judge_fields(config), score_fields(config), student_fields(config)]
        check.append(config.round(number).selection.model_dump())
    size = size_fields(config, number)
    apart = config.evaluation.decontamination.model_dump()
    return [size, expansion.model_dump(), apart, teacher_fields(config), teacher.reasks, sampling, check]
