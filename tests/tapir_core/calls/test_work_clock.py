from collections import defaultdict
from contextlib import suppress

import pytest

from tapir_core.calls.budget import DRIVING, WorkClock


class Worked:
    """Adds up as the store does, by a clock that the test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self.seconds: dict[str, float] = defaultdict(float)
        self.writes = 0
        monkeypatch.setattr("tapir_core.calls.budget.time.monotonic", lambda: self.now)
        self.clock = WorkClock(self.add)

    def add(self, role: str, seconds: float) -> None:
        assert seconds >= 0
        self.writes += 1
        self.seconds[role] += seconds


@pytest.fixture
def worked(monkeypatch: pytest.MonkeyPatch) -> Worked:
    return Worked(monkeypatch)


def test_long_work_is_told_while_it_goes_on_and_not_at_each_look(worked: Worked):
    with worked.clock.working("teach"):
        before = worked.writes
        worked.now += 4.0
        worked.clock.tell(older_than_seconds=5.0)
        assert worked.writes == before
        worked.now += 1.0
        worked.clock.tell(older_than_seconds=5.0)
        assert worked.seconds == {DRIVING: 5.0, "teach": 5.0}
        worked.now += 2.0
    assert worked.seconds == {DRIVING: 7.0, "teach": 7.0}


def test_overlapping_work_of_one_role_counts_once_and_each_role_for_itself(worked: Worked):
    with worked.clock.working("teach"):
        worked.now += 1.0
        with worked.clock.working("judge"), worked.clock.working("teach"):
            worked.now += 10.0
        worked.now += 100.0
    worked.now += 1000.0
    worked.clock.tell()
    assert worked.seconds == {"teach": 111.0, "judge": 10.0, DRIVING: 1111.0}


def test_work_that_is_interrupted_counts(worked: Worked):
    with suppress(KeyboardInterrupt), worked.clock.working("teach"):
        worked.now += 3.0
        raise KeyboardInterrupt
    worked.now += 5.0
    with worked.clock.working("judge"):
        worked.now += 1.0
    assert worked.seconds == {"teach": 3.0, "judge": 1.0, DRIVING: 9.0}
