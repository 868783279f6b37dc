"""Fine-tune a student: starts the ranks as supervised children and follows them; or counts before. Imports no torch.

A job that is started again goes on from its newest complete save; one that is finished is only read. What a user can
act on is raised as a rank printed it; anything else as an `EngineError` with the last words of the log.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tapir_core.errors import ConfigError, EngineError, TapirError
from tasks.engines.keys import keyless_environment, offline_environment
from tasks.engines.logs import follow_log, last_words, whole_lines
from tasks.engines.machine import GPUS_VARIABLE, KEEP_MEMORY, WITHOUT_AMX, amx_is_broken, visible_gpus
from tasks.engines.supervisor import SOURCES, Child, start_child
from tasks.engines.training.job import (
    Attempt,
    TrainingCount,
    TrainingJob,
    TrainingProgress,
    TrainingSummary,
    child_error,
    clear_unfinished,
)

_POLL_SECONDS = 0.25


def train_student(
    job: TrainingJob, *, on_progress: Callable[[TrainingProgress], None] | None = None
) -> TrainingSummary:
    """Train ``job.base`` on ``job.mixture``; the student is then in ``checkpoint/`` of ``job.output``.

    When this is interrupted, the ranks are asked for one more save, for at most ``grace_seconds``.

    Raises:
        EngineError: the training failed.
        ConfigError: the base, the mixture or a setting cannot be trained with.
        MissingPrerequisite: a setting needs what this machine lacks.
    """
    attempt = Attempt(job.output)
    attempt.open(job)
    done = attempt.summary()
    if done is not None:
        return done
    clear_unfinished(attempt.saves)
    environments = rank_environments(job, keyless_environment(), visible_gpus())
    command = [sys.executable, "-u", "-m", "tasks.engines.training.rank", str(attempt.job_file)]
    ranks: list[Child] = []
    grace_seconds = job.training.grace_seconds
    with follow_log("trainer", job.log_path):
        try:
            for environment in environments:
                ranks.append(start_child(command, env=environment, log_path=job.log_path, name="trainer"))
            code = _follow(ranks, attempt.progress_file, on_progress)
            grace_seconds = 0.0
        finally:
            for rank in ranks:
                rank.terminate(grace_seconds)
                # They save and stop together: what is not done when the first has ended never will be.
                grace_seconds = 0.0
    done = attempt.summary()
    if done is None:
        raise explain(job, code, ranks[0].output())
    shutil.rmtree(attempt.saves, ignore_errors=True)
    return done


def count_trainings(jobs: Sequence[TrainingJob]) -> list[TrainingCount]:
    """What ``training.json`` of each job will say of examples, steps and tokens; reads bases and mixtures, no more.

    Raises:
        ConfigError: a base or a mixture cannot be trained with, as `train_student` would say.
        EngineError: the count failed.
    """
    done = subprocess.run(
        [sys.executable, "-m", "tasks.engines.training.data"],
        input=json.dumps([job.to_json() for job in jobs]),
        env=offline_environment(),
        cwd=SOURCES,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        last = "\n".join(f"  {line}" for line in done.stderr.strip().splitlines()[-8:])
        raise child_error(done.stderr) or EngineError(f"the tokens of a training could not be counted:\n{last}")
    return [TrainingCount(**each) for each in json.loads(done.stdout.splitlines()[-1])]


def rank_environments(
    job: TrainingJob, environment: Mapping[str, str], accelerators: Sequence[str]
) -> list[dict[str, str]]:
    """What each rank sees: its place among them, and no network, no telemetry, loopback only.

    Raises:
        ConfigError: more processes are asked for than there are accelerators.
    """
    processes = job.training.processes or len(accelerators) or 1
    if accelerators and processes > len(accelerators):
        raise ConfigError(
            f"training.processes = {processes}, and this machine has {len(accelerators)} accelerators; "
            "lower it, or leave it out to use each"
        )
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    values = {
        **environment,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(SOURCES), environment.get("PYTHONPATH")])),
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_DATASETS_OFFLINE": "1",
        "GLOO_SOCKET_IFNAME": "lo",
        "NCCL_SOCKET_IFNAME": "lo",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(processes),
        "LOCAL_SIZE": str(processes),
    }
    if accelerators:
        values[GPUS_VARIABLE] = ",".join(accelerators[:processes])
    else:
        values |= {"DS_ACCELERATOR": "cpu", **KEEP_MEMORY}
        values["OMP_NUM_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) // processes))
        if "OMP_WAIT_POLICY" not in environment:
            # Threads spin long at barriers by default: beside another busy process a step took 3 to 8 times as long.
            values.setdefault("GOMP_SPINCOUNT", "3000")
        if amx_is_broken(sys.executable):
            values |= WITHOUT_AMX
    return [{**values, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]


def explain(job: TrainingJob, code: int, log: str) -> TapirError:
    """The error that a failed training is raised as."""
    stopped = re.findall(r"^stopped by SIGTERM .*$", log, flags=re.MULTILINE)
    if re.search(r"out of memory|OutOfMemoryError|can't allocate memory", log, flags=re.IGNORECASE):
        reason = f"ran out of memory; {job.memory_remedy} (log: {job.log_path})"
    elif code == -signal.SIGKILL:
        reason = f"process was killed, most often for lack of memory; {job.memory_remedy} (log: {job.log_path})"
    elif stopped:
        reason = f"was {stopped[-1]} (log: {job.log_path})"
    else:
        reason = f"ended with exit code {code}; the last lines of {job.log_path}:\n{last_words(log)}"
    return child_error(log, more=f" (log: {job.log_path})") or EngineError(f"the training {reason}")


def read_progress(path: Path, offset: int) -> tuple[list[TrainingProgress], int]:
    """The whole lines of progress after ``offset``, and where they end."""
    lines, offset = whole_lines(path, offset)
    return [TrainingProgress(**json.loads(line)) for line in lines], offset


def _follow(ranks: Sequence[Child], progress_file: Path, on_progress: Callable[[TrainingProgress], None] | None) -> int:
    """Until all ranks have ended, or one has failed; its exit code."""
    offset = progress_file.stat().st_size if progress_file.exists() else 0
    while True:
        codes = [rank.poll() for rank in ranks]
        rows, offset = read_progress(progress_file, offset)
        for row in rows:
            if on_progress is not None:
                on_progress(row)
        if any(codes) or None not in codes:
            # The others of a killed rank fail in its wake.
            return -signal.SIGKILL if -signal.SIGKILL in codes else next((code for code in codes if code), 0)
        time.sleep(_POLL_SECONDS)
