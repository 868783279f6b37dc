from collections import defaultdict

from tapir_core.calls.budget import WorkClock


class Worked:
    """Adds up as the store does."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.told: list[str] = []

    def __call__(self, role: str, seconds: float) -> None:
        assert seconds >= 0
        self.told.append(role)
        self.seconds[role] += seconds


def test_long_work_is_told_while_it_goes_on_and_short_work_at_its_end():
    worked = Worked()
    clock = WorkClock(worked)
    with clock.working("teach"):
        clock.tell_all(older_than_seconds=600)
        assert worked.told == []
        clock.tell_all(older_than_seconds=0)
        assert worked.told == ["teach"]
    assert worked.told == ["teach", "teach"]


def test_overlapping_work_of_one_role_is_told_once():
    worked = Worked()
    clock = WorkClock(worked)
    with clock.working("teach"), clock.working("judge"), clock.working("teach"):
        assert worked.told == []
    assert worked.told == ["judge", "teach"]


def test_what_still_works_when_the_clock_ends_counts_no_further():
    worked = Worked()
    clock = WorkClock(worked)
    with clock.working("teach"):
        clock.end_all()
        assert worked.told == ["teach"]
    assert worked.told == ["teach"]
