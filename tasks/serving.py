"""What a GPU worker does for a run: one replica of its student, from its start until it has to leave.

It leaves when it is asked to, when nobody drives the run, when its server dies or when this process is interrupted;
then its GPUs are free. It listens at one address of its machine, at which the driver asks it (`tasks.engines.machine`).
Limits: it holds no lease and writes nothing of the run but its log.
"""

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from tapir_core import errors, leases, processes, run_files
from tapir_core.calls import run_key, store_url
from tapir_core.run_folder import RunFolder
from tasks.engines import keys, machine, vllm
from tasks.runtime import current

ASKED_NOW = -2
"""In place of a round: the student that the run asks for now."""

logger = logging.getLogger(__name__)


def serve_replica(
    run: RunFolder, number: int, replica: str, *, say: Callable[[str], None], look_seconds: float = 1.0
) -> str:
    """Serve the student after round ``number`` on all GPUs of this worker until it is not needed; gives the reason.

    Args:
        run: The run, in the root of this worker.
        number: The round (`BACKBONE`: before any training; `ASKED_NOW`: whichever the run asks for).
        replica: The id under which the driver asked for it; empty for one that joins by itself.
        say: Told how it gets on.
        look_seconds: Between two looks whether it is needed.

    Raises:
        ConfigError: there is no such run, it asks no replicas, or its address cannot be told, or listened at.
        TapirError: the checkpoint on this machine is another one than the driver's.
        EngineError: the server did not start, or died.
    """
    config = run.config
    if config.student.engine.served_by != "workers":
        raise errors.ConfigError(
            f'run {run.ref.name!r} has student.engine.type = "{config.student.engine.type}" and asks no replica; '
            'run it with "replicas", which changes no answer'
        )
    registry = leases.ReplicaRegistry(store_url(config), run_key(config))
    try:
        wanted = _wanted(registry, number, replica)
        if not wanted or (taken := registry.take(wanted)) is None:
            return f"run {run.ref.name} asks for no such replica now: nothing was served"
        say(f"replica {taken.id} of run {run.ref.name}, student after round {taken.round}")
        return _serve(run, registry, taken, say, look_seconds)
    finally:
        registry.close()
        run_files.publish_logs(run)


def _wanted(registry: leases.ReplicaRegistry, number: int, replica: str) -> str:
    """The id to take; one that joins gets a new id beside those of the same student. Empty when nobody asks."""
    if not registry.is_driven():
        return ""
    asked = [each for each in registry.all() if not each.leaving and number in (ASKED_NOW, each.round)]
    return replica or (registry.ask(asked[0].round, asked[0].checkpoint) if asked else "")


def _serve(
    run: RunFolder, registry: leases.ReplicaRegistry, taken: leases.Replica, say: Callable[[str], None], every: float
) -> str:
    """Serve with signs of life until there is a reason to leave, which it gives."""
    log = current(run).log(f"replica-{taken.id}")
    heart = processes.Heart(f"replica {taken.id}", lambda: registry.beat(taken.id))
    heart.begin()
    # After an interrupt: whether the driver replaces it depends on who ended the flow run.
    leave = registry.abandon
    try:
        student, host = current(run).student_at(taken.round), machine.own_host(store_url(run.config))
        if student.identity != taken.checkpoint:
            raise errors.TapirError(
                f"the student after round {taken.round} is {student.identity} on this machine and {taken.checkpoint} "
                f"for the driver of run {run.ref.name!r}; let both have the same root and backbone"
            )
        key = keys.replica_key(run.ref.root, run.record.id, taken.id)
        server = vllm.VllmServer(run.config.student, log, say, host=host, api_key=key)
        reason = _serve_until_told(registry, taken.id, server, student.folder, say, every)
        leave = registry.remove
    except Exception:  # raised again: the driver reads in the flow run's state why it ended
        leave = registry.remove
        raise
    finally:
        heart.stop()
        leave(taken.id)
    return reason


def _serve_until_told(
    registry: leases.ReplicaRegistry,
    replica: str,
    server: vllm.VllmServer,
    checkpoint: Path,
    say: Callable[[str], None],
    every: float,
) -> str:
    """Serve ``checkpoint`` until there is a reason to leave, which it gives; a thread of its own sees when there is."""
    reason = ""

    def look(over: threading.Event) -> None:
        nonlocal reason
        while not over.wait(every):
            try:
                if not registry.is_wanted(replica):
                    reason = "asked to leave"
                elif not registry.is_driven():
                    reason = "nobody drives the run any more"
            except errors.TapirError as error:
                # While the database is away the driver cannot look either, and both go on.
                logger.warning("replica %s cannot see whether it is wanted: %s", replica, error)
            if reason:
                server.abort()
                over.set()

    try:
        with processes.beside("tapir-replica", look) as over:
            endpoint = server.start(checkpoint)
            registry.serve(replica, endpoint.base_url, endpoint.concurrency)
            say(f"serving at {endpoint.base_url}, up to {endpoint.concurrency} requests at once")
            while not over.wait(every):
                if not server.runs:
                    raise errors.EngineError(
                        f"the student server of replica {replica} died; its log is {server.log_path}"
                    )
    except errors.EngineError:
        # A server that was told to stop ends with it too.
        if not reason:
            raise
    finally:
        server.stop()
    return reason
