"""Checks are made side by side; what breaks or hangs is a fault of its own part only."""

import threading

from flows.commands.diagnosis.checks import Check, Finding, examine
from tapir_core.errors import MissingPrerequisite


def test_a_check_that_breaks_or_hangs_is_a_fault_and_hides_no_other() -> None:
    forever = threading.Event()

    def hang() -> Finding:
        forever.wait()
        return Finding("", "ok", "at last")

    def lack() -> Finding:
        raise MissingPrerequisite("there is no key; export one")

    def fail() -> Finding:
        raise ZeroDivisionError("by nought")

    found = examine(
        [
            Check("hangs", hang, "reboot", limit_seconds=0.05),
            Check("lacks", lack, "unused"),
            Check("breaks", fail, "call a plumber"),
            Check("works", lambda: Finding("", "warning", "slow", "wait"), "unused"),
        ]
    )
    forever.set()
    assert found == [
        Finding("hangs", "fault", "no answer within 0.05 s", "reboot"),
        Finding("lacks", "fault", "there is no key", "export one"),
        Finding("breaks", "fault", "ZeroDivisionError: by nought", "call a plumber"),
        Finding("works", "warning", "slow", "wait"),
    ]
