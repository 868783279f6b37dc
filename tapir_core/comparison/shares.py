"""Shares of right answers over run seeds, with intervals, and when too many answers are missing for one. Pure."""

from collections.abc import Mapping
from dataclasses import replace

from tapir_core.comparison.outcome import Graded
from tapir_core.evaluation.bootstrap import Resampled, Values, resample
from tapir_core.evaluation.statistics import MAX_FAILED_SHARE
from tapir_core.judging.estimates import share_interval
from tapir_core.randomness import derive_rng
from tapir_core.task_types import TASK_TYPES

__all__ = ["share_of", "shares_by_task_type", "too_many"]


def share_of(values: Values, *scope: str) -> Resampled | None:
    """The mean of marks; where all are equal, with Wilson's interval of one run seed, for draws would not differ."""
    found = resample(values, rng=derive_rng(0, *scope))
    if found is None:
        return None
    ends = {end: min(1.0, max(0.0, getattr(found, end))) for end in ("low90", "high90", "low95", "high95")}
    if found.value in (0.0, 1.0):
        n = min(len(items) for items in values.values() if items)
        low, high = share_interval(found.value, n)
        ends = dict.fromkeys(("low90", "low95"), low) | dict.fromkeys(("high90", "high95"), high)
    return replace(found, **ends)


def shares_by_task_type(comparison: str, name: str, students: Mapping[int, Graded]) -> dict[str, Resampled]:
    """Task type → share of its items, of one student a run seed.

    A type of which too many answers are missing with a run seed is left out.
    """
    found: dict[str, Resampled] = {}
    for task_type in TASK_TYPES:
        asked = {
            seed: [item for item, of_type in test.task_types.items() if of_type == task_type]
            for seed, test in students.items()
        }
        values = {
            seed: {item: test.correct[item] for item in asked[seed] if item in test.correct}
            for seed, test in students.items()
        }
        if any(too_many(len(items) - len(values[seed]), len(items)) for seed, items in asked.items()):
            continue
        if share := share_of(values, comparison, "task type", name, task_type):
            found[task_type] = share
    return found


def too_many(missing: int, n: int) -> bool:
    """Whether so many of ``n`` answers are missing that those left would be no random sample."""
    return missing > MAX_FAILED_SHARE * n
