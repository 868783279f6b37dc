"""How many answers a run needs: its likely course, stage by stage, on counts alone.

Who is asked for what in which round stands in the declarations of the stages; quotas and mixtures are those of
`tapir_core.curriculum`. What only a model decides (which instructions are hard, which new ones pass) is a likely share
from `curriculum.sizes`. The range around the likely figures stands in `run`.

Limits: unknown task types of a pool are taken to be those of the mixtures; every answer differs from that of the round
before; no round ends early by the stop rule; a stage that is not counted below asks for every row that it reads.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from tapir_core import curriculum, judging, stages
from tapir_core.calls import Role
from tapir_core.config import RunConfig
from tapir_core.curriculum.sizes import likely_parts, priors_of
from tapir_core.paths import BACKBONE

_OF_STANDIN: Mapping[Role, float] = {"label": 4, "teach": 4, "judge": 28, "expand": 5, "refine": 16, "benchmark": 20}
_OF_LLM: Mapping[Role, float] = {
    "label": 12,
    "teach": 250,
    "judge": 120,
    "expand": 20,
    "refine": 400,
    "benchmark": 150,
    "answer": 250,
    "rollout": 250,
    "score": 1,
}
REPLY_TOKENS: Mapping[bool, Mapping[Role, float]] = {True: {**_OF_LLM, **_OF_STANDIN, "answer": 7}, False: _OF_LLM}
"""Whether the stand-in is asked → completion tokens of a reply; an expansion adds the length of an instruction."""

_HARDNESS = (0.3, 1.0, 1.7)
"""Times its share of the seeds that a task type has, for some are harder than others."""
_NEW_ARE_HARD = 0.6
"""Share of new instructions that the difficulty check keeps: they imitate hard ones."""


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
    """Labels and plain answers to its rows that the store holds."""
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


Calls = dict[Role, tuple[float, float]]
"""Role → calls that are needed, and calls that are paid."""

Asks = Mapping[Role, Prompts]
"""What a benchmark asks of one student: `answer`, a turn of all questions each; `benchmark`, judgments, if any."""


@dataclass(frozen=True, slots=True)
class Work:
    """Answers of one kind that one stage needs, or the steps of one training."""

    stage: str
    """As reports name it."""
    round: int | None = None
    benchmark: str = ""
    """Benchmark that is asked; empty for the stages that are no part of one."""
    role: Role | None = None
    """None for training."""
    needed: float = 0.0
    paid: float = 0.0
    """Of them, those that the store does not give."""
    steps: float = 0.0
    examples: float = 0.0
    """Conversations seen, epochs counted, of training."""
    size: curriculum.RoundSize | None = None
    """Of a round's training: its mixture, as far as the easy rows reach."""
    starts: int = 0
    """Servers or trainings that start for it."""

    @property
    def is_open(self) -> bool:
        """Whether the models' answers decide how many calls it takes."""
        return bool(
            self.round and self.round > 0 and self.stage not in stages.lines(stages.EVALUATION, stages.BENCHMARK)
        )


def workload(config: RunConfig, pool: Pool, benchmarks: Mapping[str, Asks]) -> Iterator[Work]:
    """The likely calls and trainings of a run, in the order of its plan; ``benchmarks`` are those of each round."""
    counts, serving = _Counts(config, pool, benchmarks), ""
    for at in stages.plan(config):
        works = list(counts.of(at))
        model = stages.served_in_turn(config, at) if any(work.paid for work in works) else ""
        if at.stage.trains or model not in ("", serving):
            works[0] = replace(works[0], starts=1)
        # A training takes the machine from every server, and another checkpoint takes another start.
        serving = model or serving if at.stage.columns else ""
        yield from works


def is_repeated(config: RunConfig, work: Work) -> bool:
    """Whether a baseline takes such work once more: the training of every round, the scoring of the last student."""
    scores_last = work.round == config.run.rounds and work.stage in stages.lines(stages.EVALUATION, stages.BENCHMARK)
    return scores_last or bool(work.steps and work.round)


def conversations_seen(config: RunConfig, number: int, examples: float) -> float:
    """What the training of a round (0: of S_0) on so many examples computes, epochs counted, in conversations.

    Of a pair both, which the base has scored before: a forward pass, a third of what a step takes.
    """
    epochs = config.round(number).epochs if number else config.basic_tuning.epochs
    objective = config.objective(number)
    return examples * objective.conversations * (epochs + (1 / 3 if objective.reads_answers else 0))


class _Counts:
    """The rows of a run up to the next stage."""

    def __init__(self, config: RunConfig, pool: Pool, benchmarks: Mapping[str, Asks]) -> None:
        self.config, self.pool, self.benchmarks = config, pool, benchmarks
        self.priors, judged = priors_of(config.teacher.endpoint), config.data.judged
        own = (pool.rows - pool.own_answers) * (self.priors.usable if pool.usable_share is None else pool.usable_share)
        usable = own + pool.own_answers * (1.0 if pool.usable_share is None else pool.usable_share)
        self.held_out = float(sum(judged.sizes(int(usable), int(own)).values())) if judged else 0.0
        """Of the pool: instructions of the judged held-out set."""
        self.rows = max(0.0, usable - self.held_out)
        """Of the round's pool: usable answers that are not held out."""
        self.judged = self.new = self.hard = 0.0
        """Rows that some round judged; of the round, new instructions, and rows of the hard part."""
        self._labels = len(config.curriculum.types.names) > 1
        self.size = curriculum.RoundSize(0, 0, 0)
        """Of the round: its mixture, as far as the easy rows reach."""

    def of(self, at: stages.StageAt) -> Iterator[Work]:
        """What a stage asks or trains."""
        if at.stage.trains:
            yield self._training(at)
            return
        calls: Calls = (
            {role: (of.calls, of.calls) for role, of in self.benchmarks[at.benchmark].items()}
            if at.benchmark
            else self._calls(at)
        )
        for role in at.stage.roles:
            if role in calls:
                yield Work(at.stage.line, at.round, at.benchmark or "", role, *calls[role])

    def _calls(self, at: stages.StageAt) -> Calls:
        """One for every row that a stage reads, unless it stands here."""
        if at.name == stages.EXPAND.name:
            return self._expand(at.number)
        number = at.round or 0
        stored = {stages.LABEL.name: self.pool.stored_labels, stages.TEACH.name: self.pool.stored_answers}
        rows = {
            stages.DISCOVER.name: 1.0,
            **({} if self._labels else {stages.LABEL.name: 0.0}),
            stages.TEACH.name: float(self.pool.rows - self.pool.own_answers) * self.config.teacher.answers_per_prompt,
            stages.LIKELIEST.name: self.rows * self.config.teacher.answers_per_prompt,
            stages.ANSWER_HELDOUT.name: self.pool.heldout_rows + self.held_out,
            stages.JUDGE_HELDOUT.name: self.held_out,
            # Instructions without a reference are counted too.
            stages.ATTEMPT.name: self.rows * (self.config.round(number).selection.attempts if number > 0 else 0),
            **dict.fromkeys(
                (stages.ROLLOUT.name, stages.SCORE.name),
                (self.hard + self.size.easy) * self.config.objective(number).rollouts,
            ),
            stages.REFINE.name: self.hard if self.config.refines(number) else 0.0,
        }.get(at.name, self.pool.rows if at.round is None else self.rows)
        if at.stage.asks == "judge":
            judged = {stages.JUDGE.name: self.judged, stages.JUDGE_HELDOUT.name: 0.0 if at.round == BACKBONE else rows}
            self.judged = rows if at.name == stages.JUDGE.name else self.judged
            return {"judge": self._verdicts(rows, rows - judged.get(at.name, 0.0))}
        calls = at.stage.calls_per_row or 1
        return dict.fromkeys(at.stage.roles[:1], (rows * calls, max(0.0, rows - stored.get(at.name, 0)) * calls))

    def _training(self, at: stages.StageAt) -> Work:
        """The training of a round, whose new instructions are in the pool of the next one."""
        answers = self.config.teacher.answers_trained(self.config.objective(at.number).type)
        drawn, epochs = answers * min(self.config.examples(0), self.rows), self.config.basic_tuning.epochs
        if at.number:
            of_hard = 1 if self.config.refines(at.number) else answers
            drawn, epochs = of_hard * self.hard + answers * self.size.easy, self.config.round(at.number).epochs
        steps = math.ceil(round(drawn * epochs / self.config.batch_size(at.number), 6))
        self.rows, self.new = self.rows + self.new, 0.0
        return Work(
            at.stage.line,
            at.round,
            steps=steps,
            examples=conversations_seen(self.config, at.number, drawn),
            size=self.size if at.number else None,
        )

    def _expand(self, number: int) -> Calls:
        """For each task type as many new instructions as it has too few seeds, of which a part passes the gates."""
        seeds, easy = likely_parts(
            self.config, number, self.rows if self.config.verdict_round(number) is None else self.judged
        )
        self.size = curriculum.size_round(self.config.examples(number), self.config.round(number).alpha or 0.0, easy)
        wanted = expected_shares(self.config, self.pool.natural_shares)
        natural, priors = self.pool.natural_shares or wanted, self.priors
        hardness = _HARDNESS if self.config.round(number).selection.reads_difficulty else (1.0,)
        lacks = [
            max(0.0, quota - seeds * natural.get(name, 0.0) * of_seeds) / len(hardness)
            for name, quota in curriculum.quotas(self.size.hard, wanted).items()
            for of_seeds in hardness
        ]
        missing = int(sum(lacks))
        self.new = missing if seeds and self.config.waves(number) else 0.0
        self.hard = self.size.hard - missing + self.new
        checks = self.config.checks_expansion(number)
        asked = self.new / (priors.passing * priors.usable * (_NEW_ARE_HARD if checks else 1.0))
        passing, usable = asked * priors.passing, asked * priors.passing * priors.usable
        labelled = passing if self._labels else 0.0
        calls: Calls = {"expand": (asked, asked), "label": (labelled, labelled), "teach": (passing, passing)}
        if checks:
            calls["answer"], calls["judge"] = (usable, usable), self._verdicts(usable, usable, 0)
        return calls

    def _verdicts(self, rows: float, fresh: float, references: int | None = None) -> tuple[float, float]:
        """Calls for verdicts on ``rows`` instructions, ``fresh`` of them never judged before.

        A verifier scores those with a reference, by default as many as the pool has.
        """
        judge, share = self.config.judge, 1.0 if self.config.judge.endpoints else 0.0
        if judge.verifies("judge"):
            share *= 1 - (self.pool.references if references is None else references) / max(1, self.pool.rows)
        return judging.mode_of(judge).calls(share * rows, share * fresh)


def expected_shares(config: RunConfig, natural: Mapping[str, float] | None) -> Mapping[str, float]:
    """Pr(task type) of the mixtures; unknown ``natural`` shares are taken to be equal."""
    names = config.curriculum.types.names
    known = dict.fromkeys(names, 1 / len(names)) if natural is None else natural
    return curriculum.target_shares(config.curriculum.target_shares, known)
