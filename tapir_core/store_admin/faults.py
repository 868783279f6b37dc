"""What can be wrong with one row of the store. Pure functions on one row; nothing here reads or mends.

Limits: the messages that were asked are not kept, so a key cannot be computed again, and a sound reply that was moved
under another key is not found. PostgreSQL itself refuses text that is not UTF-8.
"""

import math
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from tapir_core.calls.types import TERMINAL, Answer
from tapir_core.calls.wire import read_completion

__all__ = ["Fault", "row_faults"]

Fault = Literal[
    "key is no sha256",
    "unknown status",
    "undecodable text",
    "reply gives another text",
    "impossible count",
    "unreadable time",
]

STATUSES = frozenset[str]({"answer", *TERMINAL})
TEXTS = ("key", "role", "model", "identity", "prompt_version", "run", "status", "text", "finish_reason", "message")
MOST = 2**31 - 1
"""PostgreSQL's largest INTEGER; no reply has as many tokens."""
COUNTS = ("sample_index", "attempts", "prompt_tokens", "completion_tokens")


def row_faults(row: Mapping[str, Any]) -> list[Fault]:
    """What is wrong with ``row`` (the columns of table `answers`), worst first; nothing of a sound row."""
    faults: list[Fault] = []
    readable = all(_is_text(row[name]) for name in TEXTS) and (row["raw"] is None or _is_text(row["raw"]))
    if not _is_sha256(row["key"]):
        faults.append("key is no sha256")
    if row["status"] not in STATUSES:
        faults.append("unknown status")
    if not readable:
        faults.append("undecodable text")
    elif row["status"] == "answer" and row["raw"] is not None and not _gives_again(row):
        faults.append("reply gives another text")
    if not all(_is_count(row[name]) for name in COUNTS) or not _is_price(row["usd"]):
        faults.append("impossible count")
    if not _is_moment(row["created"]):
        faults.append("unreadable time")
    return faults


def _is_text(value: object) -> bool:
    """Text as the store takes it: encodable, and without the NUL that PostgreSQL and C programs stop at."""
    if not isinstance(value, str) or "\x00" in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_sha256(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) is not None


def _gives_again(row: Mapping[str, Any]) -> bool:
    """Whether today's reader makes the stored answer of the raw reply."""
    try:
        reply = read_completion(row["raw"], usd_per_million_prompt=0, usd_per_million_completion=0)
    except RecursionError:
        return False  # nested deeper than any reply that was ever read
    outcome = reply.outcome
    return isinstance(outcome, Answer) and (outcome.text, outcome.finish_reason) == (row["text"], row["finish_reason"])


def _is_count(value: object) -> bool:
    return isinstance(value, int) and 0 <= value <= MOST


def _is_price(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value >= 0


def _is_moment(value: object) -> bool:
    """SQLite keeps times as text, and any text."""
    if isinstance(value, str):
        try:
            datetime.fromisoformat(value)
        except ValueError:
            return False
        return True
    return isinstance(value, datetime)
