"""What a GPU worker does for a run: one replica of its student, from its start until it has to leave.

It leaves when it is asked to, when nobody drives the run, when its server dies or when this process is interrupted;
then its GPUs are free. Limits: it holds no lease and writes nothing of the run but its log.
"""

from collections.abc import Callable
from pathlib import Path

from tapir_core.calls.store.address import run_key, store_url
from tapir_core.calls.store.replicas import Replica, ReplicaRegistry
from tapir_core.config import ReplicasEngine
from tapir_core.errors import ConfigError, EngineError, TapirError
from tapir_core.paths import log_file
from tapir_core.run_folder import RunFolder
from tapir_core.scratch import publish_logs
from tasks.engines.gpus import visible_gpus
from tasks.engines.log_follower import follow_log
from tasks.engines.replicas.address import replica_host
from tasks.engines.replicas.key import replica_key
from tasks.engines.replicas.stay import Stay
from tasks.engines.vllm_server import VllmServer
from tasks.runtime import current

__all__ = ["ASKED_NOW", "serve_replica"]

ASKED_NOW = -2
"""In place of a round: the student that the run asks for now."""


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
    if not isinstance(config.student.engine, ReplicasEngine):
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
    stay = Stay(registry, taken.id)
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
    run: RunFolder, registry: ReplicaRegistry, taken: Replica, stay: Stay, say: Callable[[str], None]
) -> str:
    server = _server(run, taken, say)
    stay.leave = server.abort
    if stay.reason:
        return stay.reason
    try:
        with follow_log("student server", _log(run, taken)):
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
    engine, template = run.config.student.engine, run.config.student.chat_template
    assert isinstance(engine, ReplicasEngine)
    host = replica_host()
    identity = current(run).student_voice(taken.round).identity
    if identity != taken.checkpoint:
        raise TapirError(
            f"the student after round {taken.round} is {identity} on this machine and {taken.checkpoint} for the "
            f"driver of run {run.ref.name!r}; let both have the same root and backbone"
        )
    return VllmServer(
        engine,
        current(run).checkpoint(taken.round),
        _log(run, taken),
        chat_template=Path(template) if template else None,
        report=say,
        host=host,
        api_key=replica_key(run.ref.root, run.record.id, taken.id),
        gpus=len(visible_gpus()),
    )


def _log(run: RunFolder, taken: Replica) -> Path:
    return run.workplace.local(log_file(f"replica-{taken.id}"))
