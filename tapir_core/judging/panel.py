"""Several judges become one: their verdicts on the same answers, combined by a rule. Pure.

Whatever reads scores reads combined verdicts, of one judge too; what each judge said stays in ``verdicts/``.

Laws: the order of the judges changes nothing; one judge is the identity; an unscored verdict, or one that is missing,
leaves the others'. A combined verdict is unscored only when no judge scored it.
"""

import polars as pl

from tapir_core.config import PanelRule
from tapir_core.judging.combine import VERDICTS

__all__ = ["combine_judges"]

_PLACE = ["instruction_id", "order"]
_DIGITS = 9


def combine_judges(verdicts: pl.DataFrame, rule: PanelRule) -> pl.DataFrame:
    """The verdicts of all judges as those of one: one row an instruction and order, sorted by both.

    ``reason`` names every reason once where nobody scored; ``judge`` names who counted, and ``raw`` holds their
    replies, each under its judge's name where there are several.
    """
    rows = verdicts.cast(VERDICTS).sort(*_PLACE, "judge")
    counted = _mark_counted(rows, rule)
    combined = counted.group_by(_PLACE, maintain_order=True).agg(
        _mean("student_score"), _mean("teacher_score"), _status(), _reason(), _raw(), _judge()
    )
    return combined.select(VERDICTS.names()).cast(VERDICTS)


def _mark_counted(rows: pl.DataFrame, rule: PanelRule) -> pl.DataFrame:
    """Adds ``counts``: the verdicts that the combined one is made of; of a row that nobody scored, all."""
    scored = pl.col("status") == "scored"
    rows = rows.with_columns(scored=scored, any_scored=scored.any().over(_PLACE))
    if rule == "majority":
        rows = rows.with_columns(winner=(pl.col("teacher_score") - pl.col("student_score")).sign())
        votes = pl.col("scored").sum().over(*_PLACE, "winner")
        rows = rows.with_columns(votes=pl.when("scored").then(votes))
        rows = rows.with_columns(leads=pl.col("votes") == pl.col("votes").max().over(_PLACE))
        leaders = pl.col("winner").filter(pl.col("leads")).n_unique().over(_PLACE)
        rows = rows.with_columns(scored=pl.col("scored") & ((leaders > 1) | pl.col("leads")))
    return rows.with_columns(counts=pl.col("scored") | ~pl.col("any_scored"))


def _mean(column: str) -> pl.Expr:
    return pl.col(column).filter(pl.col("counts")).mean().round(_DIGITS)


def _status() -> pl.Expr:
    return pl.when(pl.col("any_scored").any()).then(pl.lit("scored")).otherwise(pl.lit("unscored")).alias("status")


def _reason() -> pl.Expr:
    reasons = pl.col("reason").drop_nulls().unique().sort().str.join("; ")
    return pl.when(~pl.col("any_scored").any() & (pl.col("reason").count() > 0)).then(reasons).alias("reason")


def _raw() -> pl.Expr:
    raw = pl.col("raw").filter(pl.col("counts") & pl.col("raw").is_not_null())
    judge = pl.col("judge").filter(pl.col("counts") & pl.col("raw").is_not_null())
    several = pl.concat_str(pl.lit("["), judge, pl.lit("]\n"), raw).str.join("\n\n")
    return pl.when(raw.len() == 1).then(raw.first()).when(raw.len() > 1).then(several).alias("raw")


def _judge() -> pl.Expr:
    return pl.col("judge").filter(pl.col("counts")).str.join(", ")
