"""How many answers a run needs under one scenario: its plan on counts alone, stage by stage.

What a run has in which round, who is asked and for what, is the stages' own declaration; quotas and mixtures are those
of `tapir_core.curriculum`. Only what a model would decide (who is hard, which new instruction passes) is a share from
the scenario. What nobody knows before a run has a likely value and the two ends between which it may lie: those
figures are stated here, the times of a call in `run`, and the estimate repeats them in words. The stand-in has its
own: it is rules, so that little is open. Scenarios are the likely values together, and every combination of the ends.

Limits: which task types are hard is not known, so that each may have few seeds or many; no round ends early by the stop
rule; a stage that is not counted below asks for every row that it reads.
"""

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from types import MappingProxyType
from typing import Literal, NamedTuple

from tapir_core import curriculum, judging
from tapir_core.calls import Role
from tapir_core.config import EndpointConfig, RunConfig
from tapir_core.stages import ANSWER_HELDOUT, StageAt, lines_of_evaluation, plan

Unknown = Literal[
    # Instructions with a usable teacher answer and a task type.
    "usable_share",
    # Scored instructions above δ, where a threshold selects; few seeds mean many expansions.
    "hard_share",
    # Scored instructions that the easy part may take, of those that are no seeds: the teacher's answer is good enough,
    # and the student's no better.
    "easy_share",
    # New instructions that pass the gates on their text.
    "passes_share",
    # Of these, the ones whose label is the wanted task type.
    "keeps_type_share",
    # How unevenly the pool's task types are spread, where they are not known: share of the k-th ∝ 1 / k^skew.
    "skew",
    # How unequally hard the task types are: of three, one has this much fewer seeds than its share of the pool would
    # give it, and one as much more. What few have, new instructions must fill.
    "unevenness",
    # Labels, expansions and verdicts that are asked for once more because they cannot be parsed.
    "reask_share",
    # Of two greedy answers to one instruction, a share is equal word for word: it halves every so many tokens. Equal
    # answers make equal judge prompts, which are paid once.
    "repeat_half_tokens",
    # Rows of the pool that a verifier scores in the judge's place, where there is one.
    "verified_share",
    # The same of new instructions.
    "verified_new_share",
    # Factor on the completion tokens below.
    "length",
    # Factor on the seconds of a call.
    "pace",
    # One batch from upload to result, whatever its size; 24 hours are what providers promise.
    "batch_hours",
]
"""What is open before a run."""

Scenario = Mapping[Unknown, float]
"""One value for everything that is open."""


class Range(NamedTuple):
    """Likely value, and the ends: the one that makes few or cheap calls, and the one that makes many."""

    few: float
    likely: float
    many: float


@dataclass(frozen=True, slots=True)
class Priors:
    """What is assumed of a teacher and a judge of one kind."""

    ranges: Mapping[Unknown, Range]
    completion_tokens: Mapping[Role, float]
    """Of one reply, where the store has no history of the model; an expansion adds the length of an instruction."""


MODEL = Priors(
    {
        "usable_share": Range(0.9, 0.98, 1.0),
        "hard_share": Range(0.75, 0.3, 0.15),
        "easy_share": Range(0.6, 0.85, 1.0),
        "passes_share": Range(1.0, 0.85, 0.6),
        "keeps_type_share": Range(1.0, 0.8, 0.6),
        "skew": Range(0.0, 1.0, 2.0),
        "unevenness": Range(0.0, 0.7, 1.0),
        "reask_share": Range(0.0, 0.01, 0.1),
        "repeat_half_tokens": Range(10.0, 5.0, 1.0),
        "verified_share": Range(1.0, 0.0, 0.0),
        "verified_new_share": Range(1.0, 0.0, 0.0),
        "length": Range(0.5, 1.0, 2.0),
        "pace": Range(0.5, 1.0, 3.0),
        "batch_hours": Range(0.2, 2.0, 24.0),
    },
    {"label": 12, "teach": 250, "answer": 250, "judge": 120, "expand": 20, "refine": 400, "benchmark": 150},
)
"""Large language models behind an API."""

STANDIN = Priors(
    {
        "usable_share": Range(0.97, 1.0, 1.0),
        "hard_share": Range(0.9, 0.7, 0.4),
        "easy_share": Range(0.95, 1.0, 1.0),
        "passes_share": Range(1.0, 0.99, 0.9),
        "keeps_type_share": Range(1.0, 1.0, 0.95),
        "skew": Range(0.0, 1.0, 2.0),
        "unevenness": Range(0.0, 0.7, 1.0),
        "reask_share": Range(0.0, 0.0, 0.01),
        "repeat_half_tokens": Range(10.0, 5.0, 2.0),
        "verified_share": Range(1.0, 0.0, 0.0),
        "verified_new_share": Range(1.0, 0.0, 0.0),
        "length": Range(0.8, 1.0, 1.5),
        "pace": Range(0.5, 1.0, 3.0),
        "batch_hours": Range(0.2, 2.0, 24.0),
    },
    {"label": 4, "teach": 4, "answer": 7, "judge": 28, "expand": 5, "refine": 16, "benchmark": 20},
)
"""Our rule-based stand-in, on its own verifiable instructions."""

NEW_ARE_HARD = 0.6
"""Share of new instructions that the difficulty check keeps: they imitate hard ones."""

_TOGETHER: tuple[tuple[Unknown, ...], ...] = (
    ("hard_share", "easy_share"),
    ("passes_share", "keeps_type_share"),
    ("skew", "unevenness"),
    (
        "usable_share",
        "reask_share",
        "repeat_half_tokens",
        "verified_share",
        "verified_new_share",
        "length",
        "pace",
        "batch_hours",
    ),
)
"""What goes to an end together; the groups are independent of each other."""


def priors_of(endpoint: EndpointConfig) -> Priors:
    """What is assumed of an endpoint."""
    return STANDIN if endpoint.is_standin else MODEL


def scenarios(priors: Priors, known: Scenario = MappingProxyType({})) -> Iterator[Scenario]:
    """The likely scenario first, then every combination of the ends; ``known`` is likelier than what is assumed."""
    ranges = priors.ranges
    yield {name: each.likely for name, each in ranges.items()} | {**known}
    for ends in product(("few", "many"), repeat=len(_TOGETHER)):
        yield {name: getattr(ranges[name], end) for group, end in zip(_TOGETHER, ends, strict=True) for name in group}


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
    own_answers: int = 0
    """Rows that bring their plain answer with them; the teacher is not asked for it."""
    references: int = 0
    """Rows with a reference."""
    notes: tuple[str, ...] = ()
    """What its reading left out."""


@dataclass(frozen=True, slots=True)
class Prompts:
    """The prompts of one role, of which a mean stands for all."""

    tokens: float
    """Of one on average, without the answers that stand in it."""
    shows: Mapping[Role, float] = field(default_factory=dict)
    """Role → how many of its answers stand in one; pointwise, the teacher's stands for the student's too."""
    calls: int = 0
    """Of a benchmark: what is asked about one student."""


@dataclass(frozen=True, slots=True)
class BenchmarkSize:
    """What one benchmark asks of one student and of its judge."""

    questions: int
    asks: Mapping[Role, Prompts]
    """`answer`: a turn of all questions each; `benchmark`: the judgments, where anybody judges."""


@dataclass(frozen=True, slots=True)
class Work:
    """Answers of one kind that one stage needs, or the steps of one training."""

    stage: str
    """As reports name it."""
    role: Role | None
    """Nothing for training."""
    round: int | None = None
    benchmark: str = ""
    """Benchmark that is asked; empty for the stages that are no part of one."""
    needed: float = 0.0
    paid: float = 0.0
    """Of them, those that neither the store nor an equal request gives."""
    steps: float = 0.0
    examples: float = 0.0
    """Examples seen, epochs counted, of training."""
    size: curriculum.RoundSize | None = None
    """Of a round's training: its mixture, as far as the easy rows reach."""


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
    run = _Run(config, pool, scenario, student_tokens)
    for at in plan(config):
        if at.name in COUNTED:
            yield from COUNTED[at.name](run, at)
        elif at.benchmark and benchmarks:
            asks = benchmarks[at.benchmark].asks
            yield from (run.asked(at, asks[role].calls) for role in at.stage.roles if role in asks)
        elif at.stage.asks:
            yield run.asked_of_all(at)


def is_repeated(config: RunConfig, work: Work) -> bool:
    """Whether a baseline takes such work once more: the training of every round, the scoring of the last student."""
    scores_last = work.round == config.run.rounds and work.stage in lines_of_evaluation()
    return scores_last or bool(work.steps and work.round)


class _Run:
    """The counts of a run up to the stage that is counted next; the methods stand in the order of the stages."""

    def __init__(self, config: RunConfig, pool: Pool, scenario: Scenario, student_tokens: float) -> None:
        self.config, self.pool, self.scenario, self.student_tokens = config, pool, scenario, student_tokens
        self.wanted = expected_shares(config, pool.natural_shares, scenario["skew"])
        """Task type → share of every mixture."""
        usable = pool.rows * (scenario["usable_share"] if pool.usable_share is None else pool.usable_share)
        judged = config.data.judged
        self.held_out = float(sum(judged.sizes(int(usable)).values())) if judged else 0.0
        """Of the pool: instructions of the judged held-out set."""
        self.rows = max(0.0, usable - self.held_out)
        """Of the round's pool: what has a usable answer and is not held out."""
        self.judged = self.judged_held_out = self.scored = self.seeds = self.refined = 0.0
        """Rows that some round judged; of the held-out set, those that some student was judged on; rows that the seeds
        and the easy part are taken from; seeds; rows whose answers an earlier round refined, so that a seed among them
        is not paid again."""
        self.size = curriculum.RoundSize(0, 0, 0)
        """Of the round: its mixture, as far as the easy rows reach."""
        self.hard = self.new = 0.0
        """Of the round: rows of its hard part, and of these the new instructions."""
        self.accepted: dict[str, float] = {}
        """Task type → expansions of this round."""
        self.added = dict.fromkeys(self.wanted, 0.0)
        """Task type → expansions of the rounds before."""

    def asked(self, at: StageAt, needed: float, paid: float | None = None, role: Role | None = None) -> Work:
        """A stage's calls, of its own role unless another is given, with those that are asked for once more."""
        role, kept = role or at.stage.roles[0], needed if paid is None else paid
        teacher, judged = self.config.teacher.reasks, self.config.evaluation.judged.get(at.benchmark or "")
        reasks = {"label": teacher, "expand": teacher, "judge": self.config.judge.reasks}
        is_reasked = judged.reasks if role == "benchmark" and judged else reasks.get(role, 0)
        times = 1 + (self.scenario["reask_share"] if is_reasked else 0.0)
        return Work(at.stage.line, role, at.round, at.benchmark or "", needed * times, kept * times)

    def asked_of_all(self, at: StageAt) -> Work:
        """The calls for every row that a stage reads: of the held-out set, of the pool as it comes, or of the round."""
        rows, role = self.rows if at.round is not None else float(self.pool.rows), at.stage.roles[0]
        if at.name == ANSWER_HELDOUT.name:
            rows = self.pool.heldout_rows + self.held_out
        stored = {"label": self.pool.stored_labels, "teach": self.pool.stored_answers}.get(role, 0)
        rows -= self.pool.own_answers if role == "teach" else 0
        calls = at.stage.calls_per_row or 1
        return self.asked(at, rows * calls, (rows - stored) * calls)

    def discover(self, at: StageAt) -> Iterator[Work]:
        yield self.asked(at, 1)

    def judge(self, at: StageAt) -> Iterator[Work]:
        yield self._verdicts(at, self.rows, self.rows - self.judged, sum(self.added.values()))
        self.judged = self.rows

    def judge_heldout(self, at: StageAt) -> Iterator[Work]:
        yield self._verdicts(at, self.held_out, self.held_out - self.judged_held_out)
        self.judged_held_out = self.held_out

    def expand(self, at: StageAt) -> Iterator[Work]:
        """For each task type as many new instructions as its seeds lack, of which a part passes the gates."""
        settings, checks = self.config.round(at.number), self.config.checks_expansion(at.number)
        if self.config.verdict_round(at.number) in (at.number, None):
            self.scored = self.rows
        share = settings.selection.fixed_share
        self.seeds = self.scored * (self.scenario["hard_share"] if share is None else share)
        is_judged = self.config.verdict_round(at.number) is not None
        easy = (self.scored - self.seeds) * (self.scenario["easy_share"] if is_judged else 1.0)
        self.size = curriculum.size_round(self.config.examples(at.number), settings.alpha or 0.0, int(easy))
        wanted = curriculum.quotas(self.size.hard, self.wanted)
        # Seeds that are chosen whatever their difficulty are of a task type as often as the pool is.
        uneven = self.scenario["unevenness"] if settings.selection.reads_difficulty else 0.0
        lacks = {name: self._lacking(name, quota, uneven) for name, quota in wanted.items()}
        passing, keeps = self.scenario["passes_share"], self.scenario["keeps_type_share"]
        # What gets another label is filed there where that type lacks.
        lacking = sum(share for name, share in self.wanted.items() if lacks[name] >= 1) / sum(self.wanted.values())
        right = passing * (keeps + (1 - keeps) * lacking)
        usable = right * self.scenario["usable_share"]
        accepted_share = usable * (NEW_ARE_HARD if checks else 1.0)
        requests = {name: self._requests(each, accepted_share) for name, each in lacks.items()}
        self.accepted = {name: each * accepted_share for name, each in requests.items()}
        self.new = sum(min(lacks[name], each) for name, each in self.accepted.items())
        self.hard = sum(wanted.values()) - sum(lacks.values()) + self.new
        asked = sum(requests.values())
        yield self.asked(at, asked)
        yield self.asked(at, asked * passing, role="label")
        yield self.asked(at, asked * right, role="teach")
        if checks:
            yield self.asked(at, asked * usable, role="answer")
            yield self._verdicts(at, asked * usable, asked * usable, asked * usable)

    def refine(self, at: StageAt) -> Iterator[Work]:
        if self.config.curriculum.refine:
            known = (self.hard - self.new) * self.refined / self.rows if self.rows else 0.0
            yield self.asked(at, self.hard, self.hard - known)
            self.refined += self.hard - known

    def train(self, at: StageAt) -> Iterator[Work]:
        drawn, epochs = min(self.config.examples(0), self.rows), self.config.basic_tuning.epochs
        if at.number:
            drawn, epochs = self.hard + self.size.easy, self.config.round(at.number).epochs
        steps = math.ceil(round(drawn * epochs / self.config.batch_size(at.number), 6))
        size = self.size if at.number else None
        yield Work(at.stage.line, None, at.round, steps=steps, examples=drawn * epochs, size=size)
        # What the round accepted is in the pool of the next one.
        self.rows += sum(self.accepted.values())
        self.added = {name: count + self.accepted.get(name, 0.0) for name, count in self.added.items()}

    def _requests(self, lacks: float, accepted_share: float) -> float:
        """What all waves ask for one task type: each for what still lacks, and some more."""
        settings, asked = self.config.curriculum.expansion, 0.0
        for _ in range(settings.max_waves if self.seeds >= 1 else 0):
            if lacks < 0.5:
                break
            wave = math.ceil(round(lacks * settings.oversample, 6))
            asked, lacks = asked + wave, lacks - wave * accepted_share
        return asked

    def _lacking(self, task_type: str, quota: int, uneven: float) -> float:
        """What the seeds of a task type lack to its quota, over the shares and the hardness that it may have."""
        rate, first = self.seeds / self.rows if self.rows else 0.0, self.rows - sum(self.added.values())
        rows = [first * share + self.added[task_type] for share in self._natural(task_type)]
        hardness = (1 - uneven, 1.0, 1 + uneven)
        lacks = [max(0.0, quota - rate * factor * each) for each in rows for factor in hardness]
        return sum(lacks) / len(lacks)

    def _natural(self, task_type: str) -> Collection[float]:
        """The shares of the first pool that a task type may have, equally likely."""
        known, skew = self.pool.natural_shares, self.scenario["skew"]
        if known is not None:
            return [known.get(task_type, 0.0)]
        is_even = skew == 0 or self.config.curriculum.target_shares == "natural"
        return [self.wanted[task_type]] if is_even else _skewed(self.wanted, skew).values()

    def _verdicts(self, at: StageAt, rows: float, fresh: float, new: float = 0.0) -> Work:
        """Verdicts on ``rows`` instructions, ``fresh`` of which no round judged before; ``new`` are not of the pool.

        An answer that did not change since the last round is not paid again, and what the verifier scores is no call.
        """
        judge = self.config.judge
        rows, fresh = (self._not_verified(each, min(each, new)) for each in (rows, fresh))
        greedy = self.config.student.sampling.temperature == 0
        equal = 0.5 ** (self.student_tokens / self.scenario["repeat_half_tokens"]) if greedy else 0.0
        changed = fresh + (rows - fresh) * (1 - equal)
        return self.asked(at, *judging.mode_of(judge).calls(judge, rows, fresh, changed, equal), role="judge")

    def _not_verified(self, rows: float, new: float) -> float:
        """Of ``rows`` instructions, ``new`` of them not of the pool, those that a judge is asked about."""
        judge, verified, of_new = (
            self.config.judge,
            self.scenario["verified_share"],
            self.scenario["verified_new_share"],
        )
        if not judge.endpoints:
            return 0.0
        return (rows - new) * (1 - verified) + new * (1 - of_new) if judge.verifies("judge") else rows


COUNTED: dict[str, Callable[[_Run, StageAt], Iterator[Work]]] = {
    "discover": _Run.discover,
    "judge": _Run.judge,
    "judge_heldout": _Run.judge_heldout,
    "expand": _Run.expand,
    "refine": _Run.refine,
    "train": _Run.train,
}
"""The stages that do not ask once for every row that they read, or after which another number of them is there."""


def expected_shares(config: RunConfig, natural: Mapping[str, float] | None, skew: float) -> Mapping[str, float]:
    """Pr(task type) of the mixtures; where it is to be natural and that is not known, ∝ 1 / place^skew."""
    found = _skewed(config.curriculum.types.names, skew) if natural is None else natural
    return curriculum.target_shares(config.curriculum.target_shares, found)


def _skewed(names: Collection[str], skew: float) -> dict[str, float]:
    weights = [1 / place**skew for place in range(1, len(names) + 1)]
    return {name: weight / sum(weights) for name, weight in zip(names, weights, strict=True)}
