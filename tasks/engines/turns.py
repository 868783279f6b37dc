"""The models that a run serves on its own machine, its student among them, have the machine in turn.

Limits: who asks for another model ends the server of the one before, also one that is being asked; stages that ask
different ones therefore wait for each other (`flows/steps.py`).
"""

import threading

from tapir_core.calls import Endpoint
from tasks.engines.student_server import Student, Students


class Turns:
    """Whose turn it is. Thread-safe."""

    def __init__(self) -> None:
        self._has_it: Students | None = None
        self._lock = threading.Lock()

    def endpoint(self, students: Students, student: Student) -> Endpoint:
        """As `Students.endpoint`, once whatever else was served has ended."""
        with self._lock:
            if self._has_it is not students:
                self._end()
            self._has_it = students
            # Nobody else starts meanwhile: the GPUs can be had once in a process too.
            return students.endpoint(student)

    def end(self) -> None:
        """End what is served, and return when its accelerators are free."""
        with self._lock:
            self._end()

    def _end(self) -> None:
        if self._has_it is not None:
            self._has_it.stop()
            self._has_it = None
