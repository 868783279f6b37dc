"""What a preference round learns from: the teacher's answer over the student's own, where the judge is sure of it.

The answers are those that the round's verdicts are about, so that nothing is asked for again (arXiv 2604.03873). A pair
takes verdicts that agree: in every order the teacher's answer is ahead by a margin. An answer that broke off is left
out: no end of it was written that could be learned to avoid, and a loop up to the limit would outweigh all else.
"""

from collections import Counter
from collections.abc import Sequence

import polars as pl

from tapir_core.curriculum.usable import broken_reason

UNPAIRED = "no pair: "
"""In the counts of a selection: before the reason why instructions that it would choose make no pair."""

_NOT_AHEAD = "not_ahead"
_DIGITS = 9
_ANSWER = ("instruction_id", "response", "finish_reason")


def preference_pairs(
    seeds: pl.DataFrame, verdicts: pl.DataFrame, answers: pl.DataFrame, orders: Sequence[str], margin: float
) -> tuple[pl.DataFrame, dict[str, int]]:
    """The seeds that make a pair, and why the others do not: reason → seeds.

    Args:
        seeds: instruction_id and more.
        verdicts: of all judges combined, a row an instruction and order.
        answers: of the student, instruction_id, response, finish_reason.
        orders: in all of which the teacher's answer must be ahead.
        margin: points by which it must be, at least; at 0 any more than none.
    """
    lead = (pl.col("teacher_score") - pl.col("student_score")).round(_DIGITS)
    ahead = (
        verdicts.filter(pl.col("order").is_in(list(orders)), status="scored")
        .group_by("instruction_id")
        .agg(orders=pl.col("order").n_unique(), least=lead.min())
        .filter(pl.col("orders") == len(set(orders)), pl.col("least") >= margin, pl.col("least") > 0)
    )
    given = {identity: broken_reason(*said) for identity, *said in answers.select(_ANSWER).iter_rows()}
    led = {*ahead["instruction_id"]}
    reasons = [given.get(each, "failed") if each in led else _NOT_AHEAD for each in seeds["instruction_id"]]
    whole = pl.Series([reason is None for reason in reasons], dtype=pl.Boolean)
    return seeds.filter(whole), dict(sorted(Counter(filter(None, reasons)).items()))
