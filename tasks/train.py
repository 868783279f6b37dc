"""Stage `train`: S_r ← fine-tune(S_{r−1}, mixture_r). The trainer works in an attempt folder; the manifest promotes.

The driver trains itself, or follows a worker that does (``training.runs_on``). Whoever trains holds the lease of this
training, and promotes only while it has it and the run still asks for what it made.
"""

import shutil
import time
from collections.abc import Callable
from logging import INFO
from pathlib import Path

from tapir_core.calls.lease import RunLease
from tapir_core.calls.store_address import store_url
from tapir_core.comparison.outcome import Training
from tapir_core.data.dataset import DatasetRef, Part
from tapir_core.errors import ConfigError, RunBusy, RunChanged
from tapir_core.paths import attempt_folder, log_file
from tapir_core.randomness import derive_seed
from tapir_core.run_files import fetch_stage, link_file, publish_stage
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.stages import TRAIN, StageAt
from tapir_core.storage import file_sha256
from tapir_core.summary.formats import duration
from tasks._task import does, project_task
from tasks.engines.backbone import matters
from tasks.engines.logs import tell
from tasks.engines.training.job import TrainingJob, TrainingProgress, TrainingSummary
from tasks.engines.training.trainer import count_trainings, train_student
from tasks.follow_training import FineTuneRuns, follow_training
from tasks.runtime import current

_TOLD_SECONDS = 60.0


@does(TRAIN)
@project_task(TRAIN.name, limited_by=("gpu",))
def train(ref: RunRef, at: StageAt) -> DatasetRef:
    """Fine-tune the student on the round's mixture; a killed training goes on from its last checkpoint."""
    run = RunFolder(ref)
    runtime = current(run)

    def note(text: str) -> None:
        runtime.progress.note(at, text)
        runtime.check_stop(at)

    with runtime.progress.stage(at, shards=1):
        note("handing the accelerator over")
        runtime.students.stop()
        lease = training_lease(run, at)
        if run.config.training.runs_on == "worker":
            return follow_training(run, at, FineTuneRuns(run, at), lease, note)
        with lease:
            # A worker may have made it since this stage began.
            if run.holds(at) is None:
                make_student(run, at, lease, lambda progress: note(progress.in_words()))
    made = run.holds(at)
    assert made is not None
    return made


def training_lease(run: RunFolder, at: StageAt, token: str | None = None) -> RunLease:
    """The right to make this student, under a name that every machine knows, wherever it finds the root."""
    return RunLease(store_url(run.config), f"{run.ref.name}/{at.folder} ({run.record.id[:12]})", token=token)


def make_student(
    run: RunFolder, at: StageAt, lease: RunLease, on_progress: Callable[[TrainingProgress], None]
) -> TrainingSummary:
    """Train in this process's child and promote what came of it; ``lease`` is held by the caller.

    Raises:
        RunChanged: the run asks for another training by now.
        RunBusy: another process trains, or drives the run, because this one gave no sign of life for too long.
        TapirError: as `train_student`.
    """
    started, key = time.monotonic(), run.key(at)
    job = _job(run, at)
    summary = train_student(job, on_progress=_told(on_progress))
    tell(INFO, f"training ended: {summary.in_words()}, {duration(summary.seconds)}")
    _check_right(run, at, lease, key)
    _link_checkpoint(job.output / "checkpoint", run.workplace.local(at.folder))
    publish_stage(run, at)
    counts = {"seconds": round(time.monotonic() - started, 1)}
    _check_right(run, at, lease, key)
    run.seal(at, _parts(run.workplace.local(at.folder)), counts=counts)
    shutil.rmtree(job.output)
    return summary


def count_round(run: RunFolder, number: int) -> Training:
    """What the training of round ``number`` (0: of S_0) comes to, once its mixture and the student before it hold.

    Raises:
        ConfigError: it cannot be trained with.
    """
    [found] = count_trainings([_job(run, StageAt("train", number))])
    return Training(found.examples, found.total_tokens, found.trained_tokens, found.steps, found.epochs)


def check_wanted(run: RunFolder, at: StageAt, key: str | None) -> None:
    """Called while a worker trains: the run may have been amended and driven on without it.

    Raises:
        RunChanged: with today's configuration and inputs another student is to be made.
    """
    if RunFolder(run.ref).key(at) != key:
        raise RunChanged(
            f"run {run.ref.name!r} was changed while {at} was made, and asks for another student; this one is left"
        )


def _check_right(run: RunFolder, at: StageAt, lease: RunLease, key: str | None) -> None:
    current(run).check_lease()
    if not lease.holds():
        raise RunBusy(f"another process took the training of {at} over; this one stops and promotes nothing")
    check_wanted(run, at, key)


def _job(run: RunFolder, at: StageAt) -> TrainingJob:
    number = at.number
    mixture = run.sealed(StageAt("mix", number))
    if not mixture.rows:
        raise ConfigError(
            f"the mixture of round {number} is empty: no usable instruction has a task type of "
            f"curriculum.target_shares; look at {StageAt('mix', number).folder} and give a broader pool"
        )
    key = run.key(at)
    assert key is not None, f"{at} before its inputs"
    config = run.config
    settings = config.round(number) if number else config.basic_tuning
    folder = fetch_stage(run, StageAt("mix", number))
    return TrainingJob(
        base=current(run).checkpoint(number - 1),
        mixture=tuple(folder / part.name for part in mixture.parts),
        output=run.workplace.local(attempt_folder(number, key)),
        training=config.training.model_copy(update={"batch_size": config.batch_size(number)}),
        epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        seed=derive_seed(config.run.seed, number, "train") % 2**31,
        chat_template=Path(config.student.chat_template) if config.student.chat_template else None,
        log_path=run.workplace.local(log_file(f"train-{number:02d}")),
    )


def _told(on_progress: Callable[[TrainingProgress], None]) -> Callable[[TrainingProgress], None]:
    """``on_progress`` for every step; the flow run is told of one a minute."""
    next_told = 0.0

    def tell_and_go_on(progress: TrainingProgress) -> None:
        nonlocal next_told
        on_progress(progress)
        if time.monotonic() >= next_told:
            next_told = time.monotonic() + _TOLD_SECONDS
            tell(INFO, f"training: {progress.in_words()}")

    return tell_and_go_on


def _link_checkpoint(attempt: Path, checkpoint: Path) -> None:
    """Give the attempt's files their place without moving them: a kill before the manifest leaves the attempt whole."""
    if checkpoint.exists():
        shutil.rmtree(checkpoint)
    for file in sorted(attempt.iterdir()):
        if not link_file(file, checkpoint / file.name):
            shutil.copy2(file, checkpoint / file.name)


def _parts(checkpoint: Path) -> list[Part]:
    """The files that can change an answer. `training.json` holds times: with it equal weights would look different."""
    names = sorted(file.name for file in checkpoint.iterdir() if matters(file.name))
    return [Part(name, 0, file_sha256(checkpoint / name)) for name in names]
