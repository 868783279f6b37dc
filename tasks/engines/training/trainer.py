"""Fine-tune a student: starts the DeepSpeed launcher as a supervised child and follows it. Imports no torch.

A job that is started again goes on from its newest complete save; one that is finished is only read. What a user can
act on is raised as the child printed it; anything else as an `EngineError` with the last lines of the log.
"""

import base64
import contextlib
import json
import os
import re
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import psutil

import tasks
from tapir_core.errors import ConfigError, EngineError, TapirError
from tasks.engines.keys import keyless_environment
from tasks.engines.machine import KEEP_MEMORY, WITHOUT_AMX, amx_is_broken, visible_gpus
from tasks.engines.supervisor import Child, start_child
from tasks.engines.training.job import (
    Attempt,
    TrainingJob,
    TrainingProgress,
    TrainingSummary,
    child_error,
    clear_unfinished,
)
from tasks.engines.training.preflight import memory_remedy

__all__ = [
    "TrainingJob",
    "TrainingProgress",
    "TrainingSummary",
    "train_student",
]

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
    log_start = job.log_path.stat().st_size if job.log_path.exists() else 0
    accelerators = visible_gpus()
    child = start_child(
        launcher_command(attempt.job_file, _ranks(job, accelerators)),
        env=child_environment(keyless_environment(), on_cpu=not accelerators, processes=job.training.processes or 1),
        log_path=job.log_path,
        name="trainer",
    )
    try:
        code = _follow(child, attempt.progress_file, on_progress)
    except BaseException:
        _stop(child, job.training.grace_seconds)
        raise
    done = attempt.summary()
    if done is None:
        raise explain(job, code, job.log_path.read_bytes()[log_start:].decode("utf-8", "replace"))
    shutil.rmtree(attempt.saves, ignore_errors=True)
    return done


def launcher_command(job_file: Path, ranks: list[str]) -> list[str]:
    """The node-local half of the DeepSpeed launcher, with one rank for each entry of ``ranks``."""
    world = base64.urlsafe_b64encode(json.dumps({"localhost": ranks}).encode()).decode()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return [
        *(sys.executable, "-m", "deepspeed.launcher.launch"),
        *(f"--world_info={world}", "--master_addr=127.0.0.1", f"--master_port={port}", "--no_local_rank"),
        *("--module", "tasks.engines.training.rank", str(job_file)),
    ]


def child_environment(environment: Mapping[str, str], *, on_cpu: bool, processes: int) -> dict[str, str]:
    """What the launcher and its ranks see: no network, no telemetry, loopback only."""
    root = str(Path(tasks.__file__).parents[1])
    values = {
        **environment,
        "PYTHONPATH": os.pathsep.join(filter(None, [root, environment.get("PYTHONPATH")])),
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_DATASETS_OFFLINE": "1",
    }
    if on_cpu:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        values |= {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": str(max(1, cores // processes)), **KEEP_MEMORY}
        if "OMP_WAIT_POLICY" not in environment:
            # Threads spin long at barriers by default: beside another busy process a step took 3 to 8 times as long.
            values.setdefault("GOMP_SPINCOUNT", "3000")
        if amx_is_broken(sys.executable):
            values |= WITHOUT_AMX
    if sys.platform == "linux":
        # All ranks are on this machine.
        values |= {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
    return values


def explain(job: TrainingJob, code: int, log: str) -> TapirError:
    """The error that a failed training is raised as."""
    told = child_error(log, more=f" (log: {job.log_path})")
    if told is not None:
        return told
    if re.search(r"out of memory|OutOfMemoryError|can't allocate memory", log, flags=re.IGNORECASE):
        return EngineError(f"the training ran out of memory; {memory_remedy(job)} (log: {job.log_path})")
    if re.search(r"exits with return code = -9", log):
        return EngineError(
            f"a training process was killed, most often for lack of memory; {memory_remedy(job)} (log: {job.log_path})"
        )
    stopped = re.findall(r"^stopped by SIGTERM .*$", log, flags=re.MULTILINE)
    if stopped:
        return EngineError(f"the training was {stopped[-1]} (log: {job.log_path})")
    last = "\n".join(f"  {line}" for line in _meaningful(log)[-8:])
    return EngineError(f"the training ended with exit code {code}; the last lines of {job.log_path}:\n{last}")


def read_progress(path: Path, offset: int) -> tuple[list[TrainingProgress], int]:
    """The whole lines of progress after ``offset``, and where they end."""
    if not path.exists():
        return [], offset
    with path.open("rb") as file:
        file.seek(offset)
        text = file.read()
    whole = text[: text.rfind(b"\n") + 1]
    return [TrainingProgress(**json.loads(line)) for line in whole.splitlines()], offset + len(whole)


def _ranks(job: TrainingJob, accelerators: list[str]) -> list[str]:
    processes = job.training.processes
    if not accelerators:
        return [str(number) for number in range(processes or 1)]
    if processes is not None and processes > len(accelerators):
        raise ConfigError(
            f"training.processes = {processes}, and this machine has {len(accelerators)} accelerators; "
            "lower it, or leave it out to use each"
        )
    return accelerators[:processes]


def _follow(child: Child, progress_file: Path, on_progress: Callable[[TrainingProgress], None] | None) -> int:
    offset = progress_file.stat().st_size if progress_file.exists() else 0
    while True:
        code = child.poll()
        rows, offset = read_progress(progress_file, offset)
        for row in rows:
            if on_progress is not None:
                on_progress(row)
        if code is not None:
            return code
        time.sleep(_POLL_SECONDS)


def _stop(child: Child, grace_seconds: float) -> None:
    """SIGTERM to the ranks, not to the launcher, which would kill them; then an end to all."""
    for rank in _rank_processes(child):
        with contextlib.suppress(psutil.NoSuchProcess):
            rank.terminate()
    with contextlib.suppress(TimeoutError):
        child.wait(grace_seconds)
    child.terminate(0)


def _rank_processes(child: Child) -> Iterator[psutil.Process]:
    for pid in child.descendants():
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            if process.ppid() == child.pid:
                yield process


def _meaningful(log: str) -> list[str]:
    lines = [line.rstrip() for line in log.splitlines()]
    return [line for line in lines if line and not re.search(r"\[(INFO|WARNING)\]|Killing subprocess", line)]
