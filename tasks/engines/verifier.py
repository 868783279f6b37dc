"""A verifier's scores: its function runs in supervised children without our keys (`verifier_main.py`)."""

import os
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from tapir_core import errors, storage
from tapir_core.config import VerifierConfig
from tapir_core.evaluation.benchmark import ScriptFailed
from tasks.engines.supervisor import ScriptRunner

Row = tuple[str, str, str | None]
"""Instruction, answer, reference."""

_ROWS_PER_CHILD = 64
"""At least: fewer are not worth another child."""
_CORES = os.cpu_count() or 1
_children = threading.BoundedSemaphore(_CORES)
"""Shards work at the same time, but with no more children than cores."""


class Mark(NamedTuple):
    """A verifier's score of an answer."""

    score: float | None
    """From 0 to 1; None without a score."""
    reason: str | None
    """Why there is no score: `none` (the verifier returned None), or the kind of failure and details after a colon."""


def score_rows(verifier: VerifierConfig, rows: Sequence[Row], scripts: ScriptRunner) -> list[Mark]:
    """The mark of each row, in their order.

    Raises:
        ConfigError: its module cannot be imported, or it ended the process that supervises it.
    """
    size = max(_ROWS_PER_CHILD, -(-len(rows) // _CORES))
    parts = [rows[start : start + size] for start in range(0, len(rows), size)]
    with ThreadPoolExecutor(_CORES) as threads:
        return [
            mark for marks in threads.map(lambda part: _score_part(verifier, part, scripts), parts) for mark in marks
        ]


def check_verifier(verifier: VerifierConfig) -> None:
    """Import the function in a child, as scoring does.

    Raises:
        ConfigError: the import failed; with its error.
    """
    _score_part(verifier, [], ScriptRunner())


def source_digest(verifier: VerifierConfig) -> str:
    """SHA-256 of the user's module; empty for a shipped one, and for one that is not found."""
    return storage.file_sha256(Path(verifier.source)) if verifier.source else ""


def _score_part(verifier: VerifierConfig, rows: Sequence[Row], scripts: ScriptRunner) -> list[Mark]:
    job = {
        "module": verifier.module,
        "function": verifier.function.rpartition(":")[2],
        "path": verifier.path,
        "seconds": verifier.timeout_seconds,
        "memory": int(verifier.memory_gib * 2**30),
        "rows": rows,
    }
    try:
        with _children:
            result: dict[str, Any] = scripts.run(
                "verifier_main", job, python=Path(sys.executable), environment={}, log="verifier"
            )
    except ScriptFailed as failed:
        raise errors.ConfigError(
            f"judge.verifier: {verifier.function!r} ended the process that looks after it ({failed}; "
            f"{failed.log_path} says more); correct the function"
        ) from failed
    if problem := result.get("problem"):
        raise errors.ConfigError(
            f"judge.verifier: {verifier.function!r} cannot be imported: {problem}; correct it, install what it needs, "
            f"or name the folder of its module in judge.verifier.folder (looked in first: {verifier.path[0]}); a "
            f"module that needs much memory needs another judge.verifier.memory_gib than {verifier.memory_gib:g}"
        )
    return [Mark(*each) for each in result["marks"]]
