"""Which engine serves how: the one table in which an engine stands beside its configuration class."""

from pathlib import Path

from tapir_core.config import EndpointEngine, ReplicasEngine, StudentConfig, StudentEngine, VllmEngine
from tasks.engines.endpoints import EndpointStudents
from tasks.engines.student_server import Installed, Report, Serving, Students, served_here
from tasks.engines.vllm import VllmServer

__all__ = ["SERVINGS", "find_installed", "serve_students"]

SERVINGS: dict[type, Serving] = {
    VllmEngine: served_here(VllmServer),
    # Its workers serve it where a driver has joined them to the run (flows/running/fleet.py), else this process does.
    ReplicasEngine: served_here(VllmServer),
    EndpointEngine: Serving(EndpointStudents, lambda _engine: None),
}


def serve_students(student: StudentConfig, log_path: Path, report: Report) -> Students:
    """Who gives the endpoints of a run's students.

    Args:
        student: Its engine says where it answers.
        log_path: Gets what a server of ours writes.
        report: Told how a start gets on.
    """
    return _serving(student.engine).students(student, log_path, report)


def find_installed(engine: StudentEngine) -> Installed | None:
    """What of an engine is on this machine; nothing where none is needed.

    Raises:
        MissingPrerequisite: what it needs is not here.
    """
    return _serving(engine).installed(engine)


def _serving(engine: StudentEngine) -> Serving:
    try:
        return SERVINGS[type(engine)]
    except KeyError:
        raise NotImplementedError(
            f"nothing serves a {type(engine).__name__}: write its serving in tasks/engines/ and give it a line in "
            "SERVINGS (tasks/engines/students.py)"
        ) from None
