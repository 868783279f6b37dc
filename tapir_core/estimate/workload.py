"""How many answers a run needs under one scenario: the method's own arithmetic, round by round, on counts alone.

Quotas, waves and mixtures are those of `tapir_core.curriculum`; only what a model would decide (who is hard, which new
instruction passes) is a share from the scenario.

Limits: which task types are hard is not known, so that each may have few seeds or many; no round ends early by the stop
rule.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tapir_core.calls import Role
from tapir_core.config import RunConfig
from tapir_core.curriculum import hard_count, quotas, target_shares
from tapir_core.estimate.assumptions import NEW_ARE_HARD, Scenario
from tapir_core.judging import mode_of
from tapir_core.task_types import TASK_TYPES

__all__ = ["Pool", "Work", "expected_shares", "workload"]


@dataclass(frozen=True, slots=True)
class Pool:
    """What is known of the pool and of the store before the run."""

    rows: int
    heldout_rows: int = 0
    natural_shares: Mapping[str, float] | None = None
    """Task type → share, where labels are known already."""
    usable_share: float | None = None
    """Instructions that can be answered, where that is known already."""
    stored_labels: int = 0
    stored_answers: int = 0
    """Rows whose label and plain answer the store holds."""


@dataclass(frozen=True, slots=True)
class Work:
    """Answers of one kind that one stage needs, or the steps of one training."""

    stage: str
    role: Role | None
    """Nothing for training."""
    round: int | None
    needed: float = 0.0
    paid: float = 0.0
    """Of them, those that neither the store nor an equal request gives."""
    steps: float = 0.0
    examples: float = 0.0
    """Examples seen, epochs counted, of training."""
    benchmark: str | None = None
    """Benchmark that is asked; nothing for the stages that are no part of one."""


@dataclass(slots=True)
class _Growing:
    """The pool of the round."""

    rows: float
    wanted: Mapping[str, float]
    """Task type → share of every mixture."""
    natural: Mapping[str, Sequence[float]]
    """Task type → the shares of the first pool that it may have, equally likely."""
    first_rows: float
    added: dict[str, float] = field(default_factory=dict)
    """Task type → expansions of earlier rounds."""
    scored: float = 0.0
    """Rows that seeds and easy part are taken from."""
    fresh: float = 0.0
    """Rows that no earlier round judged."""
    refined: float = 0.0
    """Rows whose answers an earlier round refined: a seed among them is not paid again."""


@dataclass(frozen=True, slots=True)
class _Expanded:
    asked: float
    passed: float
    right: float
    """Passed the text gates and have the wanted task type."""
    hard: dict[str, float]
    """Task type → rows of the hard part, at most its quota."""
    new: dict[str, float]
    """Of them, the new instructions."""
    accepted: dict[str, float]


def workload(config: RunConfig, pool: Pool, scenario: Scenario, student_tokens: float) -> Iterator[Work]:
    """Everything that a run asks and trains, in order; ``student_tokens`` is the length of a student's answer."""
    reasked = 1 + (scenario.reask_share if config.teacher.reasks else 0.0)
    new_labels = pool.rows - pool.stored_labels
    yield Work("label", "label", None, pool.rows * reasked, new_labels * reasked)
    yield Work("teach", "teach", None, pool.rows, pool.rows - pool.stored_answers)
    yield _evaluation(pool, -1)
    usable = pool.rows * (scenario.usable_share if pool.usable_share is None else pool.usable_share)
    yield _training(config, 0, min(config.basic_tuning.examples, usable))
    yield _evaluation(pool, 0)
    wanted = expected_shares(config, pool.natural_shares, scenario.skew)
    growing = _Growing(usable, wanted, _natural(config, pool, scenario, wanted), usable, fresh=usable)
    for number in config.round_numbers:
        yield from _round(config, scenario, number, growing, student_tokens)
        yield _evaluation(pool, number)


def _round(config: RunConfig, scenario: Scenario, number: int, pool: _Growing, student_tokens: float) -> Iterator[Work]:
    settings = config.round(number)
    if config.judges(number):
        yield Work("answer", "answer", number, pool.rows, pool.rows)
        yield _judging(config, scenario, "judge", number, pool.rows, pool.fresh, student_tokens)
        pool.fresh = 0.0
    if config.verdict_round(number) in (number, None):
        pool.scored = pool.rows
    seeds = pool.scored * _hard_share(config, scenario, number)
    wanted = quotas(hard_count(settings.examples, settings.alpha or 0.0), pool.wanted)
    expanded = _expand(config, scenario, number, wanted, pool, seeds)
    yield from _expansion(config, scenario, number, expanded, student_tokens)
    hard = sum(expanded.hard.values())
    if config.curriculum.refine:
        new = sum(expanded.new.values())
        known = (hard - new) * pool.refined / pool.rows if pool.rows else 0.0
        yield Work("refine", "refine", number, hard, hard - known)
        pool.refined += hard - known
    easy = min(settings.examples - sum(wanted.values()), pool.scored - seeds)
    yield _training(config, number, hard + easy)
    new = sum(expanded.accepted.values())
    pool.fresh, pool.rows = pool.fresh + new, pool.rows + new
    for task_type, count in expanded.accepted.items():
        pool.added[task_type] = pool.added.get(task_type, 0.0) + count


def _hard_share(config: RunConfig, scenario: Scenario, number: int) -> float:
    share = config.round(number).selection.fixed_share
    return scenario.hard_share if share is None else share


def _expand(
    config: RunConfig, scenario: Scenario, number: int, wanted: Mapping[str, int], pool: _Growing, seeds: float
) -> _Expanded:
    """The waves: for each task type as many as still lack, some of which pass."""
    settings = config.curriculum.expansion
    asked = passed = right = 0.0
    hard, drawn_new, accepted = {}, {}, {}
    for task_type, quota in wanted.items():
        lacks = first = _lacking(quota, task_type, pool, seeds, scenario.unevenness)
        got = 0.0
        for _ in range(settings.max_waves if seeds >= 1 else 0):
            if lacks < 0.5:
                break
            requests = math.ceil(round(lacks * settings.oversample, 6))
            through = requests * scenario.passes_share
            kept = through * scenario.keeps_type_share
            asked, passed, right = asked + requests, passed + through, right + kept
            new = kept * scenario.usable_share
            if config.checks_expansion(number):
                new *= NEW_ARE_HARD
            got, lacks = got + new, lacks - new
        accepted[task_type] = got
        drawn_new[task_type] = min(first, got)
        hard[task_type] = quota - first + drawn_new[task_type]
    return _Expanded(asked, passed, right, hard, drawn_new, accepted)


def _lacking(quota: int, task_type: str, pool: _Growing, seeds: float, unevenness: float) -> float:
    """What the seeds of a task type lack to its quota, over the shares and the hardness that it may have."""
    rate = seeds / pool.rows if pool.rows else 0.0
    rows = [pool.first_rows * share + pool.added.get(task_type, 0.0) for share in pool.natural[task_type]]
    hardness = (1 - unevenness, 1.0, 1 + unevenness)
    lacks = [max(0.0, quota - rate * factor * each) for each in rows for factor in hardness]
    return sum(lacks) / len(lacks)


def _expansion(
    config: RunConfig, scenario: Scenario, number: int, expanded: _Expanded, student_tokens: float
) -> Iterator[Work]:
    reasked = 1 + (scenario.reask_share if config.teacher.reasks else 0.0)
    for role, calls in (("expand", expanded.asked * reasked), ("label", expanded.passed * reasked)):
        yield Work("expand", role, number, calls, calls)  # type: ignore[arg-type]  # the names are roles
    yield Work("expand", "teach", number, expanded.right, expanded.right)
    if config.checks_expansion(number):
        usable = expanded.right * scenario.usable_share
        yield Work("expand", "answer", number, usable, usable)
        yield _judging(config, scenario, "expand", number, usable, usable, student_tokens)


def _judging(
    config: RunConfig, scenario: Scenario, stage: str, number: int, rows: float, fresh: float, student_tokens: float
) -> Work:
    """Verdicts on ``rows`` instructions, ``fresh`` of which no round judged before.

    An answer that did not change since the last round is not paid again.
    """
    judge = config.judge
    reasked = 1 + (scenario.reask_share if judge.reasks else 0.0)
    greedy = config.student.sampling.temperature == 0
    equal = 0.5 ** (student_tokens / scenario.repeat_half_tokens) if greedy else 0.0
    changed = fresh + (rows - fresh) * (1 - equal)
    needed, paid = mode_of(judge).calls(judge, rows, fresh, changed, equal)
    return Work(stage, "judge", number, needed * reasked, paid * reasked)


def _evaluation(pool: Pool, number: int) -> Work:
    return Work("evaluate", "answer", number, pool.heldout_rows, pool.heldout_rows)


def _training(config: RunConfig, number: int, examples: float) -> Work:
    epochs = config.round(number).epochs if number else config.basic_tuning.epochs
    seen = examples * epochs
    return Work("train", None, number, steps=math.ceil(round(seen / config.batch_size(number), 6)), examples=seen)


def expected_shares(config: RunConfig, natural: Mapping[str, float] | None, skew: float) -> Mapping[str, float]:
    """Pr(task type) of the mixtures; where it is to be natural and that is not known, ∝ 1 / place^skew."""
    return target_shares(config.curriculum.target_shares, _skewed(TASK_TYPES, skew) if natural is None else natural)


def _natural(
    config: RunConfig, pool: Pool, scenario: Scenario, target: Mapping[str, float]
) -> dict[str, Sequence[float]]:
    """The shares that each wanted task type may have in the pool."""
    if pool.natural_shares is not None:
        return {name: [pool.natural_shares.get(name, 0.0)] for name in target}
    if scenario.skew == 0 or config.curriculum.target_shares == "natural":
        return {name: [share] for name, share in target.items()}
    likely = [*_skewed(target, scenario.skew).values()]
    return dict.fromkeys(target, likely)


def _skewed(names: Collection[str], skew: float) -> dict[str, float]:
    weights = [1 / place**skew for place in range(1, len(names) + 1)]
    return {name: weight / sum(weights) for name, weight in zip(names, weights, strict=True)}
