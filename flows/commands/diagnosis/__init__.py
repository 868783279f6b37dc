"""What `tapir doctor` looks at: the machine and the root of all runs, the Prefect server, and one configuration.

Here is what a check finds, and how checks are made: side by side, each within its own time, none hiding the others. A
check says what it found and what helps.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from tapir_core.errors import TapirError

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


def finding(level: Level, found: str, remedy: str = "") -> Finding:
    """A finding on one line, which `examine` gives its part; the remedy is left out where all is well."""
    return Finding("", level, " ".join(found.split()), "" if level == "ok" else remedy)


def fault_of(message: str, remedy: str = "") -> Finding:
    """The fault of an error message, which says its remedy after a semicolon; ``remedy`` where it does not."""
    found, _, said = message.partition("; ")
    return Finding("", "fault", found, said or remedy)


def examine(checks: Sequence[Check]) -> list[Finding]:
    """Make all checks at once; the findings stand in the order of the checks.

    A check that is still at work at its limit is a fault, and is left behind: it ends with the process.
    """
    found: dict[Check, Finding] = {}

    def look(check: Check) -> None:
        try:
            found[check] = check.look()
        except TapirError as error:
            found[check] = fault_of(str(error), check.remedy)
        except Exception as error:  # whatever breaks one check is a fault of its part, and the others are made
            found[check] = Finding("", "fault", f"{type(error).__name__}: {error}", check.remedy)

    started = time.monotonic()
    threads = {check: threading.Thread(target=look, args=[check], daemon=True) for check in checks}
    for thread in threads.values():
        thread.start()
    for check, thread in threads.items():
        thread.join(max(0.0, check.limit_seconds - (time.monotonic() - started)))
    late = {each: Finding("", "fault", f"no answer within {each.limit_seconds:g} s", each.remedy) for each in checks}
    return [replace(found.get(each, late[each]), part=each.part) for each in checks]
