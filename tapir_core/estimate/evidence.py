"""What is known before a run beside its configuration: its pool, what the store holds, what earlier runs took.

Reads the files of the configuration, the store and the runs of the same root; asks nobody and writes nothing. What is
not there, or belongs to other models, is left out.
"""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import polars as pl

from tapir_core.calls import Answer, AnswerStore, Outcome, Role
from tapir_core.config import ModelIdentity, RunConfig
from tapir_core.curriculum import parse_label
from tapir_core.data.decontamination import EvaluationQuestions
from tapir_core.data.readers import heldout_questions, read_questions
from tapir_core.errors import TapirError
from tapir_core.estimate.prompts import Instruction, PromptTokens, label_request, teach_request
from tapir_core.estimate.workload import BenchmarkSize, Pool
from tapir_core.paths import BACKBONE
from tapir_core.prompts import Prompt
from tapir_core.run_folder import RunFolder, runs_of
from tapir_core.sources import read_heldout_of, read_pool_of
from tapir_core.stages import StageAt, lines_of_round, lines_once
from tapir_core.standin.families import recognise
from tapir_core.summary.run_reader import Look

_FEWEST_LABELS = 30
"""Known labels from which the shares of the pool are taken."""
_LOOKED_AT = 2000
"""Stored answers that a mean length is taken of, at most."""
_FEWEST = 20
"""Fewer say too little."""
_RUNS = 3
"""Earlier runs that are looked at, the latest first."""

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, slots=True)
class KnownLength:
    """How long a model's replies in a role were."""

    tokens: float
    """Completion tokens on average."""
    answers: int
    """Stored answers that were looked at."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Measured on the sample, found in the store, or seen in earlier runs of the same root."""

    prompts: PromptTokens
    sampled: int
    """Instructions of the pool that were rendered."""
    lengths: Mapping[tuple[Role, ModelIdentity], KnownLength] = field(default_factory=dict)
    """Of the replies of one model in one role."""
    benchmarks: Mapping[str, BenchmarkSize] = field(default_factory=dict)
    """What the benchmarks of each round ask of one student, as their files say."""
    judgments: Mapping[str, KnownLength] = field(default_factory=dict)
    """Benchmark → of its judge's replies to its prompts."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Stage → seconds of a call that an earlier run with the same models paid for, concurrency included; of `train`
    seconds of an example."""


def read_pool(config: RunConfig, prompt: Prompt, url: str) -> tuple[list[Instruction], Pool]:
    """The pool that stage `pool` will make, and what is known of it; ``prompt`` labels it, ``url`` is the store.

    What holds an evaluation question is left out, as the run will leave it out.

    Raises:
        ConfigError: a file cannot be read, or has bad rows.
    """
    data, seed = config.data, config.run.seed
    rows = read_pool_of(data.pool, data, seed).rows
    heldout = None if data.heldout is None else read_heldout_of(data.heldout, data, seed).rows
    asked = [] if heldout is None else [heldout_questions(heldout)]
    questions = pl.concat([*asked, read_questions(config.evaluation.benchmarks)])
    contaminated = EvaluationQuestions(questions, config.evaluation.decontamination).find(rows)
    rows = rows.join(contaminated, on="instruction_id", how="anti", maintain_order="left")
    pool = [Instruction(*row) for row in rows.select("instruction", "system", "reference").iter_rows()]
    return pool, _known(config, pool, 0 if heldout is None else heldout.height, prompt, url)


def _known(config: RunConfig, pool: list[Instruction], heldout_rows: int, prompt: Prompt, url: str) -> Pool:
    labels: dict[str, Outcome] = {}
    answered: set[str] = set()
    if store_exists(url):
        with AnswerStore(url, patient=False) as store:
            labels = store.lookup([label_request(config, prompt, each).key for each in pool])
            answered = store.known([teach_request(config, each).key for each in pool])
    parsed = [parse_label(reply.text) for reply in labels.values() if isinstance(reply, Answer)]
    task_types = [each for each in parsed if isinstance(each, str)]
    usable_share = None
    if config.teacher.endpoint.is_standin:
        # What the stand-in will say is known without asking it.
        task_types = [problem.task_type for each in pool if (problem := recognise(each.text))]
        usable_share = len(task_types) / len(pool) if pool else None
    shares = {name: count / len(task_types) for name, count in Counter(task_types).items()}
    natural = shares if len(task_types) >= _FEWEST_LABELS else None
    return Pool(len(pool), heldout_rows, natural, usable_share, len(labels), len(answered))


def store_exists(url: str) -> bool:
    """Whether there is something to look up; a file that is not there need not be made for that."""
    return not url.startswith("sqlite:///") or Path(url.removeprefix("sqlite:///")).exists()


def stored_lengths(url: str, asked: Mapping[Key, tuple[Role, ModelIdentity, Sequence[str]]]) -> dict[Key, KnownLength]:
    """Mean completion tokens of stored answers, where there are enough of them; nothing where there is no store.

    Args:
        url: the store.
        asked: what is wanted → the role, the model, and the versions of the prompts where only some count.
    """
    from sqlalchemy import func, select

    from tapir_core.calls.store_tables import answers, open_engine

    if not store_exists(url):
        return {}
    engine, found = open_engine(url), {}
    try:
        with engine.connect() as connection:
            for key, (role, voice, versions) in asked.items():
                alike = [answers.c.role == role, answers.c.status == "answer"]
                alike += [answers.c.model == voice.model, answers.c.identity == voice.identity]
                alike += [answers.c.prompt_version.in_(versions)] if versions else []
                some = select(answers.c.completion_tokens).where(*alike).limit(_LOOKED_AT).subquery()
                count, mean = connection.execute(select(func.count(), func.avg(some.c.completion_tokens))).one()
                if count >= _FEWEST:
                    found[key] = KnownLength(float(mean), int(count))
    finally:
        engine.dispose()
    return found


def past_seconds(config: RunConfig) -> dict[str, float]:
    """Stage → seconds of a paid call (of `train`: of an example), over the latest runs of the root with its models."""
    seconds: dict[str, float] = defaultdict(float)
    units: dict[str, float] = defaultdict(float)
    for run in _runs_alike(config):
        same_benchmarks = _benchmark_voices(run.config) == _benchmark_voices(config)
        for name, took, done in _timed(run):
            if same_benchmarks or name != "benchmark_replies":
                seconds[name] += took
                units[name] += done
    return {name: seconds[name] / units[name] for name in seconds}


def _runs_alike(config: RunConfig) -> list[RunFolder]:
    """The latest runs of the root with the same teacher, judges and backbone."""
    runs = []
    for run in runs_of(config.run.root):
        try:
            if _models(run.config) == _models(config):
                runs.append((run.record.created, run.ref.name, run))
        except (TapirError, ValueError, TypeError):
            continue  # of another version, or damaged: `tapir status` says which
    return [run for *_, run in sorted(runs, key=lambda each: each[:2], reverse=True)[:_RUNS]]


def _models(config: RunConfig) -> tuple[object, ...]:
    return (
        config.teacher.endpoint.answers_as("teacher"),
        config.judge.identities,
        config.student.backbone,
        config.student.engine.type,
    )


def _benchmark_voices(config: RunConfig) -> set[ModelIdentity]:
    judged = (each for name, each in config.evaluation.judged.items() if name in config.evaluation.each_round)
    return {config.judge_of(each).answers_as("judge") for each in judged}


def _timed(run: RunFolder) -> Iterator[tuple[str, float, float]]:
    """Stage, seconds and what was done in them: paid calls, or examples of a training; not what was taken over."""
    look, config = Look(run), run.config
    for number in (None, *range(BACKBONE, config.run.rounds + 1)):
        for stage in look.summarise_stages(lines_once() if number is None else lines_of_round(), number):
            done = float(stage.usage.calls) if stage.asks else 0.0
            mixture = look.manifest(StageAt("mix", number)) if stage.name == "train" else None
            if mixture is not None:
                done = mixture.rows * (config.round(number).epochs if number else config.basic_tuning.epochs)
            if done and stage.seconds:
                yield stage.name, stage.seconds, done
