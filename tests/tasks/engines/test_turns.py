"""Models of one machine are served one at a time."""

from pathlib import Path

from tapir_core.calls import Endpoint
from tapir_core.config import StudentConfig
from tasks.engines.student_server import Student, Students
from tasks.engines.turns import Turns

STUDENT = Student(0, Path(), "")


class Served(Students):
    def __init__(self, name: str, events: list[str]) -> None:
        super().__init__(StudentConfig(), Path(), lambda _: None)
        self._name, self._events = name, events

    def endpoint(self, _student: Student) -> Endpoint:
        self._events.append(f"{self._name} is asked")
        return Endpoint(f"http://{self._name}", 1)

    def stop(self) -> None:
        self._events.append(f"{self._name} ends")


def test_another_one_starts_when_the_last_has_ended_and_the_same_one_goes_on() -> None:
    events: list[str] = []
    teacher, student, turns = Served("teacher", events), Served("student", events), Turns()
    for served in (teacher, teacher, student):
        turns.endpoint(served, STUDENT)
    turns.end()
    turns.end()
    turns.endpoint(student, STUDENT)
    assert events == [
        *("teacher is asked", "teacher is asked", "teacher ends"),
        *("student is asked", "student ends", "student is asked"),
    ]
