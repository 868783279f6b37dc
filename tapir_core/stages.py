"""The stages of a run: what each writes, what goes into it, and so when it holds or must be redone.

One table instead of knowledge spread over tasks. A stage's key covers: run id, stage, stage version, the config
fields that can change its output, its ingredients (prompt files, input files, the backbone) and its inputs' digests.
Concurrency, retries, base URLs, batch sizes of engines and shard sizes are no part of any key.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tapir_core.config import RunConfig
from tapir_core.paths import BACKBONE, round_folder, wave_folder
from tapir_core.stage_columns import COLUMNS
from tapir_core.stage_fields import (
    judge_fields,
    judge_prompts,
    pool_fields,
    score_fields,
    size_fields,
    student_fields,
    teacher_fields,
    tuning_fields,
    wave_fields,
)
from tapir_core.text import digest

__all__ = ["STAGES", "Stage", "StageAt", "is_planned", "plan", "stage_key"]

Json = Any


@dataclass(frozen=True, slots=True)
class StageAt:
    """A stage in its round (nothing for the stages that run once), or a step of an expansion wave."""

    name: str
    round: int | None = None
    wave: int | None = None
    """Wave of an expansion, from 1; nothing for the stages that are no step of a wave."""

    def __str__(self) -> str:
        if self.round is None:
            return self.name
        place = "backbone" if self.round == BACKBONE else f"round {self.round}"
        return f"{self.name} ({place}, wave {self.wave})" if self.wave else f"{self.name} ({place})"

    @property
    def number(self) -> int:
        """The round, of a stage that has one."""
        assert self.round is not None, f"{self.name} runs once, not by round"
        return self.round

    @property
    def folder(self) -> str:
        """Where its rows lie in the run folder."""
        place = STAGES[self.name].place
        if self.wave is not None:
            place = wave_folder(self.wave, place)
        return place if self.round is None else f"{round_folder(self.round)}/{place}"


@dataclass(frozen=True, slots=True)
class Stage:
    """What the run knows of one stage without doing it."""

    name: str
    place: str
    """Folder of its rows, in the run folder or in its round's folder."""
    fields: Callable[[RunConfig, StageAt], Json]
    """Config fields that can change its output."""
    ingredients: Callable[[RunConfig, StageAt], list[str]]
    """Names of the files and folders that go into it: `prompt:judge`, `file:pool`, `backbone`."""
    inputs: Callable[[RunConfig, StageAt], list[StageAt]]
    """Stages whose rows it reads."""
    version: int = 1
    """Raised when a change of code changes its rows."""
    calls_per_row: int = 0
    """Paid calls for one row, at most, re-asks aside; what a redo may cost."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of its rows; a checkpoint has none."""
        return COLUMNS[self.name]


def plan(config: RunConfig) -> Iterator[StageAt]:
    """Every stage of a run, in an order in which inputs come first."""
    questions = _questions(config)
    yield from (*questions, *([StageAt("contaminated")] if questions else []))
    yield from (StageAt("pool"), StageAt("label"), StageAt("teach"))
    if config.data.heldout is not None:
        yield from (StageAt("answer_heldout", BACKBONE), StageAt("evaluate", BACKBONE))
    for number in range(config.run.rounds + 1):
        measuring = _MEASURING if number and config.judges(number) else ()
        names = [*measuring, "select", "expand", "refine"] if number else []
        yield from (StageAt(name, number) for name in [*names, "mix", "train"])
        if config.data.heldout is not None:
            yield from (StageAt(name, number) for name in ["answer_heldout", "evaluate"])


def is_planned(config: RunConfig, at: StageAt) -> bool:
    """Whether a run of this configuration may do the stage: a round that judges nothing has none that measure."""
    return at.name not in _MEASURING or config.judges(at.number)


def own_digest(at: StageAt, config: RunConfig, ingredients: dict[str, str]) -> str:
    """Digest of what goes into a stage beside its inputs' rows."""
    stage = STAGES[at.name]
    used = {name: ingredients.get(name, "") for name in stage.ingredients(config, at)}
    return digest([stage.name, stage.version, stage.fields(config, at), used])


def stage_key(at: StageAt, config: RunConfig, ingredients: dict[str, str], run_id: str, inputs: list[str]) -> str:
    """The key that a stage's manifest must have to be served; `inputs` are its inputs' digests in their order."""
    return digest([run_id, at.round, at.wave, own_digest(at, config, ingredients), inputs])


def _questions(config: RunConfig) -> list[StageAt]:
    """What pool and expansion are kept apart from: the held-out set, the questions of benchmarks."""
    heldout = [StageAt("heldout")] if config.data.heldout else []
    return [*heldout, *([StageAt("questions")] if config.evaluation.benchmarks else [])]


def _wave_prompts(config: RunConfig, at: StageAt) -> list[str]:
    check = judge_prompts(config) if config.checks_expansion(at.number) else []
    return ["prompt:expand", "prompt:label", *check]


def _wave_inputs(config: RunConfig, at: StageAt) -> list[StageAt]:
    """What every step of a round's expansion reads: seeds, pool, evaluation questions, what earlier waves accepted."""
    student = [StageAt("train", at.number - 1)] if config.checks_expansion(at.number) else []
    earlier = [StageAt("wave_gated", at.round, wave) for wave in range(1, at.wave or 1)]
    return [*_questions(config), *_pool_inputs(config, at), StageAt("select", at.round), *student, *earlier]


def _wave_step(name: str, place: str, before: str | None) -> Stage:
    def inputs(config: RunConfig, at: StageAt) -> list[StageAt]:
        previous = [StageAt(before, at.round, at.wave)] if before else []
        return [*_wave_inputs(config, at), *previous]

    return Stage(name, place, lambda c, at: wave_fields(c, at.number), _wave_prompts, inputs)


def _pool_inputs(_: RunConfig, at: StageAt) -> list[StageAt]:
    """What the pool of a round is made of: the first pool and the expansions of earlier rounds."""
    earlier = [StageAt("expand", number) for number in range(1, at.round or 0)]
    return [StageAt("pool"), StageAt("label"), StageAt("teach"), *earlier]


def _in_round(*names: str) -> Callable[[RunConfig, StageAt], list[StageAt]]:
    """The pool of the round, stages of the same round, and what it takes last."""
    return lambda c, at: [*_pool_inputs(c, at), *(StageAt(name, at.round) for name in names), *_trained_on(c, at)]


def _trained_on(config: RunConfig, at: StageAt) -> list[StageAt]:
    """What a round that draws at random takes last: the mixtures before its own."""
    return [StageAt("mix", r) for r in range(at.number)] if config.verdict_round(at.number) is None else []


def _measured(config: RunConfig, at: StageAt) -> list[StageAt]:
    """The difficulty that seeds and easy part come from, if any."""
    judged = config.verdict_round(at.number)
    return [] if judged is None else [StageAt("difficulty", judged)]


def _select_inputs(config: RunConfig, at: StageAt) -> list[StageAt]:
    return _measured(config, at) or _in_round()(config, at)


def _mix_inputs(config: RunConfig, at: StageAt) -> list[StageAt]:
    if at.number == 0:
        return _pool_inputs(config, at)
    drawn = [*_measured(config, at), *(StageAt(name, at.round) for name in ("select", "expand", "refine"))]
    return [*_pool_inputs(config, at), *drawn, *_trained_on(config, at)]


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
            "heldout",
            lambda c, _: [c.run.seed, c.data.heldout and c.data.heldout.model_dump(exclude={"path"})],
            lambda c, _: ["file:heldout"],
            _none,
        ),
        Stage(
            "questions",
            "questions",
            _none,
            lambda c, _: [f"file:questions:{name}" for name in sorted(c.evaluation.benchmarks)],
            _none,
        ),
        Stage(
            "contaminated",
            "contaminated",
            lambda c, at: [c.evaluation.decontamination.model_dump(), *([] if at.round else pool_fields(c))],
            lambda c, at: [] if at.round else ["file:pool"],
            lambda c, at: [*_questions(c), *([StageAt("expansion_rejected", at.round)] if at.round else [])],
        ),
        Stage(
            "pool",
            "pool",
            lambda c, _: pool_fields(c),
            lambda c, _: ["file:pool"],
            lambda c, _: [StageAt("contaminated")] if _questions(c) else [],
        ),
        Stage(
            "label",
            "labels",
            lambda c, _: [teacher_fields(c), c.teacher.labelling.model_dump(), c.teacher.reasks],
            lambda c, _: ["prompt:label"],
            lambda c, _: [StageAt("pool")],
            calls_per_row=1,
        ),
        Stage(
            "teach",
            "teacher",
            lambda c, _: [teacher_fields(c), c.teacher.answering.model_dump()],
            _none,
            lambda c, _: [StageAt("pool")],
            calls_per_row=1,
        ),
        Stage(
            "answer_heldout",
            "heldout_answers",
            lambda c, _: student_fields(c),
            lambda c, at: [_TEMPLATE, *(["backbone"] if at.round == BACKBONE else [])],
            lambda c, at: [StageAt("heldout"), *([] if at.round == BACKBONE else [StageAt("train", at.round)])],
        ),
        Stage(
            "evaluate", "scores", _none, _none, lambda c, at: [StageAt("heldout"), StageAt("answer_heldout", at.round)]
        ),
        Stage(
            "answer",
            "answers",
            lambda c, _: student_fields(c),
            lambda c, _: [_TEMPLATE],
            lambda c, at: [*_pool_inputs(c, at), StageAt("train", at.number - 1)],
        ),
        Stage(
            "judge",
            "verdicts",
            lambda c, _: judge_fields(c),
            lambda c, _: judge_prompts(c),
            _in_round("answer"),
            version=2,
            calls_per_row=1,
        ),
        Stage("difficulty", "difficulty", lambda c, _: score_fields(c), _none, _in_round("judge")),
        Stage(
            "select",
            "seeds",
            lambda c, at: [c.run.seed, c.round(at.round or 1).selection.model_dump()],
            _none,
            _select_inputs,
        ),
        _wave_step("wave_requests", "requests", None),
        _wave_step("wave_candidates", "candidates", "wave_requests"),
        _wave_step("wave_screened", "screened", "wave_candidates"),
        _wave_step("wave_examined", "examined", "wave_screened"),
        _wave_step("wave_gated", "gated", "wave_examined"),
        _wave_step("expansion_rejected", "expansion_rejected", None),
        Stage(
            "expand", "expansion", lambda c, at: wave_fields(c, at.number), _wave_prompts, _wave_inputs, calls_per_row=3
        ),
        Stage(
            "refine",
            "refinement",
            lambda c, at: [
                size_fields(c, at.number),
                c.curriculum.refine,
                teacher_fields(c),
                c.teacher.refining.model_dump(),
            ],
            lambda c, _: ["prompt:refine_steps", "prompt:refine_code", "prompt:refine_prose"],
            _in_round("select", "expand"),
            calls_per_row=1,
        ),
        Stage("mix", "mixture", lambda c, at: size_fields(c, at.number), _none, _mix_inputs),
        Stage(
            "train",
            "checkpoint",
            lambda c, at: tuning_fields(c, at.number),
            lambda c, at: [_TEMPLATE, *([] if at.round else ["backbone"])],
            lambda c, at: [StageAt("mix", at.round), *([StageAt("train", at.number - 1)] if at.round else [])],
        ),
    ]
}
"""Every stage by name, in the order of a run."""
