"""What `tapir doctor` looks at: the machine and the root of all runs, the Prefect server, and one configuration.

Here is what a check finds, and how checks are made: side by side, each within its own time, none hiding the others.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from tapir_core.errors import TapirError

__all__ = ["Check", "Finding", "Level", "examine", "fault", "ok", "told", "warning"]

Level = Literal["ok", "warning", "fault"]
"""A fault stops a run or an operation, a warning may."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The state of one part; `examine` gives it the name of its check."""

    part: str
    level: Level
    found: str
    """Versions, addresses, figures; or what is wrong."""
    remedy: str = ""
    """What to do; nothing where all is well."""


@dataclass(frozen=True, slots=True)
class Check:
    """A look at one part."""

    part: str
    look: Callable[[], Finding]
    """May raise: that is a fault."""
    remedy: str
    """What helps when the look fails or takes too long, and its error does not say it."""
    limit_seconds: float = 15.0


def ok(found: str) -> Finding:
    """Nothing is to be done."""
    return Finding("", "ok", found)


def warning(found: str, remedy: str) -> Finding:
    """Works, but perhaps not as wanted."""
    return Finding("", "warning", found, remedy)


def fault(found: str, remedy: str) -> Finding:
    """Does not work."""
    return Finding("", "fault", found, remedy)


def told(message: str, remedy: str = "") -> Finding:
    """The fault of an error message, which says its remedy after a semicolon; ``remedy`` where it does not."""
    found, _, said = message.partition("; ")
    return fault(found, said or remedy)


def examine(checks: Sequence[Check]) -> list[Finding]:
    """Make all checks at once; the findings stand in the order of the checks.

    A check that is still at work at its limit is a fault, and is left behind: it ends with the process.
    """
    found: dict[int, Finding] = {}

    def look(place: int, check: Check) -> None:
        found[place] = _look(check)

    started = time.monotonic()
    threads = [threading.Thread(target=look, args=each, daemon=True) for each in enumerate(checks)]
    for thread in threads:
        thread.start()
    for thread, check in zip(threads, checks, strict=True):
        thread.join(max(0.0, check.limit_seconds - (time.monotonic() - started)))
    return [
        replace(found.get(place) or fault(f"no answer within {check.limit_seconds:g} s", check.remedy), part=check.part)
        for place, check in enumerate(checks)
    ]


def _look(check: Check) -> Finding:
    try:
        return check.look()
    except TapirError as error:
        return told(str(error), check.remedy)
    except Exception as error:  # whatever breaks one check is a fault of its part, and the others are made
        return fault(f"{type(error).__name__}: {error}", check.remedy)
