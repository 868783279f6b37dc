"""Which runs of a root would ask again for rows of the store.

Limits: the store says who asked first, not who used an answer later. A run that is whole asks nothing again, unless one
of its stages is redone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tapir_core.config import ModelIdentity, RunConfig
from tapir_core.data.dataset import DatasetRef
from tapir_core.errors import TapirError
from tapir_core.run_folder import RunFolder, runs_of
from tapir_core.stages import StageAt, asked_in_roles, plan
from tapir_core.store_admin.prune import DoomedRows

__all__ = ["RunAtStake", "runs_at_stake"]


@dataclass(frozen=True, slots=True)
class RunAtStake:
    """A run of the root that rows of the store belong to."""

    run: str
    rows: int
    """Rows among them that it asked for first."""
    stages: tuple[str, ...]
    """Stages still to do that would ask for such rows again; none when the run is whole."""
    unreadable: str = ""
    """Why its stages cannot be told; empty when they can."""


def runs_at_stake(root: str, doomed: Sequence[DoomedRows]) -> list[RunAtStake]:
    """The runs of ``root`` that asked for rows of ``doomed``, or would ask for such rows when they go on."""
    found = []
    for run in runs_of(root):
        rows = sum(each.rows for each in doomed if each.run == run.ref.name)
        try:
            stages = _waiting(run, doomed)
        except (TapirError, ValueError, TypeError) as exc:
            found.append(RunAtStake(run.ref.name, rows, (), str(exc).splitlines()[0]))
            continue
        if rows or stages:
            found.append(RunAtStake(run.ref.name, rows, tuple(stages)))
    return found


def _waiting(run: RunFolder, doomed: Sequence[DoomedRows]) -> list[str]:
    roles = {each.role for each in doomed if _may_use(run, each)}
    seen: dict[StageAt, DatasetRef | None] = {}
    asking = [at for at in plan(run.config) if roles.intersection(at.stage.roles)]
    return [str(at) for at in asking if run.holds(at, seen) is None]


def _may_use(run: RunFolder, rows: DoomedRows) -> bool:
    """Whether the run asked for them first, or asks the same teacher or judge."""
    asked = ModelIdentity(rows.model, rows.identity)
    return rows.run == run.ref.name or asked in _voices(run.config).get(rows.role, ())


def _voices(config: RunConfig) -> dict[str, tuple[ModelIdentity, ...]]:
    """Who answers by role; the student's identity is its checkpoint, which is not looked at."""
    teacher = config.teacher.endpoint.answers_as("teacher")
    asked = (config.judge_of(each) for each in config.evaluation.judged.values())
    benchmarks = tuple(endpoint.answers_as("judge") for endpoint in asked)
    return {
        **{role: (teacher,) for role, asks in asked_in_roles().items() if asks == "teacher"},
        "judge": config.judge.identities,
        "benchmark": benchmarks,
    }
