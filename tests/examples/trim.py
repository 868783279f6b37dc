"""Stage `trim`: what is drawn for a round's mixture, without the longest share of the teacher's plain answers.

A stage beside the product. In the product it would be: the field in `tapir_core/config/curriculum.py`, the declaration
and its place in `tapir_core/stages/students.py`, and the work in `tasks/trim.py`.
"""

from typing import Annotated

import polars as pl
from pydantic import Field

from tapir_core.config import Section
from tapir_core.config.curriculum import CurriculumConfig
from tapir_core.run_folder import RunFolder
from tapir_core.stages import DRAW, REFINE, ROUND, Stage, StageAt, declare
from tasks._task import stage_task
from tasks.outcomes import Worked
from tasks.pool import round_pool
from tests.examples.fields import add_field

__all__ = ["TRIM", "TrimConfig", "trim", "trimmed"]


class TrimConfig(Section):
    """Leave the longest answers out of every mixture."""

    share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the drawn answers that is left out."""


add_field(CurriculumConfig, "trim", TrimConfig | None, None)


TRIM = declare(
    Stage(
        name="trim",
        folder="trimmed",
        columns=DRAW.columns,
        row="a drawn instruction whose answer is not among the longest",
        when=lambda c, at: at.number > 0 and c.curriculum.trim is not None,
        reads=lambda c, at: [*DRAW.reads(c, at), DRAW.at(at.round)],
        settings=lambda c, _: c.curriculum.trim.shaping(),
        replaces=DRAW.name,
    )
)

ROUND.insert(ROUND.index(REFINE), TRIM)


@stage_task(TRIM)
def trim(run: RunFolder, at: StageAt) -> Worked:
    """The drawn rows that stay, in their order."""
    drawn = run.rows(DRAW.at(at.round))
    answers = round_pool(run, at.number + 1).select("instruction_id", "response")
    rows = trimmed(drawn.join(answers, on="instruction_id", maintain_order="left"), run.config.curriculum.trim.share)
    return Worked(rows.drop("response"), {"trimmed": drawn.height - rows.height})


def trimmed(rows: pl.DataFrame, share: float) -> pl.DataFrame:
    """``rows`` without the longest ``share`` of `response`, in characters; of equal lengths the last go first."""
    kept = rows.height - int(share * rows.height)
    lengths = rows["response"].str.len_chars()
    longest_last = rows.with_row_index("place").with_columns(length=lengths).sort("length", "place")
    return longest_last.head(kept).sort("place").drop("place", "length")
