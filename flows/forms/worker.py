"""The deployments of the pool `tapir-gpu`, which runs start themselves: *fine-tune*, one training, and *serve-student*.

A run whose `training.runs_on` is "worker" starts *fine-tune* and follows it (tasks/train.py). It needs no
driver to live: it holds a lease of its own, seals what it made, and leaves it when the run asks for another student by
now. A run whose `student.engine.type` is "replicas" starts *serve-student* as often as it wants replicas; a person may
add one.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

from prefect import get_run_logger, runtime
from pydantic import Field

from flows.driver import worker_root
from flows.forms import MAX_ROUNDS, RunName, run_form_flow, shown
from tapir_core.calls.lease import RunLease
from tapir_core.errors import ConfigError, RunBusy
from tapir_core.run_files import publish_logs
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.stages import StageAt, plan
from tasks.engines.training.job import TrainingProgress
from tasks.input_files import check_training_ingredients
from tasks.runtime import close_all, current
from tasks.serving import ASKED_NOW, serve_replica
from tasks.train import check_wanted, lease_token, make_student, training_lease

_PATIENCE_SECONDS = 90.0
"""Longer than another machine's lease lives on, and than a training takes to see that nobody wants it any more."""

_LOOK_SECONDS = 30.0


@run_form_flow("fine-tune", run_name="{run} round-{round_number}")
def fine_tune_from_form(
    run: RunName, round_number: Annotated[int, Field(ge=0, le=MAX_ROUNDS), shown("Round")] = 0
) -> str:
    """Train the student of one round on this worker; a killed training goes on from its last save.

    Args:
        run: Name of a run in the worker's root. Its configuration says how it is trained.
        round_number: The round whose mixture is trained on. 0: basic tuning, which makes S_0.
    """
    opened, at = RunFolder(RunRef(worker_root(), run)), StageAt("train", round_number)
    if at not in plan(opened.config):
        raise ConfigError(f"round_number: value {round_number}: run {run!r} has rounds 0 to {opened.config.run.rounds}")
    if opened.key(at) is None:
        raise ConfigError(
            f"round_number: value {round_number}: run {run!r} has no mixture of it yet; *distill* makes it"
        )
    check_training_ingredients(opened, at)
    lease = training_lease(opened, at, lease_token(str(runtime.flow_run.id), runtime.flow_run.run_count))
    try:
        with _hold(lease):
            if opened.holds(at) is not None:
                return f"S_{round_number} is there already; nothing was done."
            summary = make_student(opened, at, lease, _watch(opened, at))
    finally:
        close_all()
        publish_logs(opened)
    return f"S_{round_number}: {summary.in_words()}."


@run_form_flow("serve-student")
def serve_student_from_form(
    run: RunName,
    after_round: Annotated[int, Field(ge=ASKED_NOW, le=MAX_ROUNDS), shown("After round")] = ASKED_NOW,
    replica: Annotated[str, Field(pattern="^[0-9a-f]*$"), shown("Replica")] = "",
) -> str:
    """Serve a run's student on all GPUs of a worker until the run does not need it.

    Args:
        run: Name of a run in the worker's root that is at work.
        after_round: The student after this round; 0 is S_0, -1 the untouched backbone, -2 the one that the run asks
            now. Nothing is served when the run asks for another.
        replica: Filled in by runs, to know again which one they asked for. Empty: one more than the run asked for.
    """
    opened = RunFolder(RunRef(worker_root(), run))
    return f"Ended: {serve_replica(opened, after_round, replica, say=get_run_logger().info)}."


@contextmanager
def _hold(lease: RunLease) -> Iterator[None]:
    """Hold the lease for the block; an interrupt leaves it to end with this process.

    A worker that is killed takes this process along before Prefect hears of it: that the holder of a lease is gone is
    then all that its driver can see.
    """
    _take(lease)
    try:
        yield
    except BaseException as raised:
        if isinstance(raised, Exception):
            lease.release()
        raise
    lease.release()


def _take(lease: RunLease) -> None:
    """Take the lease; wait for a training that ends now, such as one that was cancelled.

    Raises:
        RunBusy: it does not.
    """
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            lease.acquire()
        except RunBusy:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)
        else:
            return


def _watch(run: RunFolder, at: StageAt) -> Callable[[TrainingProgress], None]:
    """Ends what is suspended, at its next step, and what nobody wants any more."""
    key, next_look = run.key(at), time.monotonic()

    def look(_: TrainingProgress) -> None:
        nonlocal next_look
        current(run).check_stop(at)
        if time.monotonic() >= next_look:
            next_look = time.monotonic() + _LOOK_SECONDS
            check_wanted(run, at, key)

    return look
