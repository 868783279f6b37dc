"""What one run of a comparison came to: who was right about what, what it trained on, what it asked and was paid for.

Read from its folder and the call store, or from a file: the run seeds of one comparison can be made on several
machines, or one by one. Such a file is JSON, one a run, named after it: marks of each student, trainings, calls and
costs; no model and no answer. It also holds what the comparison says of the run, its whole configuration first, so that
a result of another one is refused. It answers for what goes into a stage of the run, and for nothing else: machines may
differ in addresses, engine environments and stores. A setting that is newer than the file counts there as its default.
A result that another version of the stand-in or of a shipped prompt made is read with that version: it is for who
compares to mix no two.

Limits: with `expansion.check_difficulty` the judge's calls in an expansion count as the teacher's.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl

from tapir_core import errors, paths, sources, standin, storage
from tapir_core.calls import Spend
from tapir_core.calls.budget import DRIVING, UNPAID
from tapir_core.comparison.plan import Arm, ComparisonPlan, PlannedRun
from tapir_core.config import RunConfig, StandinEndpoint, load, presets
from tapir_core.data.dataset import TRAIN_AGAIN, read_json
from tapir_core.evaluation.scores import grade_answers
from tapir_core.run_folder import RunFolder
from tapir_core.stages import (
    BENCHMARK,
    HELDOUT,
    JUDGE_HELDOUT,
    LABEL,
    MIX,
    TRAIN,
    graded_of,
    plan,
    settings_of,
    used_files,
)
from tapir_core.summary import summarise
from tapir_core.summary.types import ROLES, RunSummary, StageSummary, Usage

_UNPAID = {*UNPAID, DRIVING}
"""In the ledger of a run: the student's own answers, and the hours of the whole."""

_FORMAT = 4
"""Raised when what a file has to hold changes; files of another format are refused. Files of before a field was added
to it lack that."""
_SHOWN = 3
_MARKS = {"1": 1.0, "0": 0.0, "-": None}
"""Right, wrong, or without an answer."""
_OF_STANDIN = ("standin", "standin_pool")
_FIGURES: tuple[str, ...] = ("usd", "stored", "paid_requests", "paid_usd", "seconds", "stages")


@dataclass(frozen=True, slots=True)
class Training:
    """How much one training was; of `training.json`."""

    examples: int
    tokens: int
    """Of examples, prompts included, over all epochs."""
    loss_tokens: int
    """Of them, those with a loss."""
    steps: int
    epochs: float


@dataclass(frozen=True, slots=True)
class Graded:
    """One student on one split."""

    correct: Mapping[str, float]
    """Item → whether the answer was right (1) or not (0), of the items that have one."""
    task_types: Mapping[str, str]
    """Item → task type, of every item that was asked."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Item → weight at natural shares; nothing where they are not known."""

    @property
    def missing(self) -> int:
        """How many items have no answer: they failed for good, or the run went on without them."""
        return len(self.task_types) - len(self.correct)

    def of_type(self, task_type: str) -> "Graded":
        """The same for the items of one task type."""
        asked = {item: each for item, each in self.task_types.items() if each == task_type}
        return Graded({item: self.correct[item] for item in asked if item in self.correct}, asked)


@dataclass(frozen=True, slots=True)
class ArmOutcome:
    """One arm with one run seed."""

    arm: Arm
    run_seed: int
    run: str
    """Its name."""
    trainings: Mapping[int, Training]
    """Of S_0 (0) and each round."""
    students: Mapping[tuple[int, str], Graded]
    """Round (-1 is the backbone) and split → what its student got right."""
    answers: Mapping[str, int]
    """Teacher and judge → answers that the arm takes, as if it stood alone."""
    usd: float
    """Of all of them."""
    stored: int
    """Of them, those that an earlier run, or an earlier start of this one, had asked for."""
    paid_requests: int
    """That this run sent, repeated attempts and mixtures that were given up included."""
    paid_usd: float
    seconds: float
    """At work, without what was taken over."""
    stages: Mapping[str, int]
    """Stage → version of the code that made its rows."""
    shipped: Mapping[str, str]
    """What tapir itself brought → version: `standin` and `standin_pool`, which the stand-in said and drew, and its own
    prompts; without what went into no stage."""
    distinct: int | None = None
    """Instructions in the mixtures of all trainings, each counted once; nothing in a file that does not say."""
    source: str = ""
    """The run, or the file that it was read from, in words."""

    @property
    def last(self) -> int:
        """The round of the last student."""
        return max(self.trainings)

    @property
    def trained(self) -> Training:
        """All rounds after S_0 together."""
        return total(each for number, each in self.trainings.items() if number)

    def tokens_to(self, number: int) -> int:
        """Training tokens after S_0, up to round ``number``."""
        return total(each for place, each in self.trainings.items() if 0 < place <= number).tokens


def total(trainings: Iterable[Training]) -> Training:
    """All of them together; of epochs, which differ, it says none."""
    each = list(trainings)
    return Training(
        examples=sum(one.examples for one in each),
        tokens=sum(one.tokens for one in each),
        loss_tokens=sum(one.loss_tokens for one in each),
        steps=sum(one.steps for one in each),
        epochs=0.0,
    )


def read_outcome(
    run: RunFolder, arm: Arm, run_seed: int, *, paid: Mapping[str, Spend], prices: presets.RolePrices | None
) -> ArmOutcome:
    """What a finished run came to.

    Args:
        run: its folder.
        arm: of which it is a repetition.
        run_seed: its own.
        paid: the ledger of the run, by what calls were for.
        prices: what tokens count at; as they were paid when there are none.
    """
    summary = summarise(run)
    recipe = recipe_stages(summary, run.config)
    trainings = read_trainings(run)
    spent = {role: sum((stage.usage for stage in recipe if stage.asks == role), Usage()) for role in ROLES}
    return ArmOutcome(
        arm=arm,
        run_seed=run_seed,
        run=run.ref.name,
        trainings=trainings,
        students=_students(run, [paths.BACKBONE, *trainings]),
        answers={role: usage.calls + usage.stored for role, usage in spent.items()},
        usd=sum(usd_of(usage, role, prices) for role, usage in spent.items()),
        stored=sum(usage.stored for usage in spent.values()),
        paid_requests=sum(each.requests for role, each in paid.items() if role not in _UNPAID),
        paid_usd=sum(usd_of(each, role, prices) for role, each in paid.items() if role not in _UNPAID),
        seconds=summary.busy_seconds,
        stages=run.stage_versions,
        shipped=shipped_versions(run.config, run.record.ingredients),
        distinct=len({each for number in trainings for each in run.rows(MIX.at(number))["instruction_id"]}),
        source=f"run {run.ref.name}",
    )


def shipped_versions(config: RunConfig, files: Mapping[str, str]) -> dict[str, str]:
    """What tapir brings to a run with these ``files`` (name → digest), as `ArmOutcome.shipped` has it."""
    return _standin_versions(config) | _shipped_prompts(config, files)


def _standin_versions(config: RunConfig) -> dict[str, str]:
    versions = [
        each.version for each in (config.teacher.endpoint, config.judge.endpoint) if isinstance(each, StandinEndpoint)
    ]
    return ({"standin": versions[0]} if versions else {}) | (
        {"standin_pool": standin.POOL_VERSION} if config.data.pool.generated else {}
    )


def _shipped_prompts(config: RunConfig, files: Mapping[str, str]) -> dict[str, str]:
    """The prompts of ``files``, unless a folder of the user's own may have them."""
    if config.run.prompts is not None:
        return {}
    return {name: each for name, each in used_files(config, files).items() if name.startswith("prompt:")}


def read_training(run: RunFolder, number: int) -> Training:
    """How much the training of a round (0: of S_0) was, once it is done."""
    told = read_json(run.storage, paths.training_file(TRAIN.at(number).folder), TRAIN_AGAIN)
    return Training(told["examples"], told["total_tokens"], told["trained_tokens"], told["steps"], told["epochs"])


def read_trainings(run: RunFolder) -> dict[int, Training]:
    """The trainings that are done, of S_0 (0) and each round."""
    return {number: read_training(run, number) for number in run.trained_rounds}


def recipe_stages(summary: RunSummary, config: RunConfig) -> list[StageSummary]:
    """The stages that make the students of a run, without the benchmarks and verdicts that measure them.

    Mixtures drawn from the pool at random, in its own shares, take no labels: those serve the figures by task type.
    """
    goes_by_type = config.curriculum.target_shares != "natural" or any(
        config.round(number).alpha for number in config.round_numbers
    )
    serving = {stage.name for stage in (*BENCHMARK, JUDGE_HELDOUT, *(() if goes_by_type else (LABEL,)))}
    return [stage for stage in summary.all_stages if stage.name not in serving]


def usd_of(spent: Usage | Spend, role: str, prices: presets.RolePrices | None) -> float:
    """What answers cost, or would at ``prices``."""
    if prices is None:
        return spent.usd
    price = prices.judge if role in ("judge", "benchmark") else prices.teacher
    return (
        spent.prompt_tokens * price.usd_per_million_prompt_tokens
        + spent.completion_tokens * price.usd_per_million_completion_tokens
    ) / 1e6


def _students(run: RunFolder, numbers: list[int]) -> dict[tuple[int, str], Graded]:
    found = {}
    weights = sources.natural_weights(run.config.data, run.rows(HELDOUT.at())) if run.config.data.references else {}
    for number in numbers:
        graded = grade_answers(*map(run.rows, graded_of(run.config, number)))
        for split in ("dev", "test"):
            rows = graded.filter(split=split).with_columns(
                pl.col("correct").cast(pl.Float64), pl.col("task_type").fill_null("")
            )
            marks = dict(rows.drop_nulls("correct").select("instruction_id", "correct").iter_rows())
            task_types = dict(rows.select("instruction_id", "task_type").iter_rows())
            found[number, split] = Graded(marks, task_types, {item: weights[item] for item in task_types if weights})
    return found


@dataclass(frozen=True, slots=True)
class ResultsFolder:
    """Results of the runs of one comparison; other files in the folder are left alone."""

    path: Path
    plan: ComparisonPlan
    files_of: Callable[[RunConfig], Mapping[str, str]]
    """Name → digest of the files that go into a run with this configuration."""

    def write(self, outcome: ArmOutcome) -> None:
        """Put what a run came to there, in place of what stood there."""
        planned = self.plan.run(outcome.arm.name, outcome.run_seed)
        marks = {value: mark for mark, value in _MARKS.items()}
        # Every student of a run is asked the same items.
        asked = {split: graded for (_, split), graded in outcome.students.items()}
        told = {
            "format": _FORMAT,
            "of": self._said_of(planned, outcome),
            "run": outcome.run,
            "run_seed": outcome.run_seed,
            "trainings": {str(number): asdict(each) for number, each in outcome.trainings.items()},
            "answers": dict(outcome.answers),
            **{name: getattr(outcome, name) for name in _FIGURES},
            "distinct": outcome.distinct,
            "items": {split: dict(graded.task_types) for split, graded in asked.items()},
            "weights": {split: list(graded.weights.values()) for split, graded in asked.items()},
            "students": [
                {
                    "round": number,
                    "split": split,
                    "marks": "".join(marks[graded.correct.get(item)] for item in asked[split].task_types),
                }
                for (number, split), graded in outcome.students.items()
            ],
        }
        storage.Storage(self.path).write_bytes(self._file(planned).name, (json.dumps(told, indent=1) + "\n").encode())

    def read(self) -> list[ArmOutcome]:
        """What is there, in the order of the plan.

        Raises:
            ConfigError: a file is no result, or that of another configuration.
        """
        return [self._read(each) for each in self.plan.runs if self._file(each).exists()]

    def _read(self, planned: PlannedRun) -> ArmOutcome:
        file = self._file(planned)
        try:
            told = json.loads(file.read_text())
            found, made_of = _from_json(told, planned.arm, str(file)), told["of"]
            config = load.load_resolved(json.dumps(made_of["config"]), source=str(file))
            made_of |= {"config": _fields(config), "files": used_files(config, made_of["files"])}
            found = replace(found, shipped={**found.shipped, **_shipped_prompts(config, made_of["files"])})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise errors.ConfigError(f"{file}: no result of a comparison ({type(error).__name__}: {error})") from error
        wanted = self._said_of(planned, found)
        wanted["files"] |= _shipped_prompts(config, made_of["files"])
        if _recipe(config, made_of["files"]) == _recipe(self._config(planned, found), wanted["files"]):
            wanted |= {name: made_of[name] for name in ("config", "files")}
        wanted |= {name: found.shipped.get(name) for name in _OF_STANDIN}
        if other := [name for name, _, _ in load.differing(made_of, wanted)]:
            more = f" and {len(other) - _SHOWN} more" if len(other) > _SHOWN else ""
            raise errors.ConfigError(
                f"{file} is the result of run {planned.ref.name} with another {', '.join(other[:_SHOWN])}{more}; "
                "give this comparison another name, or remove the file to run it again"
            )
        return found

    def _file(self, planned: PlannedRun) -> Path:
        return self.path / f"{planned.ref.name}.json"

    def _config(self, planned: PlannedRun, made: ArmOutcome) -> RunConfig:
        """What the comparison says of a run, with the stand-in that answered it."""
        config = self.plan.config(planned)
        return load.answered_by(config, made.shipped["standin"]) if "standin" in made.shipped else config

    def _said_of(self, planned: PlannedRun, made: ArmOutcome) -> dict[str, Any]:
        """Everything that the comparison says of a run; in which root it lies is no part of it."""
        config, prices = self._config(planned, made), self.plan.comparison.prices
        return {
            "config": _fields(config),
            "files": used_files(config, self.files_of(config)),
            "match": planned.arm.match,
            "prices": prices.model_dump(mode="json") if prices else None,
            **dict.fromkeys(_OF_STANDIN),
            **_standin_versions(config),
        }


def _recipe(config: RunConfig, files: dict[str, str]) -> Any:
    """All that decides which rows a run ends with: what goes into each stage, and when it stops."""
    return (
        {at: (settings_of(at, config, files), at.stage.reads(config, at)) for at in plan(config)},
        config.curriculum.stop,
    )


def _fields(config: RunConfig) -> dict[str, Any]:
    fields = load.resolved_table(config)
    del fields["run"]["root"]
    return fields


def _from_json(told: dict[str, Any], arm: Arm, source: str) -> ArmOutcome:
    if told["format"] != _FORMAT:
        raise ValueError(f"format {told['format']}, and this version reads {_FORMAT}")
    return ArmOutcome(
        arm=arm,
        run_seed=told["run_seed"],
        run=told["run"],
        trainings={int(number): Training(**each) for number, each in told["trainings"].items()},
        students={
            (each["round"], each["split"]): _graded(
                each["marks"], told["items"][each["split"]], told.get("weights", {}).get(each["split"], [])
            )
            for each in told["students"]
        },
        answers=told["answers"],
        shipped={name: version for name in _OF_STANDIN if (version := told["of"][name])},
        distinct=told.get("distinct"),
        source=source,
        **{name: told[name] for name in _FIGURES},
    )


def _graded(marks: str, items: dict[str, str], weights: list[float]) -> Graded:
    values = {item: _MARKS[mark] for item, mark in zip(items, marks, strict=True)}
    return Graded(
        {item: value for item, value in values.items() if value is not None},
        items,
        dict(zip(items, weights, strict=True)) if weights else {},
    )
