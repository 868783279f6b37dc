"""What earlier calls and runs tell about the next one: lengths from the store, seconds from runs of the same root.

What is not there, or belongs to other models, is left out.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tapir_core.calls import Role
from tapir_core.config import ModelIdentity, RunConfig
from tapir_core.errors import TapirError
from tapir_core.estimate.evidence import KnownLength
from tapir_core.prompts import Prompt
from tapir_core.run_folder import RunFolder, runs_of
from tapir_core.stages import StageAt, lines_of_round, lines_once
from tapir_core.summary.run_reader import Look

if TYPE_CHECKING:
    from sqlalchemy import Connection

__all__ = ["judgment_lengths", "past_seconds", "store_exists", "stored_lengths"]

_LOOKED_AT = 2000
"""Stored answers that a mean length is taken of, at most."""
_FEWEST = 20
"""Fewer say too little."""
_RUNS = 3
"""Earlier runs that are looked at, the latest first."""


def store_exists(url: str) -> bool:
    """Whether there is something to look up; a file that is not there need not be made for that."""
    return not url.startswith("sqlite:///") or Path(url.removeprefix("sqlite:///")).exists()


def stored_lengths(
    url: str, asked: Iterable[tuple[Role, ModelIdentity]]
) -> dict[tuple[Role, ModelIdentity], KnownLength]:
    """Mean completion tokens of stored answers, of each model that has enough of them in its role."""
    with _reading(url) as connection:
        found = {(role, voice): _mean_length(connection, role, voice) for role, voice in asked}
    return {key: known for key, known in found.items() if known is not None}


def judgment_lengths(
    url: str, config: RunConfig, judges: Mapping[str, ModelIdentity], prompts: Mapping[str, Prompt]
) -> dict[str, KnownLength]:
    """Mean completion tokens of each benchmark's judge (``judges``), in its replies to the benchmark's own prompts."""
    found = {}
    with _reading(url) as connection:
        for name, voice in judges.items():
            versions = [prompts[each].version for each in config.evaluation.judged[name].prompts]
            found[name] = _mean_length(connection, "benchmark", voice, versions)
    return {name: known for name, known in found.items() if known is not None}


@contextmanager
def _reading(url: str) -> Iterator["Connection"]:
    from tapir_core.calls.store_tables import open_engine

    engine = open_engine(url)
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def _mean_length(
    connection: "Connection", role: Role, voice: ModelIdentity, versions: Sequence[str] = ()
) -> KnownLength | None:
    """Of the answers to prompts of these versions, if any are named; nothing where there are too few."""
    from sqlalchemy import func, select

    from tapir_core.calls.store_tables import answers

    alike = [answers.c.role == role, answers.c.status == "answer"]
    alike += [answers.c.model == voice.model, answers.c.identity == voice.identity]
    alike += [answers.c.prompt_version.in_(versions)] if versions else []
    some = select(answers.c.completion_tokens).where(*alike).limit(_LOOKED_AT).subquery()
    count, mean = connection.execute(select(func.count(), func.avg(some.c.completion_tokens))).one()
    return KnownLength(float(mean), int(count)) if count >= _FEWEST else None


def past_seconds(config: RunConfig) -> dict[str, float]:
    """Stage → seconds of a paid call (of `train`: of an example), over the latest runs of the root with its models."""
    seconds: dict[str, float] = defaultdict(float)
    units: dict[str, float] = defaultdict(float)
    for run in _runs_alike(config):
        for name, took, count in _timed(run):
            if name == "benchmark_replies" and _benchmark_voices(run.config) != _benchmark_voices(config):
                continue
            seconds[name] += took
            units[name] += count
    return {name: seconds[name] / units[name] for name in seconds if units[name]}


def _runs_alike(config: RunConfig) -> Iterator[RunFolder]:
    """The latest runs of the root with the same teacher, judges and backbone."""
    runs = []
    for run in runs_of(config.run.root):
        try:
            if _models(run.config) == _models(config):
                runs.append((run.record.created, run.ref.name, run))
        except (TapirError, ValueError, TypeError):
            continue  # of another version, or damaged: `tapir status` says which
    yield from (run for _, _, run in sorted(runs, key=lambda each: each[:2], reverse=True)[:_RUNS])


def _models(config: RunConfig) -> tuple[object, ...]:
    teacher, judges = config.teacher.endpoint.answers_as("teacher"), config.judge.identities
    return teacher, judges, config.student.backbone, config.student.engine.type


def _benchmark_voices(config: RunConfig) -> set[ModelIdentity]:
    judged = (each for name, each in config.evaluation.judged.items() if name in config.evaluation.each_round)
    return {config.judge_of(each).answers_as("judge") for each in judged}


def _timed(run: RunFolder) -> Iterator[tuple[str, float, float]]:
    """Stage, seconds and what was done in them, for every stage of a run that asked somebody or trained."""
    look = Look(run)
    for stage in look.summarise_stages(lines_once(), None):
        yield from [(stage.name, stage.seconds, stage.usage.calls)] if stage.asks else []
    for number in range(-1, run.config.run.rounds + 1):
        for stage in look.summarise_stages(lines_of_round(), number):
            mixture = look.manifest(StageAt("mix", number)) if stage.name == "train" else None
            if mixture is not None and stage.seconds:  # none: taken over from a run that is looked at itself
                epochs = run.config.round(number).epochs if number else run.config.basic_tuning.epochs
                yield "train", stage.seconds, mixture.rows * epochs
            elif stage.asks and stage.usage.calls:
                yield stage.name, stage.seconds, stage.usage.calls
