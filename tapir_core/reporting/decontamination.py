"""What of pool and expansion held an evaluation question: by benchmark, and one by one."""

from collections import Counter

import polars as pl

from tapir_core.config import HELDOUT
from tapir_core.data.decontamination import CONTAMINATED
from tapir_core.reporting.formats import count, number, round_name
from tapir_core.reporting.look import Look
from tapir_core.reporting.tables import Table
from tapir_core.reporting.types import BenchmarkHits, Decontamination
from tapir_core.stages import StageAt
from tapir_core.text import shorten

__all__ = ["contaminated_table", "decontamination_table", "summarise_decontamination"]

_LISTED = 50
_SHOWN_CHARACTERS = 160


def summarise_decontamination(look: Look) -> Decontamination | None:
    """What was looked for and found; nothing before the pool was looked through, or where nothing is looked for."""
    pool = look.rows(StageAt("contaminated"))
    if pool is None:
        return None
    rounds = look.run.config.round_numbers
    found = {number: rows for number in rounds if (rows := look.rows(StageAt("contaminated", number))) is not None}
    expansion = Counter(name for rows in found.values() for name in rows["benchmark"])
    in_pool = Counter(pool["benchmark"])
    listed = [pool.with_columns(place=pl.lit("pool"))]
    listed += [rows.with_columns(place=pl.lit(f"expansion, {round_name(number)}")) for number, rows in found.items()]
    return Decontamination(
        tuple(
            BenchmarkHits(name, questions, in_pool[name], expansion[name])
            for name, questions in _questions(look).items()
        ),
        pl.concat(listed).select("place", *CONTAMINATED.names()),
    )


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


def _questions(look: Look) -> dict[str, int]:
    """Benchmark → its questions, a turn counting as one."""
    found: dict[str, int] = {}
    heldout, questions = look.manifest(StageAt("heldout")), look.rows(StageAt("questions"))
    if heldout is not None:
        found[HELDOUT] = heldout.rows
    if questions is not None:
        found |= dict(sorted(Counter(questions["benchmark"]).items()))
    return found


_RULES = (
    "An instruction that holds questions of several benchmarks counts for each. Held-out instructions are looked for "
    "by equality and shared words, those of benchmarks by near-duplicates too."
)
