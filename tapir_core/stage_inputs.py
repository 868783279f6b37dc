"""Which stages' rows go into a stage: the arrows between the stages of a run."""

from collections.abc import Callable
from dataclasses import replace

from tapir_core.config import RunConfig
from tapir_core.paths import BACKBONE
from tapir_core.stage_at import StageAt

__all__ = [
    "benchmark_inputs",
    "checkpoint_inputs",
    "in_round",
    "mix_inputs",
    "pool_inputs",
    "question_stages",
    "select_inputs",
    "wave_inputs",
]


def question_stages(config: RunConfig) -> list[StageAt]:
    """What pool and expansion are kept apart from: the held-out set, the questions of benchmarks."""
    heldout = [StageAt("heldout")] if config.data.heldout else []
    return [*heldout, *([StageAt("questions")] if config.evaluation.benchmarks else [])]


def pool_inputs(_: RunConfig, at: StageAt) -> list[StageAt]:
    """What the pool of a round is made of: the first pool and the expansions of earlier rounds."""
    earlier = [StageAt("expand", number) for number in range(1, at.round or 0)]
    return [StageAt("pool"), StageAt("label"), StageAt("teach"), *earlier]


def in_round(*names: str) -> Callable[[RunConfig, StageAt], list[StageAt]]:
    """The pool of the round, stages of the same round, and what it takes last."""
    return lambda c, at: [*pool_inputs(c, at), *(StageAt(name, at.round) for name in names), *_trained_on(at)]


def select_inputs(config: RunConfig, at: StageAt) -> list[StageAt]:
    """What seeds are chosen from: instructions with their difficulty, or the pool alone where nothing is measured."""
    return _measured(config, at) or in_round()(config, at)


def mix_inputs(config: RunConfig, at: StageAt) -> list[StageAt]:
    """What a mixture is drawn from; for round 0 the pool alone."""
    if at.number == 0:
        return pool_inputs(config, at)
    drawn = [*_measured(config, at), *(StageAt(name, at.round) for name in ("select", "expand", "refine"))]
    return [*pool_inputs(config, at), *drawn, *_trained_on(at)]


def benchmark_inputs(at: StageAt, *names: str) -> list[StageAt]:
    """The items of the benchmark, and stages of the same student or model."""
    items = StageAt("benchmark_items", benchmark=at.benchmark)
    return [items, *(replace(at, name=name) for name in names)]


def checkpoint_inputs(at: StageAt) -> list[StageAt]:
    """The student that a round came to; the backbone is an ingredient, and so is a model's file."""
    return [] if at.round in (BACKBONE, None) else [StageAt("train", at.round)]


def wave_inputs(config: RunConfig, at: StageAt) -> list[StageAt]:
    """What every step of a round's expansion reads: seeds, pool, evaluation questions, what earlier waves accepted."""
    student = [StageAt("train", at.number - 1)] if config.checks_expansion(at.number) else []
    earlier = [StageAt("wave_gated", at.round, wave) for wave in range(1, at.wave or 1)]
    return [*question_stages(config), *pool_inputs(config, at), StageAt("select", at.round), *student, *earlier]


def _trained_on(at: StageAt) -> list[StageAt]:
    """What a round draws last: the mixtures before its own."""
    return [StageAt("mix", number) for number in range(at.number)]


def _measured(config: RunConfig, at: StageAt) -> list[StageAt]:
    """The difficulty that seeds and easy part come from, if any."""
    judged = config.verdict_round(at.number)
    return [] if judged is None else [StageAt("difficulty", judged)]
