"""What finished runs came to as files: the run seeds of one comparison can be made on several machines, or one by one.

One JSON file a run, named after it: marks of each student, trainings, calls and costs; no model and no answer. It also
holds what the comparison says of the run, its whole configuration first, so that a result of another one is refused. It
answers for what goes into a stage of the run, and for nothing else: machines may differ in addresses, engine
environments and stores. A setting that is newer than the file counts there as its default.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tapir_core.comparison.arms import Arm
from tapir_core.comparison.outcome import ArmOutcome, Graded, Training
from tapir_core.comparison.plan import ComparisonPlan, PlannedRun
from tapir_core.config import RunConfig
from tapir_core.config.load import load_resolved, resolved_table
from tapir_core.errors import ConfigError
from tapir_core.stage_keys import settings_of, used_files
from tapir_core.stages import STAGES, plan
from tapir_core.standin import POOL_VERSION, STANDIN_VERSION

__all__ = ["ResultsFolder"]

_FORMAT = 4
"""Raised when the fields of a file change; files of another format are refused."""
_SHOWN = 3
_MARKS = {"1": 1.0, "0": 0.0}
_NO_MARK = "-"
_OF_STAGES = ("config", "files")
_FIGURES: Sequence[str] = ("usd", "stored", "paid_requests", "paid_usd", "seconds", "stages")


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
        told = {"format": _FORMAT, "of": self._said_of(planned), **_to_json(outcome)}
        self.path.mkdir(parents=True, exist_ok=True)
        unfinished = self._file(planned).with_suffix(".tmp")
        unfinished.write_text(json.dumps(told, indent=1) + "\n")
        unfinished.replace(self._file(planned))

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
            found, made_of = _from_json(told, planned.arm), told["of"]
            config = load_resolved(json.dumps(made_of["config"]), source=str(file))
            made_of |= {"config": _fields(config), "files": used_files(config, made_of["files"])}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{file}: no result of a comparison ({type(error).__name__}: {error})") from error
        wanted = self._said_of(planned)
        if _recipe(config, made_of["files"]) == _recipe(self.plan.config(planned), wanted["files"]):
            wanted |= {name: made_of[name] for name in _OF_STAGES}
        if other := _differing(made_of, wanted):
            more = f" and {len(other) - _SHOWN} more" if len(other) > _SHOWN else ""
            raise ConfigError(
                f"{file} is the result of run {planned.ref.name} with another {', '.join(other[:_SHOWN])}{more}; "
                "give this comparison another name, or remove the file to run it again"
            )
        return found

    def _file(self, planned: PlannedRun) -> Path:
        return self.path / f"{planned.ref.name}.json"

    def _said_of(self, planned: PlannedRun) -> dict[str, Any]:
        """Everything that the comparison says of a run; in which root it lies is no part of it."""
        config, prices = self.plan.config(planned), self.plan.comparison.prices
        starts_standin = not (config.teacher.endpoint.base_urls and config.judge.endpoint.base_urls)
        return {
            "config": _fields(config),
            "files": used_files(config, self.files_of(config)),
            "match": planned.arm.match,
            "prices": prices.model_dump(mode="json") if prices else None,
            "standin": STANDIN_VERSION if starts_standin else None,
            "standin_pool": None if config.data.pool.file else POOL_VERSION,
        }


def _recipe(config: RunConfig, files: dict[str, str]) -> Any:
    """All that decides which rows a run ends with: what goes into each stage, and when it stops."""
    stages = {at: (settings_of(at, config, files), STAGES[at.name].inputs(config, at)) for at in plan(config)}
    return stages, config.curriculum.stop


def _fields(config: RunConfig) -> dict[str, Any]:
    fields = resolved_table(config)
    del fields["run"]["root"]
    return fields


def _differing(one: Any, other: Any, name: str = "") -> list[str]:
    """Names of the values that two tables do not share, the names of nested ones joined by dots."""
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return [] if one == other else [name]
    names = dict.fromkeys([*one, *other])
    return [
        found
        for each in names
        for found in _differing(one.get(each), other.get(each), f"{name}.{each}" if name else each)
    ]


def _to_json(outcome: ArmOutcome) -> dict[str, Any]:
    items: dict[str, dict[str, str]] = {}
    for (_, split), graded in outcome.students.items():
        items.setdefault(split, {}).update(graded.task_types)
    students = [
        {
            "round": number,
            "split": split,
            "marks": "".join(_mark(graded.correct.get(item)) for item in items[split]),
        }
        for (number, split), graded in outcome.students.items()
    ]
    return {
        "run": outcome.run,
        "run_seed": outcome.run_seed,
        "trainings": {str(number): asdict(each) for number, each in outcome.trainings.items()},
        "answers": dict(outcome.answers),
        **{name: getattr(outcome, name) for name in _FIGURES},
        "items": items,
        "students": students,
    }


def _from_json(told: dict[str, Any], arm: Arm) -> ArmOutcome:
    if told["format"] != _FORMAT:
        raise ValueError(f"format {told['format']}, and this version reads {_FORMAT}")
    return ArmOutcome(
        arm=arm,
        run_seed=told["run_seed"],
        run=told["run"],
        trainings={int(number): Training(**each) for number, each in told["trainings"].items()},
        students={
            (each["round"], each["split"]): _graded(each["marks"], told["items"][each["split"]])
            for each in told["students"]
        },
        answers=told["answers"],
        **{name: told[name] for name in _FIGURES},
    )


def _graded(marks: str, items: dict[str, str]) -> Graded:
    return Graded({item: _MARKS[mark] for item, mark in zip(items, marks, strict=True) if mark != _NO_MARK}, items)


def _mark(correct: float | None) -> str:
    return _NO_MARK if correct is None else str(int(correct))
