"""Usable teacher answers: what is refused, empty, cut off or failed for good leaves the pool, counted by reason.

Limits: usable means complete, not right. Whether an answer is right is never asked of a plain teacher answer.
"""

from collections import Counter
from dataclasses import dataclass

import polars as pl

from tapir_core.curriculum.tables import EXAMPLES, in_order

__all__ = ["Usable", "split_usable", "unusable_reason"]

_REFUSALS = frozenset({"refused", "content_filter"})


@dataclass(frozen=True, slots=True)
class Usable:
    """The instructions that stay, and why the others leave."""

    examples: pl.DataFrame
    """One row an instruction that can be trained on, by instruction id; columns ``EXAMPLES``."""
    dropped: dict[str, int]
    """Reason → instructions."""


def unusable_reason(response: str | None, finish_reason: str | None) -> str | None:
    """Why a teacher's answer cannot be trained on: refused, failed:<kind>, cut_off or empty; nothing if it can."""
    ending = finish_reason or ""
    if ending in _REFUSALS:
        return "refused"
    if ending.startswith("failed"):
        return ending
    if ending == "length":
        return "cut_off"
    return None if (response or "").strip() else "empty"


def split_usable(pool: pl.DataFrame, teacher: pl.DataFrame, labels: pl.DataFrame) -> Usable:
    """Keep what the teacher answered usably and gave a task type.

    An instruction without a row in ``teacher`` counts as ``missing``; one without a task type as ``no_task_type``,
    because nothing that follows can place it.
    """
    answers = {row[0]: row[1:] for row in teacher.select("instruction_id", "response", "finish_reason").iter_rows()}
    labelled = set(labels.drop_nulls("task_type")["instruction_id"])
    reasons = []
    for identity in pool["instruction_id"]:
        reason = unusable_reason(*answers[identity]) if identity in answers else "missing"
        reasons.append(reason or (None if identity in labelled else "no_task_type"))
    kept = pool.filter(pl.Series([reason is None for reason in reasons], dtype=pl.Boolean))
    examples = kept.join(labels.select("instruction_id", "task_type"), on="instruction_id", validate="1:1").join(
        teacher.select("instruction_id", "response"), on="instruction_id", validate="1:1"
    )
    counts = Counter(reason for reason in reasons if reason is not None)
    return Usable(in_order(examples.select(EXAMPLES.names())), dict(sorted(counts.items())))
