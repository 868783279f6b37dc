"""Follow a training that a worker does: attach to the one that runs, and start another when it was lost.

An attempt is one flow run of *fine-tune*, found again by its number, so that the driver which comes after a killed one
starts nothing twice. Prefect's state says how an attempt ended; whether it still works, its lease says better: a flow
run whose worker was killed stands as running, and one whose server was away may stand as crashed while it trains.
An attempt that was taken and lost before it began has no lease yet: it stands as pending for longer than a process
takes to begin. Should it begin after all, it finds the lease taken, or leaves the next one without it: never do two
train. Limit: in a container or a pod it is lost only when Prefect says so, for its image may be on its way.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from tapir_core.calls.lease import RunLease
from tapir_core.data.dataset import DatasetRef
from tapir_core.errors import EngineError
from tapir_core.paths import attempt_folder
from tapir_core.run_folder import RunFolder
from tapir_core.stages import StageAt
from tapir_core.text import digest
from tasks.engines.training.job import Attempt
from tasks.engines.training.trainer import read_progress

__all__ = ["MOST_LOST", "State", "Training", "TrainingRuns", "follow_training", "lease_token"]

MOST_LOST = 3
"""Attempts that one drive of the run may lose: what kills three in a row kills the fourth too."""

_POLL_SECONDS = 1.0
_CANCEL_SECONDS = 45.0
"""Prefect gives a cancelled flow run 30 s; one whose worker is gone is cancelled by nobody."""

_PENDING_LOOKS = 300
"""A second apart: a process that begins takes seconds. In looks, for nothing begins while the server is away either."""

_UNBEGUN = "A worker took it, and it did not begin: its worker is gone. The next attempt takes its place."
_GONE = "Its process is gone, and its run saw it. The next attempt goes on from its last save."

State = Literal[
    "SCHEDULED", "PENDING", "RUNNING", "PAUSED", "CANCELLING", "CANCELLED", "CRASHED", "FAILED", "COMPLETED"
]


@dataclass(frozen=True, slots=True)
class Training:
    """One attempt, as it stands on the Prefect server."""

    id: str
    name: str
    state: State
    told: str
    """Name and message of its state."""
    token: str
    """Of the lease that it holds while it trains."""
    in_container: bool = False
    """Whether its worker makes a container or a pod for it, which may take long to begin."""

    @property
    def has_ended(self) -> bool:
        """Whether its state is final."""
        return self.state in ("CANCELLED", "CRASHED", "FAILED", "COMPLETED")


class TrainingRuns(Protocol):
    """The attempts at one training, on a Prefect server.

    Each method raises EngineError when the server does not do what is asked.
    """

    def attempt(self, number: int) -> Training:
        """The attempt with this number, from 1: the one that is there, or one that starts now."""
        ...

    def look(self, training: Training) -> Training:
        """The attempt as it stands now."""
        ...

    def declare(self, training: Training, state: State, why: str) -> Training:
        """Set an attempt's state."""
        ...


def lease_token(flow_run_id: str, run_count: int) -> str:
    """The lease token of one start of a flow run: it tells a living attempt's lease from what a dead one left."""
    return digest([flow_run_id, run_count])[:32]


def follow_training(
    run: RunFolder,
    at: StageAt,
    runs: TrainingRuns,
    lease: RunLease,
    note: Callable[[str], None],
    *,
    poll_seconds: float = _POLL_SECONDS,
) -> DatasetRef:
    """Wait until a worker has made the student, and give it more attempts where some are lost.

    Args:
        run: Driven by this process.
        at: Its training; the stages before it hold.
        runs: The attempts.
        lease: The training's; only looked at.
        note: Gets what the training is doing, in words.
        poll_seconds: Between two looks.

    Raises:
        EngineError: the training failed or was cancelled, too many attempts were lost, or the server is away.
    """
    watch = _Watch(run, at, runs, lease, note, poll_seconds)
    try:
        return _attempt(watch)
    finally:
        lease.release()


@dataclass(frozen=True, slots=True)
class _Watch:
    run: RunFolder
    at: StageAt
    runs: TrainingRuns
    lease: RunLease
    note: Callable[[str], None]
    poll_seconds: float


def _attempt(watch: _Watch) -> DatasetRef:
    number, lost = 0, 0
    while True:
        number += 1
        training = watch.runs.attempt(number)
        # What had ended, or was ending, when this drive came is no answer to it.
        earlier = training.has_ended or training.state == "CANCELLING"
        try:
            ended = _wait(watch, training)
        except BaseException as raised:
            # An interrupt of the driver is one of the training; an error is not, and a killed driver does nothing.
            if not isinstance(raised, Exception):
                with suppress(EngineError):
                    watch.runs.declare(training, "CANCELLING", "The run that it trains for was interrupted.")
            raise
        made = watch.run.holds(watch.at)
        if made is not None:
            return made
        if not earlier:
            lost += 1
            _give_up_or_go_on(watch, ended, lost)


def _give_up_or_go_on(watch: _Watch, ended: Training, lost: int) -> None:
    at, where = watch.at, f"flow run {ended.name!r} ({ended.told})"
    again = "*Retry* of the run, or the same command, goes on from its last save"
    if ended.state == "COMPLETED":
        raise EngineError(
            f"{at}: {where} is complete, and {watch.run.storage.url} has no student of it: the workers of tapir-gpu "
            "must work in the same root (TAPIR_ROOT)"
        )
    if ended.state == "CANCELLED":
        raise EngineError(f"{at}: the training was cancelled, {where}; {again}")
    if ended.state == "FAILED":
        raise EngineError(f"{at}: the training failed, {where}")
    if lost >= MOST_LOST:
        raise EngineError(f"{at}: {lost} trainings in a row were lost, the last one {where}; {again}")
    watch.note(f"the training was lost ({ended.told}); it is started again")


def _wait(watch: _Watch, training: Training) -> Training:
    """Until the attempt has ended, in truth and in its state."""
    progress, since, pending = _ProgressLine(watch), time.monotonic(), 0
    while True:
        training = watch.runs.look(training)
        held = watch.lease.holding()
        works = held is not None and held.token == training.token and held.lives
        died = held is not None and held.token == training.token and not held.lives
        if training.has_ended and not works:
            return training
        if training.state == "RUNNING" and died:
            return watch.runs.declare(training, "CRASHED", _GONE)
        pending = pending + 1 if training.state == "PENDING" and not works else 0
        if pending > _PENDING_LOOKS and not training.in_container:
            return watch.runs.declare(training, "CRASHED", _UNBEGUN)
        if training.state == "CANCELLING":
            late = not works and time.monotonic() - since > _CANCEL_SECONDS
            if died or late:
                return watch.runs.declare(training, "CANCELLED", _GONE)
        else:
            since = time.monotonic()
        waits = "waiting for a worker of tapir-gpu, " if training.state in ("SCHEDULED", "PENDING") else ""
        watch.note(progress.newest() or f"{waits}flow run {training.name}: {training.told}")
        time.sleep(watch.poll_seconds)


class _ProgressLine:
    """What the trainer said last; it says nothing where its folder is on another machine."""

    def __init__(self, watch: _Watch) -> None:
        key = watch.run.key(watch.at)
        assert key is not None, f"{watch.at} before its inputs"
        folder: Path = watch.run.workplace.local(attempt_folder(watch.at.number, key))
        self._file = Attempt(folder).progress_file
        self._offset = self._file.stat().st_size if self._file.exists() else 0
        self._said = ""

    def newest(self) -> str:
        """Step, loss and speed; nothing before the first step since we look."""
        if self._file.exists() and self._file.stat().st_size < self._offset:
            self._offset = 0
        rows, self._offset = read_progress(self._file, self._offset)
        if rows:
            self._said = rows[-1].in_words()
        return self._said
