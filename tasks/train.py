"""Stage `train`: S_r ← fine-tune(S_{r−1}, mixture_r). The trainer works in an attempt folder; the manifest promotes.

Stage `average`, the mean of the rounds' students, is made and promoted likewise; the driver alone makes it.

The driver trains itself, or follows a worker that does (``training.runs_on``). Whoever trains holds the lease of this
training, and promotes only while it has it and the run still asks for what it made.

A worker's attempt is one flow run of *fine-tune* on the Prefect server of this process. Its idempotency key is run,
stage key and number: whoever asks for it again gets the flow run that is there, so that the driver which comes after a
killed one starts nothing twice. It is no subflow of its driver: it outlives a driver that is killed.

Prefect's state says how an attempt ended; whether it still works, its lease says better: a flow run whose worker was
killed stands as running, and one whose server was away may stand as crashed while it trains. An attempt that was taken
and lost before it began has no lease yet: it stands as pending for longer than a process takes to begin. Should it
begin after all, it finds the lease taken, or leaves the next one without it: never do two train. Limit: in a container
or a pod it is lost only when Prefect says so, for its image may be on its way.
"""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import replace
from logging import INFO
from pathlib import Path
from typing import Any

import polars as pl
from prefect import states
from prefect.client.schemas.objects import FlowRun, State, StateType
from sqlalchemy.exc import SQLAlchemyError

from tapir_core import errors, leases, paths, randomness, run_files, sources, storage
from tapir_core.calls import store_url
from tapir_core.comparison.outcome import Training
from tapir_core.data.dataset import DatasetRef, Part
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.stages import AVERAGE, CHECKPOINT, MIX, ROLLOUT, SCORE, TRAIN, StageAt
from tapir_core.summary.formats import duration
from tapir_core.text import digest
from tasks import input_files
from tasks._task import cached, does, project_task
from tasks.engines import backbone, logs, machine, supervisor
from tasks.engines.replicas import Fleet
from tasks.engines.training import launch, nodes, prerequisites
from tasks.flow_runs import Deployment
from tasks.runtime import current

_TOLD_SECONDS = 30.0
"""Once in so long the flow run is told of a training, and whether the run still asks for it is looked up."""

FINE_TUNE = Deployment(
    name="fine-tune/fine-tune",
    lacking='training.runs_on = "worker" needs the deployment fine-tune/fine-tune, which the Prefect server at '
    "{server} does not have; start one that has it with `tapir up`, apply it to this one with `tapir deploy`, or train "
    "here with --set training.runs_on=driver",
    away="a training on a worker goes on, and once the server is back *Retry*, or the same command, follows it again",
)

MOST_LOST = 3
"""Attempts that one drive of the run may lose: what kills three in a row kills the fourth too."""

_POLL_SECONDS = 1.0
_CANCEL_SECONDS = 45.0
"""Prefect gives a cancelled flow run 30 s; one whose worker is gone is cancelled by nobody."""

_PENDING_LOOKS = 300
"""A second apart: a process that begins takes seconds. In looks, for nothing begins while the server is away either."""

_UNBEGUN = "A worker took it, and it did not begin: its worker is gone. The next attempt takes its place."
_GONE = "Its process is gone, and its run saw it. The next attempt goes on from its last save."


@does(TRAIN)
@project_task(TRAIN.name, limited_by=("gpu",))
def train(ref: RunRef, at: StageAt) -> DatasetRef | State[Any]:
    """Fine-tune the student on the round's mixture; a killed training goes on from its last checkpoint."""
    run = RunFolder(ref)
    if (held := run.holds(at)) is not None:
        return cached(held)
    runtime = current(run)

    def note(text: str) -> None:
        runtime.progress.note(at, text)
        runtime.check_stop(at)

    with runtime.progress.stage(at):
        note("making room for the training")
        elsewhere = run.config.training.runs_on == "worker"
        runtime.free_accelerators(
            None if elsewhere else prerequisites.needed_at_once(run.config, runtime.checkpoint(at.number - 1))
        )
        lease = training_lease(run, at)
        if elsewhere:
            return follow_training(run, at, FineTuneRuns(run, at), lease, note)
        with lease:
            # A worker may have made it since this stage began.
            if run.holds(at) is None:
                make_student(run, at, lease, lambda progress: note(progress.in_words()))
    made = run.holds(at)
    assert made is not None
    return made


def training_lease(run: RunFolder, at: StageAt, token: str | None = None) -> leases.RunLease:
    """The right to make this student, under a name that every machine knows, wherever it finds the root."""
    return leases.RunLease(*_known_as(run, at), token=token)


def make_student(
    run: RunFolder,
    at: StageAt,
    lease: leases.RunLease,
    on_progress: Callable[[launch.TrainingProgress], None],
    meet: launch.Meet = launch.alone,
) -> launch.TrainingSummary:
    """Train in this process's child and promote what came of it; ``lease`` is held by the caller.

    Raises:
        NodeLost: another node of the training is gone.
        RunChanged: the run asks for another training by now.
        RunBusy: another process trains, or drives the run, because this one gave no sign of life for too long.
        TapirError: as `train_student`.
    """
    input_files.check_training_ingredients(run, at)
    started, key, job = time.monotonic(), run.key(at), _job(run, at)
    next_told = started

    def tell_and_go_on(progress: launch.TrainingProgress) -> None:
        nonlocal next_told
        on_progress(progress)
        if time.monotonic() >= next_told:
            next_told = time.monotonic() + _TOLD_SECONDS
            logs.tell(INFO, f"training: {progress.in_words()}")
            check_wanted(run, at, key)
            with suppress(SQLAlchemyError):  # a database that is away ends no training
                if (held := lease.holding()) and held.token != lease.token:
                    _check_right(run, at, lease, key)

    with _gpus(run, at):
        summary = launch.train_student(job, on_progress=tell_and_go_on, meet=meet)
    logs.tell(INFO, f"training ended: {summary.in_words()}, {duration(summary.seconds)}")
    _promote(run, at, started, lambda: _check_right(run, at, lease, key))
    return summary


@does(AVERAGE)
@project_task(AVERAGE.name)
def average(ref: RunRef, at: StageAt) -> DatasetRef | State[Any]:
    """The mean of the weights of every round's student that there is."""
    run, started = RunFolder(ref), time.monotonic()
    if (held := run.holds(at)) is not None:
        return cached(held)
    runtime, rounds = current(run), [each.number for each in AVERAGE.reads(run.config, at) if run.holds(each)]
    made = _attempt(run, at).absolute()
    with runtime.progress.stage(at):
        # What a start that was killed has left is made anew.
        shutil.rmtree(made, ignore_errors=True)
        supervisor.run_module(
            "tasks.engines.average",
            made / CHECKPOINT,
            *(runtime.checkpoint(number).absolute() for number in rounds),
            log_path=runtime.log("average"),
            name="the average of the students",
            check_stop=lambda: runtime.check_stop(at),
        )
        return _promote(run, at, started, runtime.check_lease)


def _promote(run: RunFolder, at: StageAt, started: float, check: Callable[[], None]) -> DatasetRef:
    """Make what its attempt made the student of a stage; ``check`` raises where this process may not."""
    check()
    made, checkpoint = _attempt(run, at), run.workplace.local(at.folder)
    # Linked, not moved: a kill before the manifest leaves the attempt whole.
    shutil.rmtree(checkpoint, ignore_errors=True)
    shutil.copytree(
        made / CHECKPOINT,
        checkpoint,
        copy_function=lambda file, copy: run_files.link_file(Path(file), Path(copy)) or shutil.copy2(file, copy),
    )
    run_files.publish_stage(run, at)
    check()
    # The files that can change an answer. `training.json` holds times: with it equal weights would look different.
    files = [file for file in sorted(checkpoint.iterdir()) if backbone.matters(file.name)]
    parts = [Part(file.name, 0, storage.file_sha256(file)) for file in files]
    sealed = run.seal(at, parts, counts={"seconds": round(time.monotonic() - started, 1)})
    shutil.rmtree(made)
    return sealed


def meeting_place(run: RunFolder, at: StageAt, fleet: Fleet, attempt: str, note: nodes.Note) -> launch.Meet:
    """Where the ranks of this process, the first node of the training, meet with those that ``fleet`` starts.

    Args:
        run: The run.
        at: Its training.
        fleet: Asked for the other nodes, where `training.nodes` wants some.
        attempt: Tells this attempt from every other.
        note: Gets what is waited for.
    """
    wanted = run.config.training.nodes

    @contextmanager
    def meet(ranks: int) -> Iterator[launch.Node]:
        folder, host = _attempt(run, at), machine.own_host(store_url(run.config))
        with (
            closing(leases.ReplicaRegistry(*_known_as(run, at))) as registry,
            nodes.FirstNode(registry, folder, host, note, fleet, at.number, wanted, attempt).meet(ranks) as node,
        ):
            yield node

    return meet if wanted > 1 else launch.alone


def join_student(run: RunFolder, at: StageAt, node: str, note: nodes.Note) -> None:
    """Train along, as the node that was asked for under this id; the first node makes the student.

    Raises:
        Stopped: the node is not asked for, or not any more; or it was told to stop.
        TapirError: as `make_student`.
    """
    log = current(run).log(f"train-{at.number:02d}-node-{node}")
    with closing(leases.ReplicaRegistry(*_known_as(run, at))) as registry, _gpus(run, at):
        here = nodes.OtherNode(registry, _attempt(run, at), machine.own_host(store_url(run.config)), note, node)
        launch.run_ranks(replace(_job(run, at), log_path=log), here.meet)


def _gpus(run: RunFolder, at: StageAt) -> AbstractContextManager[None]:
    """This machine's GPUs for a training, which is stopped also while it waits for them."""
    runtime = current(run)

    def say(text: str) -> None:
        logs.tell(INFO, text)
        runtime.progress.note_current(text)

    return runtime.gpus.hold(say, lambda: runtime.check_stop(at))


def _known_as(run: RunFolder, at: StageAt) -> tuple[str, str]:
    """The store, and the name of this training there."""
    return store_url(run.config), f"{run.ref.name}/{at.folder} ({run.record.id[:12]})"


def count_round(run: RunFolder, number: int) -> Training:
    """What the training of round ``number`` (0: of S_0) comes to, once its mixture and the student before it hold.

    Raises:
        ConfigError: it cannot be trained with.
    """
    found = launch.count_training(_job(run, TRAIN.at(number)))
    return Training(found.examples, found.total_tokens, found.trained_tokens, found.steps, found.epochs)


def check_wanted(run: RunFolder, at: StageAt, key: str | None) -> None:
    """Called while a training goes on: the run may have been amended and driven on without it.

    Raises:
        RunChanged: with today's configuration and inputs another student is to be made.
    """
    if RunFolder(run.ref).key(at) != key:
        raise errors.RunChanged(
            f"run {run.ref.name!r} was changed while {at} was made, and asks for another student; this one is left"
        )


def _check_right(run: RunFolder, at: StageAt, lease: leases.RunLease, key: str | None) -> None:
    current(run).check_lease()
    if not lease.holds():
        raise errors.RunBusy(f"another process took the training of {at} over; this one stops and promotes nothing")
    check_wanted(run, at, key)


def _job(run: RunFolder, at: StageAt) -> launch.TrainingJob:
    config, number, mix = run.config, at.number, MIX.at(at.round)
    if not run.sealed(mix).rows:
        raise errors.ConfigError(
            f"the mixture of round {number} is empty: no usable instruction has a task type of "
            f"curriculum.target_shares, or none is easy while the round's alpha is below 1; look at {mix.folder}, "
            'and give a broader pool, or choose seeds by `selection = { type = "hard_share" }`'
        )
    return launch.TrainingJob(
        base=current(run).checkpoint(number - 1),
        mixture=_files(run, mix),
        output=_attempt(run, at),
        training=config.training.model_copy(update={"batch_size": config.batch_size(number)}),
        epochs=(config.round(number) if number else config.basic_tuning).epochs,
        learning_rate=config.learning_rate(number),
        seed=randomness.derive_seed(config.run.seed, number, "train") % 2**31,
        chat_template=config.student.template,
        objective=config.objective(number),
        rollouts=_files(run, ROLLOUT.at(number)),
        scores=_files(run, SCORE.at(number)),
        log_path=current(run).log(f"train-{number:02d}"),
    )


def _files(run: RunFolder, at: StageAt) -> tuple[Path, ...]:
    """The rows of a stage on this machine; none where the run does not have it there."""
    if not at.stage.when(run.config, at):
        return ()
    folder = run_files.fetch_stage(run, at)
    return tuple(folder / part.name for part in run.sealed(at).parts)


def _attempt(run: RunFolder, at: StageAt) -> Path:
    """Where the trainer works, of whichever start."""
    key = run.key(at)
    assert key is not None, f"{at} before its inputs"
    return run.workplace.local(paths.attempt_folder(at.number, key))


def check_trainer(run: RunFolder) -> launch.RenderedChat:
    """Refuse a run whose trainings nobody would do, before anything is paid for; gives what its student is asked.

    Raises:
        ConfigError: its student cannot be trained with its chat template or tokenizer, or its teacher cannot score its
            tokens where it is to learn from those.
        MissingPrerequisite: it trains on workers, and the server has no deployment *fine-tune*; or here, where memory
            does not suffice, its GPUs cannot be used, or a package lacks.
    """
    training = run.config.training
    if training.runs_on == "worker":
        FINE_TUNE.check()
    else:
        machine.check_gpu_training()
        prerequisites.check_packages(training)
        prerequisites.look_ahead(run.config, current(run).checkpoint(paths.BACKBONE))
    if any(run.config.objective(number).rolls_out for number in run.config.round_numbers):
        student = current(run).checkpoint(paths.BACKBONE)
        launch.check_pair(current(run).teacher_weights, student, run.config.student.template)
    return launch.render_chat(current(run).checkpoint(paths.BACKBONE), run.config.student.template)


def check_tools(run: RunFolder, pool: pl.DataFrame) -> None:
    """Refuse a student that cannot be shown the tools of a pool, or models whose calls nobody reads.

    Raises:
        ConfigError: its chat template leaves them out, or no tool parser is named.
    """
    if not (count := sources.count_tools(pool)):
        return
    config, remedy = run.config, "docs/tools.md has the settings of each family; or leave these rows out"
    served = {"student.engine": config.student.engine, "teacher.endpoint": config.teacher.endpoint}
    for field, settings in served.items():
        if not getattr(settings, "tool_parser", "none"):
            raise errors.ConfigError(
                f"{field}.tool_parser is not set, and {count} instructions have tools: vLLM has to know how the model "
                f"writes calls; {remedy}"
            )
    if not launch.render_chat(current(run).checkpoint(paths.BACKBONE), config.student.template).takes_tools:
        raise errors.ConfigError(
            f"student.chat_template: the student's chat template shows no tools, and {count} instructions have some; "
            f"{remedy}"
        )


def lease_token(flow_run_id: str, run_count: int) -> str:
    """The lease token of one start of a flow run: it tells a living attempt's lease from what a dead one left."""
    return digest([flow_run_id, run_count])[:32]


class FineTuneRuns:
    """The attempts at the training ``at`` of ``run``: flow runs that have a state.

    Each method raises EngineError when the server does not do what is asked.
    """

    def __init__(self, run: RunFolder, at: StageAt) -> None:
        self._run, self._at, self._key = run, at, run.key(at)

    def attempt(self, number: int) -> FlowRun:
        """The attempt with this number, from 1: the one that is there, or one that a worker of tapir-gpu takes up."""
        name, of_round = self._run.ref.name, self._at.number
        training = FINE_TUNE.start(
            f"{self._run.record.id}:{self._key}:{number}",
            {"run": name, "round_number": of_round},
            run_name=f"{name} round-{of_round}",
            tags=[f"run-{name}", f"round-{of_round}", "stage-train"],
        )
        logs.tell(INFO, f"training in flow run {training.name} ({training.id}), attempt {number}")
        return training

    def look(self, training: FlowRun) -> FlowRun:
        """The attempt as it stands now; one that was deleted is lost."""
        return FINE_TUNE.look(str(training.id)) or training.model_copy(update={"state": states.Crashed(name="Deleted")})

    def declare(self, training: FlowRun, state: StateType, why: str) -> FlowRun:
        """Set an attempt's state, if it has not ended by itself."""
        FINE_TUNE.set_state(str(training.id), State(type=state, message=why))
        return self.look(training)

    def wait(
        self, training: FlowRun, lease: leases.RunLease, note: Callable[[FlowRun], None], *, poll_seconds: float
    ) -> FlowRun:
        """Until the attempt has ended, in truth and in its state; ``note`` gets it at each look."""
        since, pending = time.monotonic(), 0
        try:
            while True:
                training = self.look(training)
                state, held = _state(training), lease.holding()
                token = lease_token(str(training.id), training.run_count)
                lives = held.lives if held is not None and held.token == token else None
                if state.is_final() and not lives:
                    return training
                if state.is_running() and lives is False:
                    return self.declare(training, StateType.CRASHED, _GONE)
                pending = pending + 1 if state.is_pending() and not lives else 0
                # A container or a pod may take longer; a worker labels what it takes before it submits it.
                if pending > _PENDING_LOOKS and training.labels.get("prefect.worker.type", "process") == "process":
                    return self.declare(training, StateType.CRASHED, _UNBEGUN)
                if not state.is_cancelling():
                    since = time.monotonic()
                elif lives is False or (lives is None and time.monotonic() - since > _CANCEL_SECONDS):
                    return self.declare(training, StateType.CANCELLED, _GONE)
                note(training)
                time.sleep(poll_seconds)
        except Exception:  # an error is no interrupt of the driver, and a killed driver does nothing
            raise
        except BaseException:
            with suppress(errors.EngineError):
                self.declare(training, StateType.CANCELLING, "The run that it trains for was interrupted.")
            raise


def follow_training(
    run: RunFolder,
    at: StageAt,
    runs: FineTuneRuns,
    lease: leases.RunLease,
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
    number, lost, said = 0, 0, ""
    new_steps = launch.progress_reader(launch.Attempt(_attempt(run, at)).progress_file)

    def note_state(training: FlowRun) -> None:
        """The trainer's last step; before the first, and where its folder is on another machine, the state alone."""
        nonlocal said
        said = next((step.in_words() for step in reversed(new_steps())), said)
        waits = _state(training).is_scheduled() or _state(training).is_pending()
        state = f"flow run {training.name}: {_state_in_words(training)}"
        note(said or (f"waiting for a worker of tapir-gpu, {state}" if waits else state))

    try:
        while True:
            number += 1
            training = runs.attempt(number)
            # What had ended, or was ending, when this drive came is no answer to it.
            counts = not (_state(training).is_final() or _state(training).is_cancelling())
            ended = runs.wait(training, lease, note_state, poll_seconds=poll_seconds)
            if (made := run.holds(at)) is not None:
                return made
            if counts:
                lost += 1
                if why := _why_given_up(run, ended, lost):
                    raise errors.EngineError(f"{at}: {why}")
                note(f"the training was lost ({_state_in_words(ended)}); it is started again")
    finally:
        lease.release()


def _why_given_up(run: RunFolder, ended: FlowRun, lost: int) -> str:
    """Why nothing is started again after an attempt that ended so, the last of so many; empty where it is."""
    where = f"flow run {ended.name!r} ({_state_in_words(ended)})"
    again = "*Retry* of the run, or the same command, goes on from its last save"
    why = {
        StateType.COMPLETED: f"{where} is complete, and {run.storage.url} has no student of it: the workers of "
        "tapir-gpu must work in the same root (TAPIR_ROOT)",
        StateType.CANCELLED: f"the training was cancelled, {where}; {again}",
        StateType.FAILED: f"the training failed, {where}",
        StateType.CRASHED: f"{lost} trainings in a row were lost, the last one {where}; {again}",
    }
    kind = _state(ended).type
    return "" if kind == StateType.CRASHED and lost < MOST_LOST else why.get(kind, "")


def _state(training: FlowRun) -> State[Any]:
    assert training.state is not None
    return training.state


def _state_in_words(training: FlowRun) -> str:
    """Name and message of its state."""
    return ": ".join(filter(None, (_state(training).name, _state(training).message)))
