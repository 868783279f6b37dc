"""Figures of benchmarks as tables and sentences: who is compared side by side, with judge, prompt and settings.

Figures of different judges, prompts or settings never stand in one table, since they are on different scales; how a
file's outputs were drawn is not known, so they stand beside students and other files that were judged alike.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import polars as pl

from tapir_core.errors import NoFigure
from tapir_core.evaluation.benchmark import registered
from tapir_core.evaluation.scores import SCORES
from tapir_core.evaluation.statistics import ALL
from tapir_core.reporting.tables import Table
from tapir_core.stages import Compared
from tapir_core.summary.formats import NOTHING, count, number, student_name
from tapir_core.summary.types import RunSummary

__all__ = [
    "benchmark_names",
    "benchmark_tables",
    "benchmarks_sentence",
    "beside_in_words",
    "figures_side_by_side",
    "figures_tables",
    "headline_panels",
    "headlines_in_words",
    "metric_label",
    "require_figures",
    "require_round_figures",
]

_BESIDE = ("judge", "prompt_version", "settings")
_OF_FILE = r"; outputs: "
"""In the settings of figures of a model of a file."""


def metric_label(metric: str) -> str:
    """What a figure is called, with its unit; one that no benchmark names as what marks calls it."""
    return next((kind.labels[metric] for kind in registered().values() if metric in kind.labels), f"{metric}, %")


def benchmark_names(summary: RunSummary) -> list[str]:
    """The benchmarks that some student, or a model of a file, has figures of, in the order of the configuration."""
    tables = [rows for who in summary.compared if (rows := summary.benchmarks(who)) is not None]
    return list(dict.fromkeys(name for rows in tables for name in rows["benchmark"]))


def benchmark_tables(summary: RunSummary, compared: Sequence[Compared], names: Sequence[str]) -> list[Table]:
    """Each benchmark's figures with students and models as columns: a table for each judge, prompt and settings."""
    if not compared:
        return []
    found = [_rows(summary, who, names).with_columns(student=pl.lit(student_name(who))) for who in compared]
    rows = _with_scale(pl.concat(found))
    parts = rows.partition_by("benchmark", "judge", "prompt_version", "scale", maintain_order=True)
    return [figures_side_by_side(part) for part in parts]


def _with_scale(rows: pl.DataFrame) -> pl.DataFrame:
    """With `scale`: the settings; of a file's outputs those of students that were judged alike, else how they were."""
    of_file = pl.col("settings").str.contains(_OF_FILE)
    judged = pl.col("settings").str.replace(r"; (student|outputs): [^;]*", "")
    students = pl.col("settings").filter(~of_file).first().over("benchmark", "judge", "prompt_version", judged)
    return rows.with_columns(scale=pl.when(of_file).then(pl.coalesce(students, judged)).otherwise("settings"))


def headline_panels(summary: RunSummary) -> list[tuple[str, pl.DataFrame]]:
    """For each headline and each judge of a benchmark its label and the rows of all students, with their `number`."""
    tables = [
        _of_headlines(each.benchmarks).with_columns(number=pl.lit(each.number))
        for each in summary.rounds
        if each.benchmarks is not None
    ]
    if not tables:
        return []
    rows = pl.concat(tables)
    parts = rows.partition_by("benchmark", "metric", *_BESIDE, maintain_order=True)
    return [(f"{part['benchmark'][0]}: {metric_label(part['metric'][0])}", part) for part in parts]


def figures_tables(name: str, figures: pl.DataFrame | None) -> list[Table]:
    """Every benchmark's figures of one student or model, with intervals and failures: a table for each judge."""
    if figures is None:
        return []
    parts = figures.partition_by("judge", maintain_order=True)
    of = [f", judged by {part['judge'][0]}" if len(parts) > 1 else "" for part in parts]
    return [_figures_table(f"Benchmarks of {name}{judge}", part) for judge, part in zip(of, parts, strict=True)]


def _figures_table(title: str, figures: pl.DataFrame) -> Table:
    cells = tuple(
        (
            row["benchmark"],
            metric_label(row["metric"]),
            row["category"],
            row["note"],
            number(row["value"]),
            number(row["stderr"]),
            NOTHING if row["low"] is None else f"{row['low']:.2f} to {row['high']:.2f}",
            count(row["n"]),
            count(row["n_failed"]),
        )
        for row in figures.iter_rows(named=True)
    )
    columns = ("Benchmark", "Figure", "Category", "Note", "Value", "Standard error", "95 % interval", "n", "Failed")
    return Table(title, columns, cells, text_columns=4, note=beside_in_words(figures))


def benchmarks_sentence(summary: RunSummary, compared: Sequence[Compared], names: Sequence[str]) -> str:
    """The headlines of these students and models, on a line, and who judged them how; empty without benchmarks."""
    found = [(student_name(who), _rows(summary, who, names)) for who in compared]
    told = [
        f"{who} {name} {said}"
        for who, of_all in found
        for name, rows in _by_benchmark(of_all)
        for said in headlines_in_words(rows)
    ]
    return f"{'; '.join(told)}. {beside_in_words(pl.concat([rows for _, rows in found]))}" if told else ""


def headlines_in_words(rows: pl.DataFrame) -> list[str]:
    """The headlines of one student on one benchmark: what it is called, the figure, n; why, where there is none."""
    return [
        f"{metric_label(row['metric'])} {_cell(row)}, "
        + (f"n = {row['n']}" if row["value"] is not None else f"since {row['note']}")
        for row in _headlines(rows)
    ]


def require_figures(summary: RunSummary, compared: Sequence[Compared], names: Sequence[str]) -> None:
    """Say where too many judgments failed for a figure.

    Raises:
        NoFigure: a student or model has no headline on one of the benchmarks.
    """
    lacking: dict[tuple[str, str], list[str]] = {}
    for who in compared:
        for row in _headlines(_rows(summary, who, names)):
            if row["value"] is None:
                lacking.setdefault((row["benchmark"], row["note"]), []).append(student_name(who))
    if lacking:
        told = "; ".join(f"{', '.join(dict.fromkeys(who))} on {name}: {note}" for (name, note), who in lacking.items())
        raise NoFigure(
            f"no figure, since failures are no random sample: {told}. The run's benchmarks/ folders hold "
            f"the replies. Once the judge is mended, `tapir evaluate {summary.name} --benchmark {','.join(names)} "
            "--also terminal` asks it again where it failed (in the UI: evaluate, Ask failed judgments too). Answers "
            "that the student failed to give: forget them with `tapir store prune --role answer --status KIND --yes`, "
            "remove those folders and give the same command again. A baseline without answers needs a file that has "
            "them. Or raise max_failed_share of [evaluation.benchmarks] and run the configuration with --amend"
        )


def require_round_figures(summary: RunSummary, each_round: Sequence[str]) -> None:
    """The same for the benchmarks that are asked after ``each_round``, of every student there is.

    Raises:
        NoFigure: a student has no headline on one of them.
    """
    require_figures(summary, [each.number for each in summary.rounds], each_round)


def _rows(summary: RunSummary, who: Compared, names: Sequence[str]) -> pl.DataFrame:
    found = summary.benchmarks(who)
    if found is None:
        return pl.DataFrame(schema=SCORES)
    return found.filter(pl.col("benchmark").is_in(list(names)))


def _by_benchmark(rows: pl.DataFrame) -> list[tuple[str, pl.DataFrame]]:
    return [(part["benchmark"][0], part) for part in rows.partition_by("benchmark", maintain_order=True)]


def _headlines(rows: pl.DataFrame) -> list[dict[str, Any]]:
    return _of_headlines(rows).filter(category=ALL).to_dicts()


def _of_headlines(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows of one student's headlines."""
    headlines = [metric for kind in registered().values() for metric in kind.headlines]
    known, first = pl.col("metric").is_in(headlines), pl.col("metric") == pl.col("metric").first().over("benchmark")
    return rows.filter(pl.when(known.any().over("benchmark")).then(known).otherwise(first))


def figures_side_by_side(rows: pl.DataFrame) -> Table:
    """One benchmark under one judge; a row a figure and category, a column a `student`, which names it."""
    students = list(dict.fromkeys(rows["student"]))
    found: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for row in rows.iter_rows(named=True):
        found.setdefault((metric_label(row["metric"]), row["category"]), {})[row["student"]] = row
    shown = tuple(
        (metric, category, *(_cell(of.get(student)) for student in students), _most(of.values()))
        for (metric, category), of in found.items()
    )
    columns = ("Figure", "Category", *students, "n")
    note = f"In brackets the 95 % interval; n counts what failed, too. {beside_in_words(rows)} {_notes(rows)}".strip()
    return Table(rows["benchmark"][0], columns, shown, text_columns=2, note=note)


def _cell(row: dict[str, Any] | None) -> str:
    """52.10 (45.83 to 58.37); what failed stands behind it."""
    if row is None:
        return NOTHING
    interval = "" if row["low"] is None else f" ({row['low']:.2f} to {row['high']:.2f})"
    figure = "no figure" if row["value"] is None else f"{row['value']:.2f}{interval}"
    return figure + (f", {row['n_failed']} failed" if row["n_failed"] else "")


def _most(rows: Iterable[dict[str, Any]]) -> str:
    """How many judgments a figure has where none failed."""
    return count(max(row["n"] + row["n_failed"] for row in rows))


def beside_in_words(rows: pl.DataFrame) -> str:
    """Who judged, how it was asked and how both were drawn, of each benchmark."""
    several = rows["benchmark"].n_unique() > 1
    return " ".join(
        f"{name + ': ' if several else ''}Judged by {judge}; prompt {prompt}; {settings}."
        for name, judge, prompt, settings in rows.select("benchmark", *_BESIDE).unique(maintain_order=True).rows()
    )


def _notes(rows: pl.DataFrame) -> str:
    """What the figures say of themselves, each note once with the students that it is about."""
    told: dict[tuple[str, str], list[str]] = {}
    for row in rows.filter((pl.col("note") != "") & (pl.col("category") == ALL)).iter_rows(named=True):
        told.setdefault((metric_label(row["metric"]), row["note"]), []).append(row["student"])
    every = rows["student"].n_unique()
    return " ".join(
        f"{metric.split(',')[0].capitalize()}{'' if len(of) == every else ' of ' + ', '.join(of)}: {note}."
        for (metric, note), of in told.items()
    )
