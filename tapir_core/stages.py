"""The stages of a run: what each writes and what goes into it. One table instead of knowledge spread over tasks.

What follows of it, when a stage holds or must be redone, is in `tapir_core.stage_keys`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tapir_core import benchmark_fields as benchmark
from tapir_core.config import RunConfig
from tapir_core.paths import BACKBONE
from tapir_core.stage_at import Compared, StageAt
from tapir_core.stage_columns import COLUMNS, PLACES
from tapir_core.stage_fields import (
    judge_fields,
    judge_prompts,
    pool_fields,
    score_fields,
    searched_fields,
    size_fields,
    student_fields,
    teacher_fields,
    tuning_fields,
    wave_fields,
)
from tapir_core.stage_inputs import (
    benchmark_inputs,
    checkpoint_inputs,
    in_round,
    mix_inputs,
    pool_inputs,
    question_stages,
    select_inputs,
    wave_inputs,
)

__all__ = [
    "STAGES",
    "Compared",
    "Stage",
    "StageAt",
    "asked_apart",
    "benchmark_stages",
    "is_planned",
    "plan",
]

Json = Any


@dataclass(frozen=True, slots=True)
class Stage:
    """What the run knows of one stage without doing it."""

    name: str
    fields: Callable[[RunConfig, StageAt], Json]
    """Config fields that can change its output."""
    ingredients: Callable[[RunConfig, StageAt], list[str]]
    """Names of the files and folders that go into it: `prompt:judge`, `file:pool`, `backbone`."""
    inputs: Callable[[RunConfig, StageAt], list[StageAt]]
    """Stages whose rows it reads."""
    version: int = 1
    """Raised when a change of code changes its rows; that of `expand` with that of any step of it."""
    calls_per_row: int = 0
    """Paid calls for one row, at most, re-asks aside; what a redo may cost."""

    @property
    def place(self) -> str:
        """Folder of its rows, in the run folder or in its round's folder."""
        return PLACES[self.name]

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of its rows; a checkpoint has none."""
        return COLUMNS[self.name]


def plan(config: RunConfig) -> Iterator[StageAt]:
    """Every stage of a run, in an order in which inputs come first."""
    questions = question_stages(config)
    yield from (*questions, *([StageAt("contaminated")] if questions else []))
    yield from (StageAt("benchmark_items", benchmark=name) for name in config.evaluation.each_round)
    yield from (StageAt("pool"), StageAt("label"), StageAt("teach"))
    yield from _evaluation(config, BACKBONE)
    for number in range(config.run.rounds + 1):
        measuring = _MEASURING if number and config.judges(number) else ()
        names = [*measuring, "select", "expand", "refine"] if number else []
        yield from (StageAt(name, number) for name in [*names, "mix", "train"])
        yield from _evaluation(config, number)


def benchmark_stages(name: str, who: Compared) -> list[StageAt]:
    """What a student or a model of a file takes on a benchmark, in order; its own files are read before all of them."""
    of_round, model = (who, None) if isinstance(who, int) else (None, who)
    stages = ("benchmark_answers", "benchmark_replies", "benchmark_scores")
    return [StageAt(stage, of_round, benchmark=name, model=model) for stage in stages]


def asked_apart(config: RunConfig) -> Iterator[StageAt]:
    """Every stage that `tapir evaluate --benchmark` may do beside the plan.

    Those of benchmarks that are not asked in each round, and of models of files.
    """
    for name in config.evaluation.asked:
        if name not in config.evaluation.each_round:
            yield StageAt("benchmark_items", benchmark=name)
            for number in range(BACKBONE, config.run.rounds + 1):
                yield from benchmark_stages(name, number)
    for name, judged in config.evaluation.judged.items():
        for model in judged.outputs:
            yield from benchmark_stages(name, model)


def is_planned(config: RunConfig, at: StageAt) -> bool:
    """Whether a run of this configuration may do the stage: a round that judges nothing has none that measure."""
    return at.name not in _MEASURING or config.judges(at.number)


def _evaluation(config: RunConfig, number: int) -> Iterator[StageAt]:
    """Held-out set and benchmarks of one student."""
    if config.data.heldout is not None:
        yield from (StageAt(name, number) for name in ["answer_heldout", "evaluate"])
    for name in config.evaluation.each_round:
        yield from benchmark_stages(name, number)


def _wave_prompts(config: RunConfig, at: StageAt) -> list[str]:
    check = judge_prompts(config) if config.checks_expansion(at.number) else []
    return ["prompt:expand", "prompt:label", *check]


def _wave_step(name: str, before: str | None) -> Stage:
    def inputs(config: RunConfig, at: StageAt) -> list[StageAt]:
        previous = [StageAt(before, at.round, at.wave)] if before else []
        return [*wave_inputs(config, at), *previous]

    return Stage(name, lambda c, at: wave_fields(c, at.number), _wave_prompts, inputs)


def _none(*_: object) -> list[Any]:
    return []


_MEASURING = ("answer", "judge", "difficulty")
"""Stages that only a round has that measures how hard its pool is."""

_TEMPLATE = "file:chat_template"

STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in [
        Stage(
            "heldout",
            lambda c, _: [c.run.seed, c.data.heldout and c.data.heldout.model_dump(exclude={"path"})],
            lambda c, _: ["file:heldout"],
            _none,
        ),
        Stage(
            "questions",
            _none,
            lambda c, _: [f"file:questions:{name}" for name in sorted(c.evaluation.benchmarks)],
            _none,
        ),
        Stage(
            "contaminated",
            lambda c, at: [c.evaluation.decontamination.model_dump(), *([] if at.round else searched_fields(c))],
            lambda c, at: [] if at.round else ["file:pool"],
            lambda c, at: [*question_stages(c), *([StageAt("expansion_rejected", at.round)] if at.round else [])],
        ),
        Stage(
            "pool",
            lambda c, _: pool_fields(c),
            lambda c, _: ["file:pool"],
            lambda c, _: [StageAt("contaminated")] if question_stages(c) else [],
        ),
        Stage(
            "label",
            lambda c, _: [teacher_fields(c), c.teacher.labelling.model_dump(), c.teacher.reasks],
            lambda c, _: ["prompt:label"],
            lambda c, _: [StageAt("pool")],
            calls_per_row=1,
        ),
        Stage(
            "teach",
            lambda c, _: [teacher_fields(c), c.teacher.answering.model_dump()],
            _none,
            lambda c, _: [StageAt("pool")],
            calls_per_row=1,
        ),
        Stage(
            "answer_heldout",
            lambda c, _: student_fields(c),
            lambda c, at: [_TEMPLATE, *(["backbone"] if at.round == BACKBONE else [])],
            lambda c, at: [StageAt("heldout"), *checkpoint_inputs(at)],
        ),
        Stage(
            "evaluate",
            lambda c, _: c.student.sampling.model_dump(),
            _none,
            lambda c, at: [StageAt("heldout"), StageAt("answer_heldout", at.round)],
            version=2,
        ),
        Stage("benchmark_items", benchmark.items, benchmark.item_files, _none, version=2),
        Stage(
            "benchmark_answers",
            benchmark.answers,
            lambda c, at: benchmark.outputs(c, at) or [_TEMPLATE, *(["backbone"] if at.round == BACKBONE else [])],
            lambda c, at: [*benchmark_inputs(at), *checkpoint_inputs(at)],
        ),
        Stage(
            "benchmark_replies",
            benchmark.replies,
            benchmark.prompts,
            lambda c, at: benchmark_inputs(at, "benchmark_answers"),
            version=2,
            calls_per_row=1,
        ),
        Stage(
            "benchmark_scores",
            benchmark.scores,
            benchmark.score_files,
            lambda c, at: benchmark_inputs(at, "benchmark_answers", "benchmark_replies"),
            version=4,
        ),
        Stage(
            "answer",
            lambda c, _: student_fields(c),
            lambda c, _: [_TEMPLATE],
            lambda c, at: [*pool_inputs(c, at), StageAt("train", at.number - 1)],
        ),
        Stage(
            "judge",
            lambda c, _: judge_fields(c),
            lambda c, _: judge_prompts(c),
            in_round("answer"),
            version=2,
            calls_per_row=1,
        ),
        Stage("difficulty", lambda c, _: score_fields(c), _none, in_round("judge")),
        Stage(
            "select",
            lambda c, at: [c.run.seed, c.round(at.round or 1).selection.model_dump()],
            _none,
            select_inputs,
            version=2,
        ),
        _wave_step("wave_requests", None),
        _wave_step("wave_candidates", "wave_requests"),
        _wave_step("wave_screened", "wave_candidates"),
        _wave_step("wave_examined", "wave_screened"),
        _wave_step("wave_gated", "wave_examined"),
        _wave_step("expansion_rejected", None),
        Stage("expand", lambda c, at: wave_fields(c, at.number), _wave_prompts, wave_inputs, calls_per_row=3),
        Stage(
            "refine",
            lambda c, at: [
                size_fields(c, at.number),
                c.curriculum.refine,
                teacher_fields(c),
                c.teacher.refining.model_dump(),
            ],
            lambda c, _: ["prompt:refine_steps", "prompt:refine_code", "prompt:refine_prose"],
            in_round("select", "expand"),
            version=2,
            calls_per_row=1,
        ),
        Stage("mix", lambda c, at: size_fields(c, at.number), _none, mix_inputs, version=2),
        Stage(
            "train",
            lambda c, at: tuning_fields(c, at.number),
            lambda c, at: [_TEMPLATE, *([] if at.round else ["backbone"])],
            lambda c, at: [StageAt("mix", at.round), *([StageAt("train", at.number - 1)] if at.round else [])],
        ),
    ]
}
"""Every stage by name, in the order of a run."""
