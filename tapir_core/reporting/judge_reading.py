"""The few verdicts of a round that are worth reading: the widest order gaps, and unscored ones of every reason."""

from dataclasses import dataclass

import polars as pl

__all__ = ["JudgedInstruction", "Reply", "choose_verdicts"]

_EACH = 5
_SHOWN_CHARS = 2_000
_COLUMNS = ("instruction_id", "instruction", "task_type")


@dataclass(frozen=True, slots=True)
class Reply:
    """One verdict to read."""

    order: str
    judge: str
    outcome: str
    """The scores, or why there are none."""
    text: str
    """The judge's reply; a long one without its middle, since verdicts stand at the end."""


@dataclass(frozen=True, slots=True)
class JudgedInstruction:
    """An instruction with the judges' replies."""

    why: str
    """Why it is shown."""
    instruction: str
    task_type: str
    replies: tuple[Reply, ...]
    """The teacher's answer first, then the student's; of several judges by name."""


def choose_verdicts(verdicts: pl.DataFrame, pairs: pl.DataFrame, pool: pl.DataFrame) -> tuple[JudgedInstruction, ...]:
    """At most ten instructions with their replies, the same ones for the same verdicts.

    ``pairs`` is what `pair_orders` gives of the combined verdicts; ``pool`` has instruction_id, instruction and
    task_type.
    """
    chosen = [(identity, f"order gap {gap:+.1f}") for identity, gap in _widest_gaps(pairs)]
    chosen += [(identity, "unscored") for identity in _unscored(verdicts)]
    rows = verdicts.filter(pl.col("instruction_id").is_in([identity for identity, _ in chosen]))
    texts = {identity: (text, task_type) for identity, text, task_type in pool.select(_COLUMNS).iter_rows()}
    replies = _replies(rows)
    return tuple(JudgedInstruction(why, *texts[identity], replies=replies[identity]) for identity, why in chosen)


def _widest_gaps(pairs: pl.DataFrame) -> list[tuple[str, float]]:
    unequal = pairs.filter(pl.col("order_gap") != 0)
    widest = unequal.sort(pl.col("order_gap").abs(), "instruction_id", descending=[True, False]).head(_EACH)
    rows: list[tuple[str, float]] = widest.select("instruction_id", "order_gap").rows()
    return rows


def _unscored(verdicts: pl.DataFrame) -> list[str]:
    """Instructions with unscored verdicts; the reasons take turns, so that a rare one is seen."""
    unscored = verdicts.filter(pl.col("status") != "scored").sort("instruction_id", "order", "judge")
    turns = unscored.with_columns(turn=pl.int_range(pl.len()).over("reason")).sort("turn", maintain_order=True)
    identities: list[str] = turns["instruction_id"].unique(maintain_order=True).head(_EACH).to_list()
    return identities


def _replies(verdicts: pl.DataFrame) -> dict[str, tuple[Reply, ...]]:
    found: dict[str, tuple[Reply, ...]] = {}
    ordered = verdicts.sort("instruction_id", "order", "judge", descending=[False, True, False])
    for row in ordered.iter_rows(named=True):
        scored = row["status"] == "scored"
        scores = f"student {row['student_score']:g}, teacher {row['teacher_score']:g}" if scored else ""
        reply = Reply(row["order"], row["judge"], scores or f"unscored: {row['reason']}", _shorten(row["raw"] or ""))
        found[row["instruction_id"]] = (*found.get(row["instruction_id"], ()), reply)
    return found


def _shorten(text: str) -> str:
    if len(text) <= _SHOWN_CHARS:
        return text
    half = _SHOWN_CHARS // 2
    return f"{text[:half]}\n… ({len(text) - 2 * half} characters left out) …\n{text[-half:]}"
