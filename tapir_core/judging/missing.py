"""What a judge left unscored, by reason and by task type. Pure.

Grain: verdicts, one an instruction, order and judge, because each is one reply that was paid for. How many
*instructions* stay without an MFD is counted by `tapir_core.curriculum.count_unscored`.
"""

from collections import Counter
from dataclasses import dataclass

import polars as pl

from tapir_core.judging.estimates import Estimate, estimate_share

__all__ = ["NO_TASK_TYPE", "UnscoredVerdicts", "count_unscored_verdicts"]

NO_TASK_TYPE = "no task type"
_NO_REASON = "no reason given"


@dataclass(frozen=True, slots=True)
class UnscoredVerdicts:
    """Unscored verdicts of a round."""

    share: Estimate
    """Of all verdicts."""
    reasons: dict[str, int]
    """Reason → verdicts, the most frequent first, then by name."""
    task_types: dict[str, Estimate]
    """Task type → unscored share of its verdicts; the highest share first, then by name."""


def count_unscored_verdicts(verdicts: pl.DataFrame, labels: pl.DataFrame) -> UnscoredVerdicts:
    """Shares of verdicts without scores; ``labels`` has instruction_id and task_type, one row an instruction."""
    rows = verdicts.join(labels.select("instruction_id", "task_type"), on="instruction_id", how="left", validate="m:1")
    missing = rows.filter(pl.col("status") != "scored")
    reasons = Counter(reason or _NO_REASON for reason in missing["reason"])
    asked, lost = (Counter(name or NO_TASK_TYPE for name in each["task_type"]) for each in (rows, missing))
    shares = {name: estimate_share(lost[name], n) for name, n in asked.items()}
    return UnscoredVerdicts(
        estimate_share(missing.height, rows.height),
        dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0]))),
        dict(sorted(shares.items(), key=lambda item: (-(item[1].value or 0.0), item[0]))),
    )
