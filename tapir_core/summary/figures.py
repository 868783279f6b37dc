"""Figures of students and of models of files on benchmarks: their headlines, and whether one is missing."""

from collections.abc import Sequence

import polars as pl

from tapir_core.errors import NoFigure
from tapir_core.evaluation.scores import SCORES
from tapir_core.evaluation.statistics import ALL
from tapir_core.stages import Compared
from tapir_core.summary.formats import student_name
from tapir_core.summary.types import RunSummary


def figures_of(
    summary: RunSummary, compared: Sequence[Compared] | None = None, names: Sequence[str] | None = None
) -> pl.DataFrame:
    """Figures of these students and models on these benchmarks; of all of them when left out.

    Columns: `SCORES` with `student`, its name, and `number`, its round.
    """
    known = summary.benchmarks
    tables = [
        known[who].with_columns(
            pl.lit(student_name(who)).alias("student"),
            pl.lit(who if isinstance(who, int) else None, pl.Int64).alias("number"),
        )
        for who in (known if compared is None else compared)
        if who in known
    ]
    found = pl.concat([pl.DataFrame(schema={**SCORES, "student": pl.String, "number": pl.Int64}), *tables])
    return found if names is None else found.filter(pl.col("benchmark").is_in(list(names)))


def headlines(figures: pl.DataFrame) -> pl.DataFrame:
    """The rows of the metric that stands for each benchmark: its first one."""
    return figures.filter(pl.col("metric") == pl.col("metric").first().over("benchmark"))


def require_figures(
    summary: RunSummary, compared: Sequence[Compared] | None = None, names: Sequence[str] | None = None
) -> None:
    """Say where too many judgments failed for a figure.

    Args:
        summary: The run.
        compared: Students, and models of files; every student that there is when left out.
        names: Benchmarks; those that are asked after each round when left out.

    Raises:
        NoFigure: a student or model has no headline on one of the benchmarks.
    """
    compared = [each.number for each in summary.rounds] if compared is None else compared
    names = summary.config.evaluation.each_round if names is None else names
    missing = headlines(figures_of(summary, compared, names)).filter(pl.col("value").is_null(), category=ALL)
    if missing.height:
        reasons = missing.group_by("benchmark", "note", maintain_order=True).agg(
            pl.col("student").unique(maintain_order=True)
        )
        said = "; ".join(f"{', '.join(who)} on {name}: {note}" for name, note, who in reasons.rows())
        raise NoFigure(
            f"no figure, since failures are no random sample: {said}. The run's benchmarks/ folders hold "
            f"the replies. Once the judge is fixed, `tapir evaluate {summary.name} --benchmark {','.join(names)} "
            "--also terminal` asks it again where it failed (in the UI: evaluate, Ask failed judgments too). Answers "
            "that the student failed to give: forget them with `tapir store prune --role answer --status KIND --yes`, "
            "remove those folders and give the same command again. A baseline without answers needs a file that has "
            "them. Or raise max_failed_share of [evaluation.benchmarks] and run the configuration with --amend"
        )
