"""Figures of benchmarks as tables and sentences: side by side, gained on each other, and how far each is asked.

Figures of different judges, prompts or settings never stand in one table, since they are on different scales; how a
file's outputs were drawn is not known, so they stand beside students and other files that were judged alike.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import polars as pl

from tapir_core import paths, run_state, statistics
from tapir_core.evaluation.benchmark import benchmark_of, exchanges_of, registered
from tapir_core.evaluation.scores import ALL, ItemValues, judgments_of
from tapir_core.reporting import page, sentences
from tapir_core.stages import BENCHMARK_ITEMS, Compared, benchmark_stages
from tapir_core.summary import RunReader, figures_of, formats, headlines, types

DIFFERS = {"judge": "another judge", "prompt_version": "another prompt", "settings": "other settings"}
"""Column of ``scores/`` that must be equal for figures to be paired → what is said where it is not."""

PAIRED_COLUMNS = (
    *("Student", "Against", "Benchmark", "Figure", "Note"),
    *("Difference", "Standard error", "95 % interval", "p", "n", "Failed"),
)

_DONE = {"benchmark_answers": "answered", "benchmark_replies": "judged", "benchmark_scores": "done"}
"""Stage → how far a benchmark is whose last stage that holds is this one."""

_OUT_OF_DATE = "out of date"


def metric_label(metric: str) -> str:
    """What a figure is called, with its unit; one that no benchmark names as what marks calls it."""
    return next((kind.labels[metric] for kind in registered().values() if metric in kind.labels), f"{metric}, %")


def benchmark_tables(
    summary: types.RunSummary, compared: Sequence[Compared] | None = None, names: Sequence[str] | None = None
) -> list[page.Table]:
    """Each benchmark's figures with students and models as columns: a table for each judge, prompt and settings.

    ``compared`` are the students and models, ``names`` the benchmarks; all of them when left out.
    """
    rows, settings = figures_of(summary, compared, names), pl.col("settings")
    of_file = settings.str.contains("; outputs: ")
    # A file's outputs stand beside students that were judged alike, else beside other files that were.
    judged = settings.str.replace(r"; (student|outputs): [^;]*", "")
    students = settings.filter(~of_file).first().over("benchmark", "judge", "prompt_version", judged)
    rows = rows.with_columns(scale=pl.when(of_file).then(pl.coalesce(students, judged)).otherwise(settings))
    parts = rows.partition_by("benchmark", "judge", "prompt_version", "scale", maintain_order=True)
    return [figures_side_by_side(part) for part in parts if part.height]


def headline_panels(summary: types.RunSummary) -> list[tuple[str, pl.DataFrame]]:
    """For each headline and each judge of a benchmark its label and the rows of all students, with their `number`."""
    parts = headlines(figures_of(summary).drop_nulls("number")).partition_by(
        "benchmark", "metric", *DIFFERS, maintain_order=True
    )
    return [(f"{part['benchmark'][0]}: {metric_label(part['metric'][0])}", part) for part in parts if part.height]


def figures_tables(name: str, figures: pl.DataFrame | None) -> list[page.Table]:
    """Every benchmark's figures of one student or model, with intervals and failures: a table for each judge."""
    parts = [] if figures is None else figures.partition_by("judge", maintain_order=True)
    of_judges = {f", judged by {part['judge'][0]}" if len(parts) > 1 else "": part for part in parts}
    return [
        page.table_of(
            f"Benchmarks of {name}{judge}",
            (
                ("Benchmark", lambda row: row["benchmark"]),
                ("Figure", lambda row: metric_label(row["metric"])),
                ("Category", lambda row: row["category"]),
                ("Note", lambda row: row["note"]),
                ("Value", lambda row: formats.number(row["value"])),
                ("Standard error", lambda row: formats.number(row["stderr"])),
                ("95 % interval", lambda row: _span(row) or formats.NOTHING),
                ("n", lambda row: formats.count(row["n"])),
                ("Failed", lambda row: formats.count(row["n_failed"])),
            ),
            part.to_dicts(),
            text_columns=4,
            note=beside_in_words(part),
        )
        for judge, part in of_judges.items()
    ]


def benchmarks_sentence(summary: types.RunSummary, compared: Sequence[Compared], names: Sequence[str]) -> str:
    """The headlines of these students and models, on a line, and who judged them how; empty without benchmarks."""
    rows = figures_of(summary, compared, names)
    whole = headlines(rows).filter(category=ALL).to_dicts()
    found = [f"{row['student']} {row['benchmark']} {_headline_in_words(row)}" for row in whole]
    return f"{'; '.join(found)}. {beside_in_words(rows)}" if found else ""


def _headline_in_words(row: dict[str, Any]) -> str:
    """What it is called, the figure, n; why, where there is none."""
    told = f"n = {row['n']}" if row["value"] is not None else f"since {row['note']}"
    return f"{metric_label(row['metric'])} {_cell(row)}, {told}"


def figures_side_by_side(rows: pl.DataFrame) -> page.Table:
    """One benchmark under one judge; a row a figure and category, a column a `student`, which names it."""
    students = rows["student"].unique(maintain_order=True).to_list()
    shown = []
    for (metric, category), of in rows.group_by("metric", "category", maintain_order=True):
        found = {row["student"]: row for row in of.to_dicts()}
        most = formats.count(max(row["n"] + row["n_failed"] for row in found.values()))
        cells = (_cell(found[student]) if student in found else formats.NOTHING for student in students)
        shown.append((metric_label(str(metric)), str(category), *cells, most))
    note = f"In brackets the 95 % interval; n counts what failed, too. {beside_in_words(rows)} {_notes(rows)}"
    return page.Table(
        rows["benchmark"][0], ("Figure", "Category", *students, "n"), tuple(shown), text_columns=2, note=note.strip()
    )


def _cell(row: dict[str, Any]) -> str:
    """52.10 (45.83 to 58.37); what failed stands behind it."""
    interval = f" ({span})" if (span := _span(row)) else ""
    figure = "no figure" if row["value"] is None else f"{row['value']:.2f}{interval}"
    return figure + (f", {row['n_failed']} failed" if row["n_failed"] else "")


def _span(row: dict[str, Any]) -> str:
    return "" if row["low"] is None else f"{row['low']:.2f} to {row['high']:.2f}"


def beside_in_words(rows: pl.DataFrame) -> str:
    """Who judged, how it was asked and how both were drawn, of each benchmark."""
    several = rows["benchmark"].n_unique() > 1
    return " ".join(
        f"{name + ': ' if several else ''}Judged by {judge}; prompt {prompt}; {settings}."
        for name, judge, prompt, settings in rows.select("benchmark", *DIFFERS).unique(maintain_order=True).rows()
    )


def _notes(rows: pl.DataFrame) -> str:
    """What the figures say of themselves, each note once with the students that it is about."""
    noted, every = rows.filter(pl.col("note") != "", category=ALL), rows["student"].n_unique()
    notes = noted.group_by("metric", "note", maintain_order=True).agg("student").rows()
    labels = {metric: metric_label(metric).split(",")[0].capitalize() for metric, _, _ in notes}
    return sentences.together(
        f"{labels[metric]}{'' if len(of) == every else ' of ' + ', '.join(of)}: {note}." for metric, note, of in notes
    )


def benchmark_gains_table(reader: RunReader, students: Sequence[int], best: int | None) -> page.Table:
    """How much better some of ``students`` are than others, a row a benchmark, pair and headline.

    Args:
        reader: The run.
        students: Rounds; of each benchmark those of them that have figures.
        best: The best student by the dev split of the held-out set. Where it is not known, or was not asked, the last
            one is set against the backbone.
    """
    rows: list[tuple[str, ...]] = []
    for name, benchmark in reader.run.config.evaluation.asked.items():
        found = {each: reader.rows(benchmark_stages(name, each)[-1]) for each in sorted(students)}
        asked = {each: scores for each, scores in found.items() if scores is not None}
        for after, before in _pairs([*asked], best):
            differs = [words for part, words in DIFFERS.items() if asked[after][part][0] != asked[before][part][0]]
            values, others = (headline_values(reader, name, student) for student in (after, before))
            rows += paired_rows(
                (formats.student_name(after), formats.student_name(before), name),
                values,
                others,
                differs,
                max_failed_share=benchmark.max_failed_share,
            )
    return page.Table(
        "Students on the same questions",
        PAIRED_COLUMNS,
        tuple(rows),
        text_columns=5,
        note="First column minus the second one, paired over questions; p of a paired t-test. A "
        "question that one of the two lacks, or failed, is in neither. The best student is that of the dev split of "
        "the held-out set, which no benchmark is part of.",
    )


def _pairs(asked: Sequence[int], best: int | None) -> list[tuple[int, int]]:
    """Which student is set against which, each pair once."""
    trained = [each for each in asked if each not in (paths.BACKBONE, paths.AVERAGE)]
    if not trained:
        return []
    first, last = trained[0], trained[-1]
    leading = best if best is not None and best in {*asked} - {paths.BACKBONE} else last
    pairs = ((last, first), (leading, first), (paths.AVERAGE, last), (leading, paths.BACKBONE))
    return [pair for pair in dict.fromkeys(pairs) if pair[0] != pair[1] and {*pair} <= {*asked}]


def paired_rows(
    names: tuple[str, str, str],
    after: Mapping[str, ItemValues],
    before: Mapping[str, ItemValues],
    differs: Sequence[str],
    *,
    max_failed_share: float,
    unit: str = "judgments",
) -> list[tuple[str, ...]]:
    """A row under ``PAIRED_COLUMNS`` for each figure of two students; ``names`` are theirs and the benchmark's.

    One row where something ``differs``, for which they are not compared.
    """
    if differs:
        unknown = [formats.NOTHING] * (len(PAIRED_COLUMNS) - 5)
        return [(*names, formats.NOTHING, f"not compared: {', '.join(differs)}", *unknown)]
    rows: list[tuple[str, ...]] = []
    for metric in sorted(after.keys() & before.keys()):
        found = statistics.compare_paired(after[metric], before[metric], max_failed_share=max_failed_share, unit=unit)
        rows.append(
            (
                *names,
                metric_label(metric),
                found.note,
                formats.points(found.value),
                formats.number(found.stderr),
                found.span("{:+.2f}".format) or formats.NOTHING,
                formats.number(found.p, 4),
                formats.count(found.n),
                formats.count(found.failed),
            )
        )
    return rows


def headline_values(reader: RunReader, name: str, student: int) -> dict[str, ItemValues]:
    """What the headlines of a student are made of; nothing where its figures do not stand."""
    tables = reader.tables([BENCHMARK_ITEMS.at(benchmark=name), *benchmark_stages(name, student)])
    if not tables:
        return {}
    items, answers, replies, _ = tables
    return benchmark_of(reader.run.config, name).values(exchanges_of(items, answers), judgments_of(replies))


def benchmark_states_tables(reader: RunReader) -> list[page.Table]:
    """A table for each benchmark that is asked each round or was asked later, for figures of two have no common scale.

    A row a student: all of them of what is asked each round, of the others those that were asked. Then every model
    whose outputs are a file.
    """
    return [table for name in reader.run.config.evaluation.asked if (table := _states_table(reader, name))]


def _states_table(reader: RunReader, name: str) -> page.Table:
    config, models = reader.run.config, run_state.models_of(reader.run, name)
    each_round = name in config.evaluation.each_round
    compared: list[Compared] = [*config.students, *models]
    begun = {who: _state(reader, name, who) for who in compared}
    states = {who: state or "to do" for who, state in begun.items() if state or each_round or who in models}
    scores = {who: rows for who in states if (rows := reader.rows(benchmark_stages(name, who)[-1])) is not None}
    notes = (
        f"In brackets the 95 % interval. {beside_in_words(pl.concat(scores.values()))}" if scores else "",
        "Out of date: made with another configuration, file, checkpoint or version of tapir; `tapir run`, then the "
        "command that made it, makes it again."
        if _OUT_OF_DATE in states.values()
        else "",
    )
    whole = {who: headlines(rows).filter(category=ALL).to_dicts() for who, rows in scores.items()}
    columns: tuple[tuple[str, Callable[[Compared], str]], ...] = (
        ("Student", formats.student_name),
        ("Asked", lambda who: "each round" if each_round and who not in models else "later"),
        ("State", lambda who: states[who]),
        ("Figure", lambda who: "; ".join(map(_headline_in_words, whole.get(who, []))) or formats.NOTHING),
    )
    return page.table_of(f"Benchmark {name}", columns, states, text_columns=4, note=sentences.together(notes))


def _state(reader: RunReader, name: str, who: Compared) -> str:
    """How far it is; empty where nothing of it lies in the run's folder."""
    stages = benchmark_stages(name, who)
    for at in reversed(stages):
        if reader.run.manifest(at) is not None:
            return _OUT_OF_DATE if reader.manifest(at) is None else _DONE[at.name]
    return "begun" if any(reader.run.storage.names(at.folder) for at in stages) else ""
