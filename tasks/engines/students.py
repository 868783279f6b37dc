"""Which engine serves how: the one table in which an engine stands beside its configuration class."""

from tapir_core.config import EndpointEngine, StudentEngine, VllmEngine, by_kind
from tasks.engines.endpoints import EndpointStudents
from tasks.engines.student_server import Serving, served_here
from tasks.engines.vllm import VllmServer


@by_kind(StudentEngine)
def serving(engine: StudentEngine) -> Serving:
    """How the students of this engine are served."""
    raise NotImplementedError


def serve(kind: type[StudentEngine], how: Serving) -> None:
    """Say how the students of a kind of engine are served, and of those that are made of it and say nothing else."""
    serving.register(kind, lambda _: how)


# Replicas too: their workers serve only where a driver has joined them to the run (flows/fleet.py).
serve(VllmEngine, served_here(VllmServer))
serve(EndpointEngine, Serving(EndpointStudents, lambda _: None))
