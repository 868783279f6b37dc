"""What a run has come to, as values: one `RoundSummary` a round, one `RunSummary` a run. A part not done is None.

Tables keep their stage's grain: one row an instruction in `difficulty`, one row a split and category in `scores`.
"""

from collections.abc import Mapping
from dataclasses import astuple, dataclass, field
from typing import Literal, cast

import polars as pl

from tapir_core import paths, statistics, task_types
from tapir_core.config import ACCURACY, RETENTION, RunConfig
from tapir_core.curriculum import Habits
from tapir_core.evaluation.scores import ALL
from tapir_core.judging.agreement import NO_TASK_TYPE
from tapir_core.stages import Compared, StageAt

ROLES = ("teacher", "judge")
"""Who is paid."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Calls to a model and what they cost."""

    calls: int = 0
    """Answers that this run's last start of the stage asked for."""
    stored: int = 0
    """Answers that the store gave: of other runs, or of earlier starts of this one."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float = 0.0
    """Price of all these answers, those from the store included: each was paid for once."""

    @classmethod
    def of(cls, counts: Mapping[str, float]) -> "Usage":
        """What the counts of a manifest say."""
        return cls(
            **{name: int(counts.get(name, 0)) for name in ("calls", "stored", "prompt_tokens", "completion_tokens")},
            usd=counts.get("usd", 0.0),
        )

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(*(one + more for one, more in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True, slots=True)
class StageSummary:
    """One stage as the method names it: an expansion with its waves, an evaluation with its answers."""

    name: str
    asks: Literal["teacher", "judge", "student", ""]
    """Who is asked; the student's answers cost time and no money."""
    rows: int
    seconds: float
    """As its last start took; stages that overlap count the overlap each."""
    missing: dict[str, int]
    """Kind of failure → rows that the stage went on without."""
    usage: Usage

    @property
    def whole_seconds(self) -> float:
        """Seconds as if one start had asked for all; NaN where the last one asked for less than half.

        What a start takes before the first answer would then count for more answers than it gave.
        """
        calls, stored = self.usage.calls, self.usage.stored
        return self.seconds if not stored else self.seconds * (1 + stored / calls) if calls >= stored else float("nan")


@dataclass(frozen=True, slots=True)
class GatedSummary:
    """What came of the expansion of one round, or of the refinement of its hard part."""

    asked: int
    accepted: int
    rejected: dict[str, int]
    """Gate or reason → candidates that failed it first; in place of a refined answer the plain one was kept."""


@dataclass(frozen=True, slots=True)
class MixtureSummary:
    """The training set of one round."""

    rows: int
    """Instructions."""
    asked: int
    """N as it was asked for."""
    alpha: float | None
    """α as it was asked for; nothing of S_0, which has no hard part."""
    reduced_to: int | None
    """N as far as the easy rows reach at that α; nothing where they reach."""
    missing: int
    """Examples that it is short of the N that was asked for."""
    origins: dict[str, int]
    """seed, expansion, easy; S_0's come from the pool."""
    shortfall: dict[str, int]
    """Task type → examples that were wanted and not there."""
    shares: pl.DataFrame
    """task_type, natural, target, got: one row for each task type of the run."""
    thoughts: int = 0
    """Conversations whose answer has a thought before it."""
    conversations: int = 0
    """More than its rows where an instruction has several answers."""

    @property
    def hard_share(self) -> float | None:
        """α as it is: the share of seeds and new instructions; nothing of S_0 and of an empty mixture."""
        return None if self.alpha is None or not self.rows else (self.rows - self.origins.get("easy", 0)) / self.rows


@dataclass(frozen=True, slots=True)
class Score(statistics.Estimate):
    """A held-out score, such as an accuracy: a share (0-1), of instructions.

    Those without an answer, or without a verdict, have failed.
    """

    settings: str = ""
    """How the answers were drawn, in words."""
    judge: str = ""
    """Who judged, or the rule that marked."""
    metric: str = ACCURACY


@dataclass(frozen=True, slots=True)
class RoundSummary:
    """One round: -1 is the backbone, 0 is S_0; or the average of the rounds' students (`AVERAGE`)."""

    number: int
    stages: tuple[StageSummary, ...] = ()
    """Stages done, in the order of the method."""
    pool: int | None = None
    """Instructions with a usable teacher answer."""
    not_judged: str | None = None
    """Where the seeds come from in a round that asks no student and no judge about its pool; nothing of others."""
    difficulty: pl.DataFrame | None = None
    """instruction_id, task_type, mfd, order_gap, seed (null before the selection) of every scored instruction."""
    unscored: dict[str, int] | None = None
    """Reason → instructions of the pool without an MFD."""
    seeds: int | None = None
    delta: float | None = None
    unfit: dict[str, int] = field(default_factory=dict)
    """Reason → scored instructions that are neither seeds nor easy; those that make no pair to learn from are such."""
    expansion: GatedSummary | None = None
    refinement: GatedSummary | None = None
    mixture: MixtureSummary | None = None
    stated: float | None = None
    """Share of the student's answers to the test split that state a final result as they were taught to."""
    habits: Habits = field(default_factory=Habits)
    """How the student writes."""
    alarm: str | None = None
    """What is wrong with that, in words, where the student is not to be the best for it."""
    scores: pl.DataFrame | None = None
    """Held-out figures with the columns of `scores/`; the category `all` is the whole split."""
    benchmarks: pl.DataFrame | None = None
    """The figures of every benchmark that the student was asked, with the columns of their ``scores/``."""

    @property
    def scored(self) -> int | None:
        """Instructions with an MFD."""
        return None if self.difficulty is None else self.difficulty.height

    @property
    def hard_share(self) -> float | None:
        """Seeds as a share of the scored instructions."""
        return None if self.seeds is None or not self.scored else self.seeds / self.scored

    @property
    def order_gap(self) -> float | None:
        """Mean order gap; nothing when one order only was asked."""
        return None if self.difficulty is None else cast(float | None, self.difficulty["order_gap"].mean())

    @property
    def usage(self) -> Usage:
        """What teacher and judge were asked in the round."""
        return sum((stage.usage for stage in self.stages if stage.asks != "student"), Usage())

    @property
    def seconds(self) -> float:
        """Seconds of all stages; overlaps count twice."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def metric(self) -> str:
        """The metric that the student is scored by: quality retention where there is a judged set, else accuracy."""
        return RETENTION if self.scores is not None and RETENTION in self.scores["metric"] else ACCURACY

    def score(self, split: str, category: str = "all", metric: str = "") -> Score | None:
        """The score on a split, or on one task type of it; of another ``metric`` than the student's own, if given."""
        if self.scores is None:
            return None
        rows = self.scores.filter(split=split, category=category, metric=metric or self.metric)
        found = rows.select("value", "low", "high", "n", "n_failed", "note", "settings", "judge", "metric").rows()
        return Score(*found[0]) if found else None

    def by_task_type(self) -> dict[str, Score]:
        """Task type → its score on the test split, of those that have one."""
        found = set() if self.scores is None else {*self.scores.filter(split="test")["category"]} - {ALL, NO_TASK_TYPE}
        return {name: score for name in task_types.in_order(found) if (score := self.score("test", name)) is not None}


@dataclass(frozen=True, slots=True)
class Decontamination:
    """How what is trained on was kept apart from evaluation."""

    benchmarks: pl.DataFrame
    """One row a benchmark, the held-out set first, those without a hit too.

    Columns: benchmark, questions (that were looked for; each turn is one), pool (instructions that left it), expansion
    (candidates of all rounds that were kept out).
    """
    rows: pl.DataFrame
    """place, and `tapir_core.data.decontamination.CONTAMINATED`: one row for each instruction and benchmark."""


@dataclass(frozen=True, slots=True)
class Gain:
    """How much better one student is than another on the same test instructions."""

    before: int
    after: int
    """Rounds of the two students."""
    paired: statistics.Estimate
    """In percentage points, over the instructions that both answered, and that are judged of both."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """One plain fine-tune beside a run, on as much as all its rounds: the student of another run's round 1."""

    run: str
    """Name of that run."""
    next_stage: StageAt | None
    """What is left of it; nothing when it is done."""
    last: int
    """Round of the student that it is compared with, the last one."""
    student: RoundSummary | None
    """Its own; None before anything of it is done."""
    tokens: int
    """Trained on after S_0."""
    run_tokens: int
    """By the run, in all its rounds."""
    equal: str = "tokens"
    """What it has as much of as the run (`tapir_core.paths.BASELINES`)."""
    seconds: float = 0.0
    """Time of the machine after S_0, as `RunReader.machine_seconds` counts it; and of the run, in all its rounds."""
    run_seconds: float = 0.0
    difference: statistics.Resampled | None = None
    """What the run's student has more than the baseline's, in percentage points over the test instructions."""
    why: str = ""
    """Why there is no difference, once it is done."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer to read."""

    who: str
    """Who gave it, or in which order a judge was asked."""
    outcome: str
    """What it came to, in words; empty where nobody marked it."""
    text: str
    correct: bool | None = None


@dataclass(frozen=True, slots=True)
class Example:
    """An instruction with answers to read side by side."""

    why: str
    """Why it is shown: what happened between the second-last and the last of the compared students, a gap."""
    task_type: str
    instruction: str
    answers: tuple[Answer, ...]
    system: str = ""
    reference: str = ""


@dataclass(frozen=True, slots=True)
class Examples:
    """Examples to read, and the groups that they were drawn from."""

    shown: tuple[Example, ...]
    n: int
    """Instructions that every compared student answered."""
    groups: dict[str, int]
    """Why → instructions, in the order of what may have happened; empty where nobody knows what is right."""


@dataclass(frozen=True, slots=True)
class RunProgress:
    """How far a run is, as `tapir status` says."""

    stages: dict[StageAt, int | None]
    """Planned stage → rows that it holds; nothing where it is not done."""
    next_stage: StageAt | None
    """Nothing of a run that is done; of one that is stopped, what its average still takes, if anything."""
    stopped: str | None
    """Why the stop rule ended it."""
    student: int | None
    """The last student that was scored, the average after those of rounds."""
    split: str
    score: Score | None
    """Its held-out accuracy, on the test split where there is one."""
    seconds_left: float | None
    """About; nothing where nobody can say, 0 of a run that is over."""


@dataclass(frozen=True, slots=True)
class RunSummary:
    """A whole run, as far as it is."""

    config: RunConfig
    name: str
    root: str
    created: str
    updated: str
    """When its last stage was done; empty before the first."""
    next_stage: StageAt | None
    """What a resume would do first; nothing when the run is done."""
    stopped: str | None
    """Why the stop rule ended the run early."""
    error: str = ""
    """What the last start ended with; empty where it did its work or is at it."""
    settled: tuple[tuple[str, str, str], ...] = ()
    """What endpoints do not take: fields of the configuration, their value in this run, what the endpoint said."""
    pool: int | None = None
    """Instructions of the pool, before unusable teacher answers leave it."""
    own_answers: int = 0
    """Plain answers that the pool brought with it, and nobody was asked for."""
    unusable: dict[str, int] | None = None
    """Reason → instructions that left the pool."""
    dropped: dict[str, int] = field(default_factory=dict)
    """What the reading of the pool left out: bad rows, duplicates."""
    decontamination: Decontamination | None = None
    """What held an evaluation question; nothing where none was looked for."""
    stages: tuple[StageSummary, ...] = ()
    """Stages that run once a run."""
    rounds: tuple[RoundSummary, ...] = ()
    """Backbone, S_0, the rounds and their average, of which something is done, in order."""
    outputs: dict[str, pl.DataFrame] = field(default_factory=dict)
    """Model of a file → its figures on benchmarks, as a round has them."""
    best: int | None = None
    """Student of the highest dev score; of a judged dev split the last of a round, unless another is shown to be
    better."""
    gain: Gain | None = None
    """From S_0 to the last student that was evaluated."""
    baselines: tuple[Baseline, ...] = ()
    """Plain fine-tunes beside the run that have begun (`tapir_core.comparison.baseline`)."""
    busy_seconds: float = 0.0
    """Time in which at least one of the stages above was at work; pauses between starts are left out."""

    @property
    def metric(self) -> str:
        """The metric of the held-out set that the run goes by."""
        return self.config.data.metric

    @property
    def report_path(self) -> str:
        """Where the report lies."""
        return f"{self.root}/{self.name}/{paths.REPORT}"

    @property
    def all_stages(self) -> list[StageSummary]:
        """Those that run once, then those of each round."""
        return [*self.stages, *(stage for each in self.rounds for stage in each.stages)]

    @property
    def usage(self) -> Usage:
        """What teacher and judge were asked."""
        return self.usage_of()

    def usage_of(self, *, stage: str | None = None, role: str | None = None) -> Usage:
        """What teacher and judge were asked: in all stages or in one, both of them or one."""
        asked = [each for each in self.all_stages if each.asks in ROLES and stage in (None, each.name)]
        return sum((each.usage for each in asked if role in (None, each.asks)), Usage())

    def round(self, number: int) -> RoundSummary | None:
        """The round, if something of it is done."""
        return next((each for each in self.rounds if each.number == number), None)

    @property
    def mixed_rounds(self) -> list[RoundSummary]:
        """The rounds that have a training set; S_0 has one too, but is none of them."""
        return [each for each in self.rounds if each.mixture is not None and each.number > 0]

    @property
    def benchmarks(self) -> dict[Compared, pl.DataFrame]:
        """Student, or model of a file → its figures on benchmarks; who was asked none is left out."""
        of_students = ((each.number, each.benchmarks) for each in self.rounds)
        found: list[tuple[Compared, pl.DataFrame | None]] = [*of_students, *self.outputs.items()]
        return {who: rows for who, rows in found if rows is not None}

    @property
    def students(self) -> tuple[RoundSummary, ...]:
        """Rounds whose student was evaluated, and their average if it was."""
        return tuple(each for each in self.rounds if each.scores is not None)

    @property
    def by_round(self) -> tuple[RoundSummary, ...]:
        """Those of the students that stand in a row, each trained from the one before."""
        return tuple(each for each in self.students if each.number != paths.AVERAGE)
