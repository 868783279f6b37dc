"""Stage `train`: S_r ← fine-tune(S_{r−1}, mixture_r). The trainer works in an attempt folder; the manifest promotes."""

import os
import shutil
import time
from collections.abc import Callable
from logging import INFO
from pathlib import Path

from tapir_core.data.dataset import DatasetRef, Part
from tapir_core.errors import ConfigError
from tapir_core.paths import attempt_folder, log_file
from tapir_core.randomness import derive_seed
from tapir_core.reporting.formats import duration
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.scratch import fetch_stage, publish_stage
from tapir_core.stages import StageAt
from tapir_core.storage import file_sha256
from tasks._task import project_task
from tasks.engines.backbone import matters
from tasks.engines.log_follower import follow_log, tell
from tasks.engines.trainer import TrainingJob, TrainingProgress, train_student
from tasks.runtime import current

__all__ = ["train"]

_TOLD_SECONDS = 60.0


@project_task("train", limited_by=("gpu",))
def train(ref: RunRef, round_number: int) -> DatasetRef:
    """Fine-tune the student on the round's mixture; a killed training goes on from its last checkpoint."""
    at, run = StageAt("train", round_number), RunFolder(ref)
    runtime = current(run)
    started = time.monotonic()
    with runtime.progress.stage(at, shards=1):
        runtime.progress.note(at, "handing the accelerator over")
        runtime.students.stop()
        job = _job(run, at)

        def on_progress(progress: TrainingProgress) -> None:
            runtime.progress.note(at, _in_words(progress))
            runtime.check_stop(at)

        with follow_log("trainer", job.log_path):
            done = train_student(job, on_progress=_told(on_progress))
        tell(INFO, f"training ended: {done.steps} steps in {duration(done.seconds)}, final loss {done.final_loss:.3f}")
        _link_checkpoint(job.output / "checkpoint", run.workplace.local(at.folder))
        runtime.check_lease()
        publish_stage(run, at)
    counts = {"seconds": round(time.monotonic() - started, 1)}
    runtime.check_lease()
    made = run.seal(at, _parts(run.workplace.local(at.folder)), counts=counts)
    shutil.rmtree(job.output)
    return made


def _job(run: RunFolder, at: StageAt) -> TrainingJob:
    number = at.number
    mixture = run.manifest(StageAt("mix", number))
    assert mixture is not None
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
        training=config.training,
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
            tell(INFO, f"training: {_in_words(progress)}")

    return tell_and_go_on


def _in_words(progress: TrainingProgress) -> str:
    step = f"step {progress.step}/{progress.steps}, loss {progress.loss:.3f}"
    return f"{step}, {progress.tokens_per_second:.0f} tokens/s, {duration(progress.eta_seconds)} left"


def _link_checkpoint(attempt: Path, checkpoint: Path) -> None:
    """Give the attempt's files their place without moving them: a kill before the manifest leaves the attempt whole."""
    if checkpoint.exists():
        shutil.rmtree(checkpoint)
    checkpoint.mkdir(parents=True)
    for file in sorted(attempt.iterdir()):
        try:
            os.link(file, checkpoint / file.name)
        except OSError:  # this file system has no hard links
            shutil.copy2(file, checkpoint / file.name)


def _parts(checkpoint: Path) -> list[Part]:
    """The files that can change an answer. `training.json` holds times: with it equal weights would look different."""
    names = sorted(file.name for file in checkpoint.iterdir() if matters(file.name))
    return [Part(name, 0, file_sha256(checkpoint / name)) for name in names]
