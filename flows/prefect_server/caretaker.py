"""The process behind `tapir up`: keeps a Prefect server and the workers of each work pool alive until it is ended.

Started as ``python -m flows.prefect_server.caretaker ROOT PORT GPU_WORKERS``. What dies is started again, later each
time that it dies soon. Everything it started ends with it, also by ``kill -9`` (tasks/engines/supervisor.py). A server
that never answers ends it. Limits: one machine; a flow run whose worker dies is ended with it and goes on when it is
retried.
"""

import math
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from flows.prefect_server.server import answers, own_settings, server_command, server_environment, wait_until_healthy
from tapir_core import errors, paths, storage
from tasks.engines import machine, supervisor

CPU_POOL, GPU_POOL = POOLS = ("tapir-cpu", "tapir-gpu")
"""Flows run on the first; what takes a GPU for itself runs on the second."""

_LONGEST_PAUSE_SECONDS = 30.0
_LONG_LIFE_SECONDS = 60.0


@dataclass
class Kept:
    """A child process that is started again when it ends."""

    name: str
    command: Sequence[str]
    env: dict[str, str]
    log: Path
    may_start: Callable[[], bool]
    child: supervisor.Child | None = None
    _started: float = -math.inf
    _pause: float = 1.0
    """Between two starts of a child that dies soon."""

    def tend(self) -> None:
        """Start the child if it is not there and its time has come."""
        now = time.monotonic()
        if self.child is not None and self.child.poll() is not None:
            lived_long = now - self._started > _LONG_LIFE_SECONDS
            self._pause = 1.0 if lived_long else min(2 * self._pause, _LONGEST_PAUSE_SECONDS)
            print(f"{self.name} ended with {self.child.poll()}; it is started again", flush=True)
            self.child = None
        if self.child is None and now >= self._started + self._pause and self.may_start():
            self._started = now
            self.child = supervisor.start_child(self.command, env=self.env, log_path=self.log, name=self.name)

    def end(self) -> None:
        """End the child, and before it what it started: a worker that ends leaves its flow runs no time."""
        if self.child is None:
            return
        with suppress(psutil.NoSuchProcess):
            started = psutil.Process(self.child.pid).children()
            for each in started:
                with suppress(psutil.NoSuchProcess):
                    each.terminate()
            psutil.wait_procs(started, timeout=20)
        self.child.terminate(grace_seconds=5)


def main() -> None:
    """Keep server and workers of the root that the command line names, until SIGTERM."""
    root, port, gpu_workers = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    address = f"http://127.0.0.1:{port}"
    log = storage.on_this_machine(root).local(paths.SERVER_LOG)
    server = Kept("server", server_command(port), server_environment(root, address), log, lambda: True)
    workers = [_worker(post, root, f"{address}/api") for post in staff(gpu_workers)]
    try:
        server.tend()
        wait_until_healthy(address, log, lambda: server.child is not None and server.child.poll() is None)
        while True:
            for each in (server, *workers):
                each.tend()
            time.sleep(0.5)
    except KeyboardInterrupt:
        pass
    except errors.EngineError as error:
        sys.exit(str(error))
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        for each in (*workers, server):
            each.end()


@dataclass(frozen=True, slots=True)
class Post:
    """What one worker of this machine is for."""

    pool: str
    number: int = 1
    """Among those of its pool."""
    gpus: tuple[str, ...] = ()
    """Its own where several share the machine's; else it sees them all."""

    @property
    def label(self) -> str:
        """Tells it apart on this machine."""
        return self.pool if self.number == 1 else f"{self.pool}-{self.number}"

    @property
    def name(self) -> str:
        """Tells it apart on the server."""
        return f"{self.label}-{socket.gethostname()}"


def staff(gpu_workers: int) -> list[Post]:
    """The workers of this machine: one of `tapir-cpu`, and so many of `tapir-gpu`, among whom the GPUs are shared out.

    Raises:
        ConfigError: there are fewer GPUs than workers for them.
    """
    gpus = machine.visible_gpus()
    if gpus and len(gpus) < gpu_workers:
        raise errors.ConfigError(
            f"--gpu-workers {gpu_workers}: this machine has {len(gpus)} GPUs; start no more workers"
        )
    shares = machine.share_out(gpus, gpu_workers) if gpu_workers > 1 else [[]]
    return [Post(CPU_POOL), *(Post(GPU_POOL, number, tuple(share)) for number, share in enumerate(shares, start=1))]


def _worker(post: Post, root: str, api: str) -> Kept:
    argv = [
        *(sys.executable, "-m", "flows.server_away", "worker", "start", "--pool", post.pool, "--name", post.name),
        *("--type", "process", "--install-policy", "never", "--no-create-pool-if-not-found"),
        # One flow run at a time has the GPUs.
        *(("--limit", "1") if post.pool == GPU_POOL else ()),
    ]
    log = storage.on_this_machine(root).local(paths.worker_log(post.label))
    return Kept(
        post.label, argv, worker_environment(post, root, api), log, lambda: answers(f"{api}/work_pools/{post.pool}")
    )


def worker_environment(post: Post, root: str, api: str) -> dict[str, str]:
    """The environment of a worker and its flow runs: the keys of teacher and judge, none of the server's secrets."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("PREFECT_SERVER_")},
        **own_settings(root),
        # The log file is all that tells why a flow run did not start.
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "INFO",
        "PREFECT_API_URL": api,
        # deployments/prefect.yaml says `python`: the one that has this package.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        paths.ROOT_VARIABLE: root,
        **({machine.GPUS_VARIABLE: ",".join(post.gpus)} if post.gpus else {}),
    }


if __name__ == "__main__":
    main()
