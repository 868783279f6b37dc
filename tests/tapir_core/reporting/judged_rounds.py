"""Rounds whose judge behaves in a way that a test needs: real run folders with other verdicts."""

from collections.abc import Callable
from pathlib import Path

import polars as pl

from tapir_core.run_folder import RunFolder
from tapir_core.stages import JUDGE, StageAt
from tests.run_builder import build_run, make_config

__all__ = ["EDGES", "Change", "judged_run"]

Change = Callable[[pl.DataFrame], pl.DataFrame]
_JUDGE = StageAt("judge", 1)


def judged_run(root: Path, change: Change, **judge: object) -> RunFolder:
    """A run up to its first verdicts, with these changed."""
    data = {"pool": {"type": "standin", "rows": 60}}
    config = make_config(root, data=data, judge={"endpoint": {"type": "standin"}, **judge})
    run = build_run(root, until=_JUDGE, config=config)
    run.write(_JUDGE, change(run.rows(_JUDGE)).cast(JUDGE.columns))
    return run


def scores_of(student: float, teacher: float) -> Change:
    """Every verdict gives these scores."""

    def change(rows: pl.DataFrame) -> pl.DataFrame:
        scores = {"student_score": pl.lit(student), "teacher_score": pl.lit(teacher)}
        return rows.with_columns(**scores, status=pl.lit("scored"), reason=pl.lit(None))

    return change


def unscored_for(*reasons: str) -> Change:
    """No verdict gives a score; reasons take turns."""

    def change(rows: pl.DataFrame) -> pl.DataFrame:
        turns = [reasons[place % len(reasons)] for place in range(rows.height)]
        nothing = pl.lit(None, pl.Float64)
        return rows.with_columns(
            student_score=nothing, teacher_score=nothing, status=pl.lit("unscored"), reason=pl.Series(turns)
        )

    return change


def only(count: int) -> Change:
    """The first scored instructions alone."""

    def change(rows: pl.DataFrame) -> pl.DataFrame:
        kept = rows.filter(status="scored")["instruction_id"].unique().sort().head(count)
        return rows.filter(pl.col("instruction_id").is_in(kept.implode()))

    return change


EDGES: dict[str, Change] = {
    "all ties": scores_of(5.0, 5.0),
    "constant scores": scores_of(4.0, 9.0),
    "one instruction": only(1),
    "one verdict": lambda rows: only(1)(rows).head(1),
    "two instructions": only(2),
    "nothing scored": unscored_for("no verdict", "refused"),
    "no verdicts": lambda rows: rows.clear(),
    "hostile reasons": unscored_for("<script>alert(1)</script>", "costs $5 to $6 \\frac", "理由 ‮\x07 {x}", "x" * 5000),
}
