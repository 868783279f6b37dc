"""What of pool and expansion held an evaluation question: by benchmark, and one by one."""

import polars as pl

from tapir_core.reporting.tables import Table
from tapir_core.summary.formats import count, number
from tapir_core.summary.types import Decontamination
from tapir_core.text import shorten

__all__ = ["contaminated_table", "decontamination_table"]

_LISTED = 50
_SHOWN_CHARACTERS = 160


def decontamination_table(found: Decontamination | None) -> Table:
    """Instructions that were dropped, by the benchmark whose question they hold."""
    rows = [
        (each.benchmark, count(each.questions), count(each.pool), count(each.expansion))
        for each in (found.benchmarks if found else ())
    ]
    columns = ("Benchmark", "Questions", "Dropped from the pool", "Kept out of the expansion")
    return Table("Decontamination", columns, tuple(rows), note=_RULES)


def contaminated_table(found: Decontamination | None) -> Table:
    """Some of the dropped instructions with the question that each holds: the least similar first, to be looked at."""
    listed = pl.DataFrame() if found is None else found.rows.sort("similarity", maintain_order=True).head(_LISTED)
    rows = tuple(
        (
            row["place"],
            f"{row['benchmark']} {row['question_id']}",
            row["rule"].replace("_", " "),
            shorten(row["instruction"], _SHOWN_CHARACTERS),
            shorten(row["question"], _SHOWN_CHARACTERS),
            number(row["similarity"]),
        )
        for row in listed.iter_rows(named=True)
    )
    columns = ("Where", "Question", "Rule", "Instruction", "Question's text", "ROUGE-L")
    total = 0 if found is None else found.rows.height
    note = f"{count(len(rows))} of {count(total)}, the least similar; all of them are in `contaminated/`."
    return Table("Instructions that hold an evaluation question", columns, rows, text_columns=5, note=note)


_RULES = (
    "An instruction that holds questions of several benchmarks counts for each. Held-out instructions are looked for "
    "by equality and shared words, those of benchmarks by near-duplicates too."
)
