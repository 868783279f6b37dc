"""Which engine serves how: the one table in which an engine stands beside its configuration class."""

from tapir_core.config import StudentEngine, VllmEngine, by_kind
from tapir_core.config.student import EndpointEngine
from tasks.engines import endpoints, student_server, vllm


@by_kind(StudentEngine)
def serving(engine: StudentEngine) -> type[student_server.Students]:
    """What serves the students of this engine."""
    raise NotImplementedError  # never runs: `by_kind` names the kind that lacks it


def serve(kind: type[StudentEngine], how: type[student_server.Students]) -> None:
    """Say what serves the students of a kind of engine, and of those that are made of it and say nothing else."""
    if lacking := ", ".join(sorted(getattr(how, "__abstractmethods__", ()))):
        raise TypeError(f"{how.__name__} lacks {lacking}; define what StudentServer says of it")
    serving.register(kind, lambda _: how)


# Replicas too: their workers serve only where a driver has joined them to the run (flows/fleet.py).
serve(VllmEngine, vllm.VllmServer)
serve(EndpointEngine, endpoints.EndpointStudents)
