"""What a GPU worker does for a run: one replica of its student, from its start until it has to leave.

It leaves when it is asked to, when nobody drives the run, when its server dies or when this process is interrupted;
then its GPUs are free. It listens at one address of its machine, at which the driver asks it: nothing listens beyond
127.0.0.1 unless the worker's environment says so. Limits: it holds no lease and writes nothing of the run but its log.
"""

import ipaddress
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from tapir_core.calls.replicas import Replica, ReplicaRegistry
from tapir_core.calls.store_address import run_key, store_url
from tapir_core.errors import ConfigError, EngineError, TapirError
from tapir_core.paths import log_file
from tapir_core.run_folder import RunFolder
from tapir_core.scratch import publish_logs
from tasks.engines.keys import replica_key
from tasks.engines.machine import visible_gpus
from tasks.engines.student_server import HOST
from tasks.engines.vllm import VllmServer
from tasks.runtime import current

__all__ = ["ASKED_NOW", "HOST_VARIABLE", "replica_host", "serve_replica"]

ASKED_NOW = -2
"""In place of a round: the student that the run asks for now."""

HOST_VARIABLE = "TAPIR_REPLICA_HOST"
"""Environment variable of a worker: the name or address of its machine at which drivers reach its replicas; `auto` is
the one from which it reaches the Prefect server, for containers, which know theirs only when they run."""

BEAT_SECONDS = 10.0
LOOK_SECONDS = 1.0

logger = logging.getLogger(__name__)


def serve_replica(run: RunFolder, number: int, replica: str, *, say: Callable[[str], None]) -> str:
    """Serve the student after round ``number`` on all GPUs of this worker until it is not needed; gives the reason.

    Args:
        run: The run, in the root of this worker.
        number: The round (`BACKBONE`: before any training; `ASKED_NOW`: whichever the run asks for).
        replica: The id under which the driver asked for it; empty for one that joins by itself.
        say: Told how it gets on.

    Raises:
        ConfigError: there is no such run, it asks no replicas, or `TAPIR_REPLICA_HOST` is no address of this machine.
        TapirError: the checkpoint on this machine is another one than the driver's.
        EngineError: the server did not start, or died.
    """
    config = run.config
    if config.student.engine.served_by != "workers":
        raise ConfigError(
            f'run {run.ref.name!r} has student.engine.type = "{config.student.engine.type}" and asks no replica; '
            'run it with "replicas", which changes no answer'
        )
    registry = ReplicaRegistry(store_url(config), run_key(config))
    try:
        wanted = _wanted(registry, number, replica)
        taken = wanted and registry.take(wanted)
        if not taken:
            return f"run {run.ref.name} asks for no such replica now: nothing was served"
        say(f"replica {taken.id} of run {run.ref.name}, student after round {taken.round}")
        return _serve(run, registry, taken, say)
    finally:
        registry.close()
        publish_logs(run)


def _wanted(registry: ReplicaRegistry, number: int, replica: str) -> str:
    """The id to take; one that joins gets a new id beside those of the same student. Empty when nobody asks."""
    if not registry.is_driven():
        return ""
    if replica:
        return replica
    asked = [each for each in registry.all() if not each.leaving and number in (ASKED_NOW, each.round)]
    return registry.ask(asked[0].round, asked[0].checkpoint) if asked else ""


def _serve(run: RunFolder, registry: ReplicaRegistry, taken: Replica, say: Callable[[str], None]) -> str:
    stay = _Stay(registry, taken.id)
    # After an interrupt: whether the driver replaces it depends on who ended the flow run.
    leave = registry.abandon
    try:
        reason = _stay_and_serve(run, registry, taken, stay, say)
        leave = registry.remove
        return reason
    except Exception:  # raised again: the driver reads in the flow run's state why it ended
        leave = registry.remove
        raise
    finally:
        stay.end()
        leave(taken.id)


def _stay_and_serve(
    run: RunFolder, registry: ReplicaRegistry, taken: Replica, stay: "_Stay", say: Callable[[str], None]
) -> str:
    server = _server(run, taken, say)
    stay.leave = server.abort
    if stay.reason:
        return stay.reason
    try:
        endpoint = server.start()
        registry.serve(taken.id, endpoint.base_url, endpoint.concurrency)
        say(f"serving at {endpoint.base_url}, up to {endpoint.concurrency} requests at once")
        while stay.lasts():
            if not server.runs:
                raise EngineError(f"the student server of replica {taken.id} died; its log is {_log(run, taken)}")
    except EngineError:
        # Also what a server says that was told to stop.
        if not stay.reason:
            raise
    finally:
        server.stop()
    return stay.reason


def _server(run: RunFolder, taken: Replica, say: Callable[[str], None]) -> VllmServer:
    host = replica_host()
    student = current(run).student_at(taken.round)
    if student.identity != taken.checkpoint:
        raise TapirError(
            f"the student after round {taken.round} is {student.identity} on this machine and {taken.checkpoint} for "
            f"the driver of run {run.ref.name!r}; let both have the same root and backbone"
        )
    return VllmServer(
        run.config.student,
        student.folder,
        _log(run, taken),
        report=say,
        host=host,
        api_key=replica_key(run.ref.root, run.record.id, taken.id),
        gpus=len(visible_gpus()),
    )


def _log(run: RunFolder, taken: Replica) -> Path:
    return run.workplace.local(log_file(f"replica-{taken.id}"))


class _Stay:
    """Signs of life of a replica in a thread of its own, until there is a reason to leave."""

    def __init__(self, registry: ReplicaRegistry, replica: str) -> None:
        """Begin at once."""
        self.reason = ""
        """Why to leave, once there is a reason."""
        self.leave: Callable[[], None] = lambda: None
        """Called when there is a reason."""
        self._over = threading.Event()
        self._registry = registry
        self._replica = replica
        self._thread = threading.Thread(target=self._live, name="tapir-replica", daemon=True)
        self._thread.start()

    def lasts(self) -> bool:
        """Wait for the next look; whether there still is no reason to leave."""
        return not self._over.wait(LOOK_SECONDS)

    def end(self) -> None:
        """No sign of life follows."""
        self._over.set()
        self._thread.join()

    def _live(self) -> None:
        beat = time.monotonic()
        while not self._over.wait(LOOK_SECONDS):
            try:
                if time.monotonic() - beat >= BEAT_SECONDS:
                    self._registry.beat(self._replica)
                    beat = time.monotonic()
                self.reason = self._reason()
            except TapirError as error:
                # While the database is away the driver cannot look either, and both go on.
                logger.warning("no sign of life of replica %s: %s", self._replica, error)
            if self.reason:
                self.leave()
                self._over.set()

    def _reason(self) -> str:
        if not self._registry.is_wanted(self._replica):
            return "asked to leave"
        return "" if self._registry.is_driven() else "nobody drives the run any more"


def replica_host() -> str:
    """The address of this worker's replicas.

    Raises:
        ConfigError: the environment names none that a driver could ask.
    """
    host = os.environ.get(HOST_VARIABLE) or HOST
    if host == "auto":
        return _address_towards(urlsplit(os.environ.get("PREFECT_API_URL", "")).hostname or HOST)
    try:
        unspecified = ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return host  # a name
    if unspecified:
        raise ConfigError(f"{HOST_VARIABLE} = {host!r} is no address that a driver can ask; name this machine's own")
    return host


def _address_towards(other: str) -> str:
    """This machine's address on the way to another one; nothing is sent."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((other, 9))
            address: str = probe.getsockname()[0]
            return address
    except OSError as exc:
        raise ConfigError(
            f"{HOST_VARIABLE} = 'auto': no way to {other!r} ({exc}); name this machine's address"
        ) from exc
