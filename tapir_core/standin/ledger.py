"""What became of each request: counts since the start, and one JSON line a request.

Limits: counts live as long as the process; the log, if there is one, is appended to and flushed line by line.
"""

import json
import time
from collections import Counter
from hashlib import sha256
from pathlib import Path
from typing import Any, TextIO

from tapir_core.standin.chat import Outcome
from tapir_core.standin.faults import FaultKind
from tapir_core.standin.sections import Kind
from tapir_core.standin.version import STANDIN_VERSION

__all__ = ["Ledger"]


class Ledger:
    """The counts and the log of one server."""

    def __init__(self, log_path: Path | None) -> None:
        self._log_path = log_path
        self._log: TextIO | None = None
        self._answered: Counter[Kind] = Counter()
        self._refused: Counter[Kind] = Counter()
        self._faults: Counter[FaultKind] = Counter()
        self._rejected = 0
        self._failed = 0

    def open(self) -> None:
        """Open the log, if there is one."""
        self._log = self._log_path.open("a", encoding="utf-8") if self._log_path else None

    def close(self) -> None:
        """Close the log."""
        if self._log is not None:
            self._log.close()

    def stats(self) -> dict[str, Any]:
        """Requests so far: all, answered and refused by kind, rejected as wrong, failed by order; faults by name."""
        done = self._answered.total() + self._refused.total()
        return {
            "version": STANDIN_VERSION,
            "requests": done + self._rejected + self._failed,
            "answered": dict(self._answered),
            "refused": dict(self._refused),
            "rejected": self._rejected,
            "failed": self._failed,
            "faults": dict(self._faults),
        }

    def count_fault(self, fault: FaultKind) -> None:
        """Count a fault that struck something else than a chat request."""
        self._faults[fault] += 1

    def record(
        self,
        content: bytes,
        outcome: Outcome,
        status: int | None,
        kind: Kind | None,
        *,
        fault: FaultKind | None = None,
        batch: str | None = None,
    ) -> None:
        """Count a chat request and write its line.

        Args:
            content: the request's body.
            outcome: how it ended.
            status: what was sent; nothing when nothing was.
            kind: what was asked, if that was looked at.
            fault: the fault that it met.
            batch: id of the batch that it is a row of.
        """
        if outcome == "answered" and kind is not None:
            self._answered[kind] += 1
        elif outcome == "refused" and kind is not None:
            self._refused[kind] += 1
        elif outcome == "rejected":
            self._rejected += 1
        else:
            self._failed += 1
        if fault is not None:
            self._faults[fault] += 1
        if self._log is None:
            return
        line = {
            "time": round(time.time(), 3),
            "kind": kind,
            "outcome": outcome,
            "sha256": sha256(content).hexdigest(),
            "status": status,
            "fault": fault,
            "batch": batch,
        }
        self._log.write(json.dumps(line) + "\n")
        self._log.flush()
