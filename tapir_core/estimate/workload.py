"""How many answers a run needs under one scenario: its plan on counts alone, stage by stage.

What a run has in which round, who is asked and for what, is the stages' own declaration; quotas and mixtures are those
of `tapir_core.curriculum`. Only what a model would decide (who is hard, which new instruction passes) is a share from
the scenario. What nobody knows before a run has a likely value and the two ends between which it may lie: those
figures are stated here, the times of a call in `costs`, and the estimate repeats them in words. The stand-in has its
own: it is rules, so that little is open. Scenarios are the likely values together, and every combination of the ends.

Limits: which task types are hard is not known, so that each may have few seeds or many; no round ends early by the stop
rule; a stage that is not counted below asks for every instruction of its pool.
"""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import product
from typing import Generic, TypeVar

from tapir_core.calls import Role
from tapir_core.config import EndpointConfig, RunConfig
from tapir_core.curriculum import hard_count, quotas, target_shares
from tapir_core.judging import mode_of
from tapir_core.stages import StageAt, plan
from tapir_core.task_types import TASK_TYPES

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Range:
    """Likely value, and the ends: the one that makes few or cheap calls, and the one that makes many."""

    few: float
    likely: float
    many: float


@dataclass(frozen=True, kw_only=True)
class _Open(Generic[T]):
    """What is open before a run: its range, or in a scenario its value."""

    usable_share: T
    """Instructions with a usable teacher answer and a task type."""
    hard_share: T
    """Scored instructions above δ, where a threshold selects; few seeds mean many expansions."""
    passes_share: T
    """New instructions that pass the gates on their text."""
    keeps_type_share: T
    """Of these, the ones whose label is the wanted task type."""
    skew: T
    """How unevenly the pool's task types are spread, where they are not known: share of the k-th ∝ 1 / k^skew."""
    unevenness: T
    """How unequally hard the task types are: of three, one has this much fewer seeds than its share of the pool would
    give it, and one as much more. What few have, new instructions must fill."""
    reask_share: T
    """Labels, expansions and verdicts that are asked for once more because they cannot be parsed."""
    repeat_half_tokens: T
    """Of two greedy answers to one instruction, a share is equal word for word: it halves every so many tokens. Equal
    answers make equal judge prompts, which are paid once."""
    length: T
    """Factor on the completion tokens below."""
    pace: T
    """Factor on the seconds of a call."""
    batch_hours: T
    """One batch from upload to result, whatever its size; 24 hours are what providers promise."""


Scenario = _Open[float]
"""One value for everything that is open."""


@dataclass(frozen=True, kw_only=True)
class Priors(_Open[Range]):
    """What is assumed of a teacher and a judge of one kind."""

    batch_hours: Range = Range(0.2, 2.0, 24.0)
    completion_tokens: dict[Role, float]
    """Of one reply, where the store has no history of the model; an expansion adds the length of an instruction."""


MODEL = Priors(
    usable_share=Range(0.9, 0.98, 1.0),
    hard_share=Range(0.75, 0.3, 0.15),
    passes_share=Range(1.0, 0.85, 0.6),
    keeps_type_share=Range(1.0, 0.8, 0.6),
    skew=Range(0.0, 1.0, 2.0),
    unevenness=Range(0.0, 0.7, 1.0),
    reask_share=Range(0.0, 0.01, 0.1),
    repeat_half_tokens=Range(10.0, 5.0, 1.0),
    length=Range(0.5, 1.0, 2.0),
    pace=Range(0.5, 1.0, 3.0),
    completion_tokens={
        "label": 12,
        "teach": 250,
        "answer": 250,
        "judge": 120,
        "expand": 20,
        "refine": 400,
        "benchmark": 150,
    },
)
"""Large language models behind an API."""

STANDIN = Priors(
    usable_share=Range(0.97, 1.0, 1.0),
    hard_share=Range(0.9, 0.7, 0.4),
    passes_share=Range(1.0, 0.99, 0.9),
    keeps_type_share=Range(1.0, 1.0, 0.95),
    skew=Range(0.0, 1.0, 2.0),
    unevenness=Range(0.0, 0.7, 1.0),
    reask_share=Range(0.0, 0.0, 0.01),
    repeat_half_tokens=Range(10.0, 5.0, 2.0),
    length=Range(0.8, 1.0, 1.5),
    pace=Range(0.5, 1.0, 3.0),
    completion_tokens={"label": 4, "teach": 4, "answer": 7, "judge": 28, "expand": 5, "refine": 16, "benchmark": 20},
)
"""Our rule-based stand-in, on its own verifiable instructions."""

NEW_ARE_HARD = 0.6
"""Share of new instructions that the difficulty check keeps: they imitate hard ones."""

_TOGETHER = (
    ("hard_share",),
    ("passes_share", "keeps_type_share"),
    ("skew", "unevenness"),
    ("usable_share", "reask_share", "repeat_half_tokens", "length", "pace", "batch_hours"),
)
"""What goes to an end together; the groups are independent of each other."""


def priors_of(endpoint: EndpointConfig) -> Priors:
    """What is assumed of an endpoint."""
    return STANDIN if endpoint.is_standin else MODEL


def scenarios(priors: Priors) -> Iterator[Scenario]:
    """The likely scenario first, then every combination of the ends."""
    ranges: dict[str, Range] = {each.name: getattr(priors, each.name) for each in fields(_Open)}
    yield Scenario(**{name: each.likely for name, each in ranges.items()})
    for ends in product(("few", "many"), repeat=len(_TOGETHER)):
        end_of = {name: end for group, end in zip(_TOGETHER, ends, strict=True) for name in group}
        yield Scenario(**{name: getattr(each, end_of[name]) for name, each in ranges.items()})


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
class BenchmarkSize:
    """What one benchmark asks of one student and of its judge."""

    questions: int
    answers: int
    """Turns of all questions: what the student is asked."""
    judgments: int
    """What the judge is asked about one student."""
    answer_prompt_tokens: float
    """Of the prompt of an answer on average, without the student's own earlier answers."""
    earlier_answers: float
    """How many of these stand in it, on average."""
    judge_prompt_tokens: float
    """Of the prompt of a judgment on average, without the student's answers."""
    judged_answers: float
    """How many of these stand in it, on average."""


@dataclass(frozen=True, slots=True)
class Work:
    """Answers of one kind that one stage needs, or the steps of one training."""

    stage: str
    """As reports name it."""
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


def workload(
    config: RunConfig,
    pool: Pool,
    scenario: Scenario,
    student_tokens: float,
    benchmarks: Mapping[str, BenchmarkSize] | None = None,
) -> Iterator[Work]:
    """Everything that a run asks and trains, in the order of its plan.

    Args:
        config: the run.
        pool: what is known of its pool.
        scenario: the shares that are not known.
        student_tokens: length of a student's answer.
        benchmarks: what those of each round ask of one student.
    """
    run = _Run(config, pool, scenario, student_tokens, benchmarks or {})
    for at in plan(config):
        count = COUNTED.get(at.name)
        if count is not None:
            yield from count(run, at)
        elif at.stage.asks:
            yield run.asked(at, run.rows * (at.stage.calls_per_row or 1))


class _Run:
    """The counts of a run up to the stage that is counted next; the methods stand in the order of the stages."""

    def __init__(
        self,
        config: RunConfig,
        pool: Pool,
        scenario: Scenario,
        student_tokens: float,
        benchmarks: Mapping[str, BenchmarkSize],
    ) -> None:
        self.config, self.pool, self.scenario, self.benchmarks = config, pool, scenario, benchmarks
        self.student_tokens = student_tokens
        self.rows = self.first_rows = float(pool.rows)
        """Of the round's pool, and of the first one."""
        self.fresh = self.scored = 0.0
        """Rows that no round judged before, and those that seeds and easy part are taken from."""
        self.wanted = expected_shares(config, pool.natural_shares, scenario.skew)
        """Task type → share of every mixture."""
        self.natural = _natural(config, pool, scenario, self.wanted)
        """Task type → the shares of the first pool that it may have, equally likely."""
        self.quotas: Mapping[str, int] = {}
        self.seeds = self.hard = self.new = 0.0
        """Of the round; rows of its hard part, and of these the new instructions."""
        self.accepted: dict[str, float] = {}
        """Task type → expansions of this round."""
        self.added = dict.fromkeys(self.wanted, 0.0)
        """Task type → expansions of the rounds before."""
        self.refined = 0.0
        """Rows whose answers an earlier round refined: a seed among them is not paid again."""

    def asked(self, at: StageAt, needed: float, paid: float | None = None, role: Role | None = None) -> Work:
        """A stage's calls, of its own role unless another is given."""
        paid = needed if paid is None else paid
        return Work(at.stage.line, role or at.stage.roles[0], at.round, needed, paid, benchmark=at.benchmark)

    def label(self, at: StageAt) -> Iterator[Work]:
        reasked = self._reasked(self.config.teacher.reasks)
        yield self.asked(at, self.rows * reasked, (self.rows - self.pool.stored_labels) * reasked)

    def teach(self, at: StageAt) -> Iterator[Work]:
        yield self.asked(at, self.rows, self.rows - self.pool.stored_answers)
        known = self.pool.usable_share
        self.rows *= self.scenario.usable_share if known is None else known
        self.first_rows = self.fresh = self.rows

    def judge(self, at: StageAt) -> Iterator[Work]:
        yield self._judged(at, self.rows, self.fresh)
        self.fresh = 0.0

    def select(self, at: StageAt) -> Iterable[Work]:
        settings = self.config.round(at.number)
        if self.config.verdict_round(at.number) in (at.number, None):
            self.scored = self.rows
        share = settings.selection.fixed_share
        self.seeds = self.scored * (self.scenario.hard_share if share is None else share)
        self.quotas = quotas(hard_count(settings.examples, settings.alpha or 0.0), self.wanted)
        return ()

    def expand(self, at: StageAt) -> Iterator[Work]:
        """For each task type as many new instructions as its seeds lack, of which a part passes the gates."""
        checks = self.config.checks_expansion(at.number)
        right_share = self.scenario.passes_share * self.scenario.keeps_type_share
        accepted_share = right_share * self.scenario.usable_share * (NEW_ARE_HARD if checks else 1.0)
        requests = self.hard = self.new = 0.0
        self.accepted = {}
        for task_type, quota in self.quotas.items():
            lacks = self._lacking(task_type, quota)
            asked = self._requests(lacks, accepted_share)
            requests += asked
            self.accepted[task_type] = asked * accepted_share
            new = min(lacks, self.accepted[task_type])
            self.new += new
            self.hard += quota - lacks + new
        reasked = self._reasked(self.config.teacher.reasks)
        yield self.asked(at, requests * reasked)
        yield self.asked(at, requests * self.scenario.passes_share * reasked, role="label")
        yield self.asked(at, requests * right_share, role="teach")
        if checks:
            usable = requests * right_share * self.scenario.usable_share
            yield self.asked(at, usable, role="answer")
            yield self._judged(at, usable, usable)

    def refine(self, at: StageAt) -> Iterator[Work]:
        if self.config.curriculum.refine:
            known = (self.hard - self.new) * self.refined / self.rows if self.rows else 0.0
            yield self.asked(at, self.hard, self.hard - known)
            self.refined += self.hard - known

    def train(self, at: StageAt) -> Iterator[Work]:
        if at.number:
            tuning = self.config.round(at.number)
            drawn = self.hard + min(tuning.examples - sum(self.quotas.values()), self.scored - self.seeds)
            seen = drawn * tuning.epochs
        else:
            seen = min(self.config.basic_tuning.examples, self.rows) * self.config.basic_tuning.epochs
        steps = math.ceil(round(seen / self.config.batch_size(at.number), 6))
        yield Work("train", None, at.number, steps=steps, examples=seen)
        # What the round accepted is in the pool of the next one.
        new = sum(self.accepted.values())
        self.fresh, self.rows = self.fresh + new, self.rows + new
        self.added = {name: count + self.accepted.get(name, 0.0) for name, count in self.added.items()}

    def answer_heldout(self, at: StageAt) -> Iterator[Work]:
        yield self.asked(at, self.pool.heldout_rows)

    def benchmark_answers(self, at: StageAt) -> Iterator[Work]:
        yield self.asked(at, self.benchmarks[at.benchmark_name].answers)

    def benchmark_replies(self, at: StageAt) -> Iterator[Work]:
        if judged := self.config.evaluation.judged.get(at.benchmark_name):
            yield self.asked(at, self.benchmarks[at.benchmark_name].judgments * self._reasked(judged.reasks))

    def _requests(self, lacks: float, accepted_share: float) -> float:
        """What all waves ask for one task type: each for what still lacks, and some more."""
        settings, asked = self.config.curriculum.expansion, 0.0
        for _ in range(settings.max_waves if self.seeds >= 1 else 0):
            if lacks < 0.5:
                break
            wave = math.ceil(round(lacks * settings.oversample, 6))
            asked, lacks = asked + wave, lacks - wave * accepted_share
        return asked

    def _lacking(self, task_type: str, quota: int) -> float:
        """What the seeds of a task type lack to its quota, over the shares and the hardness that it may have."""
        rate = self.seeds / self.rows if self.rows else 0.0
        rows = [self.first_rows * share + self.added[task_type] for share in self.natural[task_type]]
        hardness = (1 - self.scenario.unevenness, 1.0, 1 + self.scenario.unevenness)
        lacks = [max(0.0, quota - rate * factor * each) for each in rows for factor in hardness]
        return sum(lacks) / len(lacks)

    def _judged(self, at: StageAt, rows: float, fresh: float) -> Work:
        """Verdicts on ``rows`` instructions, ``fresh`` of which no round judged before.

        An answer that did not change since the last round is not paid again.
        """
        judge = self.config.judge
        greedy = self.config.student.sampling.temperature == 0
        equal = 0.5 ** (self.student_tokens / self.scenario.repeat_half_tokens) if greedy else 0.0
        changed = fresh + (rows - fresh) * (1 - equal)
        needed, paid = mode_of(judge).calls(judge, rows, fresh, changed, equal)
        reasked = self._reasked(judge.reasks)
        return self.asked(at, needed * reasked, paid * reasked, role="judge")

    def _reasked(self, reasks: int) -> float:
        return 1 + (self.scenario.reask_share if reasks else 0.0)


COUNTED: dict[str, Callable[[_Run, StageAt], Iterable[Work]]] = {
    "label": _Run.label,
    "teach": _Run.teach,
    "judge": _Run.judge,
    "select": _Run.select,
    "expand": _Run.expand,
    "refine": _Run.refine,
    "train": _Run.train,
    "answer_heldout": _Run.answer_heldout,
    "benchmark_answers": _Run.benchmark_answers,
    "benchmark_replies": _Run.benchmark_replies,
}
"""The stages that do not ask once for every instruction of the pool, or after which another number of them is there."""


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
    return {name: [*_skewed(target, scenario.skew).values()] for name in target}


def _skewed(names: Collection[str], skew: float) -> dict[str, float]:
    weights = [1 / place**skew for place in range(1, len(names) + 1)]
    return {name: weight / sum(weights) for name, weight in zip(names, weights, strict=True)}
