"""Which engine serves how: the one table in which an engine stands beside its configuration class."""

from tapir_core.config import EndpointEngine, StudentEngine, VllmEngine, by_kind
from tasks.engines.endpoints import EndpointStudents
from tasks.engines.student_server import Serving, served_here
from tasks.engines.vllm import VllmServer

__all__ = ["serving"]


@by_kind(StudentEngine)
def serving(engine: StudentEngine) -> Serving:
    """How the students of this engine are served."""
    raise NotImplementedError


# Replicas too: their workers serve only where a driver has joined them to the run (flows/running/fleet.py).
serving.register(VllmEngine, lambda _: served_here(VllmServer))
serving.register(EndpointEngine, lambda _: Serving(EndpointStudents, lambda _engine: None))
