"""Several runs of a root beside each other: what differs in what they are, ask and score, on one page and as a card.

The last students of the runs are set against that of the first run, on the same items. Figures of different judges,
prompts, settings, questions or baselines stand in different tables and are not paired. The page is made from the run
folders alone. Limits: each p-value is that of its own difference, however many runs are set against the first.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import NamedTuple

import polars as pl

from tapir_core import errors, paths, run_state, text
from tapir_core.data.dataset import file_ingredient
from tapir_core.evaluation.benchmark import without_files
from tapir_core.evaluation.scores import ItemValues
from tapir_core.reporting import page, plots, sentences, serving, tables
from tapir_core.reporting.benchmarks import (
    DIFFERS,
    PAIRED_COLUMNS,
    figures_side_by_side,
    headline_values,
    paired_rows,
)
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.stages import BENCHMARK_ITEMS, EVALUATE, benchmark_stages, heldout_stages, lines
from tapir_core.statistics import grouped
from tapir_core.storage import Storage
from tapir_core.summary import RunReader, formats, marks_on_test, max_failed_share, summarise
from tapir_core.summary.types import ROLES, RoundSummary, RunSummary, Score, Usage


@dataclass(frozen=True, slots=True)
class SideBySide:
    """Runs that were measured on the same held-out set, in the order in which they were named."""

    runs: tuple[RunSummary, ...]
    benchmarks: tuple[page.Table, ...]
    """Figures of their last students, a table for each benchmark and judge."""
    paired: page.Table
    """The last student of every run against that of the first one, item by item."""
    served: Mapping[str, Mapping[str, str]]
    """Run → size and speed of its last student."""


def put_side_by_side(runs: Sequence[RunFolder]) -> SideBySide:
    """Put runs side by side, finished or not.

    Raises:
        ConfigError: there is no such run, two have one name, or different held-out sets; says in what they differ.
    """
    if len({run.ref.name for run in runs}) < len({run.ref for run in runs}):
        raise errors.ConfigError(
            "two of these runs have one name, by which tables tell runs apart; `tapir run … --name` gives another one"
        )
    for run in runs:
        if _heldout(run) != _heldout(runs[0]):
            raise errors.ConfigError(
                f"run {run.ref.name!r} cannot stand beside {runs[0].ref.name!r}, their held-out sets are not the same: "
                f"{_difference(runs[0], run)}; take runs of one curriculum"
            )
    asked = _asked(runs)
    rows = tuple(row for first, *others in asked.values() for other in others for row in _paired(first, other))
    summaries = tuple(map(summarise, runs))
    return SideBySide(
        summaries,
        benchmarks=tuple(_benchmarks_of_runs(each for of_runs in asked.values() for each in of_runs)),
        paired=page.Table(
            "Students of different runs on the same items",
            PAIRED_COLUMNS,
            rows,
            text_columns=5,
            note="Difference of the first column to the second one, paired over the same items; p of a paired "
            "t-test. An item that one of the two lacks, or failed, is in neither.",
        ),
        served={
            of.name: serving.served_as(RunReader(run), last.number) if (last := last_student(of)) else {}
            for run, of in zip(runs, summaries, strict=True)
        },
    )


def _heldout(run: RunFolder) -> tuple[str, ...]:
    """The digests of its held-out sets."""
    return tuple(held.digest if (held := run.holds(each)) else "" for each in heldout_stages(run.config))


def write_side_by_side(shown: SideBySide, root: str, file: str) -> str:
    """Write the page below the root and say where it is."""
    Storage(root).write_bytes(file, render_side_by_side(shown).encode())
    return f"{root}/{file}"


def write_sweep_report(curriculum: RunRef, swept: Sequence[run_state.Swept]) -> tuple[SideBySide, str] | None:
    """Compare the finished runs of a sweep, write the page and say where it is; nothing when none is finished.

    Of runs with different held-out sets, which the teacher's answers may decide, those of the most common one.
    """
    runs = grouped((_heldout(run), run) for run in run_state.finished_runs(swept))
    if not runs:
        return None
    shown = put_side_by_side(max(runs.values(), key=len))
    return shown, write_side_by_side(shown, curriculum.root, paths.sweep_report_file(curriculum.name))


def side_by_side_card(shown: SideBySide, report: str) -> str:
    """The tables in Markdown, for an artifact."""
    sections = map(page.section_of, (*side_by_side_tables(shown).values(), *shown.benchmarks, shown.paired))
    return f"# Backbones side by side\n\n{page.render_markdown(sections)}Page with plots: `{report}`\n"


def render_side_by_side(shown: SideBySide) -> str:
    """The page. Everything that is text is escaped."""
    beside = side_by_side_tables(shown)
    return page.render_page(
        "side_by_side.html.jinja2",
        [
            page.Section("", beside["ranking"]),
            page.Section("", beside["overview"]),
            _plot_students(shown.runs),
            replace(_plot_task_types(shown.runs), table=beside["task_types"]),
            page.section_of(shown.paired),
            *map(page.section_of, shown.benchmarks),
            replace(_plot_answers(shown.runs), table=beside["answers"]),
        ],
        runs=shown.runs,
        warnings=[*filter(None, dict.fromkeys(map(sentences.caution, shown.runs)))],
    )


def side_by_side_tables(shown: SideBySide) -> dict[str, page.Table]:
    """`ranking` has a row for each run; `overview`, `task_types` and `answers` have a column."""
    runs = shown.runs
    names, note = [each.name for each in runs], sentences.score_note(map(_last_score, runs))
    metric = formats.metric_name(runs[0].metric)
    return {
        "ranking": _ranking(shown),
        "overview": page.Table(
            "Side by side",
            ("", *names),
            tuple((label.format(metric=metric), *map(cell, runs)) for label, cell in _ROWS.items()),
            note=f"{note} The gain is paired, with its 95 % interval. Answers are those of teacher and judge. USD is "
            "the price of all of them: what came from the store was paid by the run that asked first.".strip(),
        ),
        "task_types": tables.task_types_table(
            f"{metric.capitalize()} by task type",
            dict(zip(names, map(last_student, runs), strict=True)),
            f"Last student of each run on the test split; n counts what failed, too. {note}",
        ),
        "answers": _answers_table(runs),
    }


def _ranking(shown: SideBySide) -> page.Table:
    """The last students by their score, the best first, each with what it is to serve and what it cost."""
    scored = [(score, each) for each in shown.runs if (score := _last_score(each)) is not None]
    columns = ("Parameters", "Size on disk", "Output tokens/s", "Seconds an answer, p50")
    rows = [
        (
            *(each.name, formats.score(score)),
            *(shown.served[each.name].get(label, formats.NOTHING) for label in columns),
            *(formats.number(each.usage.usd), formats.duration(each.busy_seconds)),
        )
        for score, each in sorted(scored, key=lambda one: -(one[0].value or 0.0))
    ]
    return page.Table(
        "Ranking",
        ("Run", f"Test {formats.metric_name(shown.runs[0].metric)}", *columns, "USD", "Time at work"),
        tuple(rows) if len(rows) > 1 else (),
        note="The last student of each run, as that run served it: speeds compare where machine and calls in flight "
        "are the same. USD is the price of all answers of teacher and judge. Which differences are more than chance: "
        f"{shown.paired.title!r}.",
    )


def _answers_table(runs: Sequence[RunSummary]) -> page.Table:
    """Where the answers came from, by stage and by role."""
    rows = [(name, *(_answers(each.usage_of(stage=name)) for each in runs)) for name in lines()]
    rows = [row for row in rows if any(cell != formats.NOTHING for cell in row[1:])]
    rows += [(f"all of the {role}", *(_answers(each.usage_of(role=role)) for each in runs)) for role in ROLES]
    return page.Table(
        "Where the answers came from",
        ("Stage", *(each.name for each in runs)),
        tuple(rows),
        note="Asked for + from the store, and the store's share.",
    )


def _answers(usage: Usage) -> str:
    share = reused_share(usage)
    return (
        formats.NOTHING
        if share is None
        else f"{formats.count(usage.calls)} + {formats.count(usage.stored)} ({formats.percent(share)})"
    )


def reused_share(usage: Usage) -> float | None:
    """Share of the answers that the store gave; nothing when none was needed."""
    answers = usage.calls + usage.stored
    return usage.stored / answers if answers else None


def _difference(first: RunFolder, other: RunFolder) -> str:
    here, there = _heldout_fields(first), _heldout_fields(other)
    changed = [name for name in {**here, **there} if here.get(name) != there.get(name)]
    said = [f"{name} is {here.get(name)!r} in the one and {there.get(name)!r} in the other" for name in changed]
    return ", ".join(said) or "the same settings, but other rows (another file, or not drawn yet)"


def _heldout_fields(run: RunFolder) -> dict[str, object]:
    heldout = run.config.data.heldout
    fields = {} if heldout is None else heldout.model_dump()
    return {"run.seed": run.config.run.seed, **{f"data.heldout.{name}": value for name, value in fields.items()}}


def last_student(summary: RunSummary) -> RoundSummary | None:
    """The last student of a round that was evaluated; nothing while only the backbone was."""
    return next((each for each in reversed(summary.by_round) if each.number >= 0), None)


def _test_score(student: RoundSummary | None) -> Score | None:
    return None if student is None else student.score("test")


def _last_score(summary: RunSummary) -> Score | None:
    return _test_score(last_student(summary))


_ROWS: dict[str, Callable[[RunSummary], str]] = {
    "Backbone": lambda run: run.config.student.backbone,
    "State": lambda run: f"next: {run.next_stage}" if run.next_stage else "done",
    "Last student": lambda run: (
        formats.NOTHING if (last := last_student(run)) is None else formats.student_name(last.number)
    ),
    "Test {metric}, backbone": lambda run: formats.score(_test_score(run.round(-1))),
    "Test {metric}, S_0": lambda run: formats.score(_test_score(run.round(0))),
    "Test {metric}, last student": lambda run: formats.score(_last_score(run)),
    "Test instructions": lambda run: formats.most([_last_score(run)]),
    "Gain over S_0, points": lambda run: formats.NOTHING if run.gain is None else formats.gain(run.gain),
    "Answers asked for": lambda run: formats.count(run.usage.calls),
    "Answers from the store": lambda run: formats.count(run.usage.stored),
    "Share from the store": lambda run: formats.percent(reused_share(run.usage)),
    "USD": lambda run: formats.number(run.usage.usd),
    "Time at work": lambda run: formats.duration(run.busy_seconds),
}


def _plot_students(runs: Sequence[RunSummary]) -> page.Section:
    """Test score of backbone, S_0 and last student of each run, with 95 % intervals."""
    metric = formats.metric_name(runs[0].metric)
    students = {
        "backbone": (page.GREY, "o", [_test_score(run.round(-1)) for run in runs]),
        "S_0": (page.COLOURS[1], "s", [_test_score(run.round(0)) for run in runs]),
        "last student": (page.COLOURS[0], "D", [_last_score(run) for run in runs]),
    }
    series = [
        page.Series(label, colour, marker, [(place + 0.16 * (offset - 1), score) for place, score in enumerate(scores)])
        for offset, (label, (colour, marker, scores)) in enumerate(students.items())
    ]
    return page.Section(
        f"Held-out {metric}",
        plot=page.draw_points(
            f"Test {metric} of backbone, S_0 and last student by run",
            0.9 + 0.5 * len(runs),
            series,
            scale=100,
            names=[run.name for run in runs],
            legend=3,
            xlim=(-2, 102),
            xlabel=f"{metric} on the test split, %",
        ),
        note=f"Share of the same held-out instructions {plots.SHARES[runs[0].metric]}; bars are 95 % intervals. The "
        "grey point is the backbone before any training.",
    )


def _plot_task_types(runs: Sequence[RunSummary]) -> page.Section:
    """Test score of each run's last student on each task type."""
    series = [
        (run.name, page.COLOURS[place % len(page.COLOURS)], student.by_task_type() if student else {})
        for place, (run, student) in enumerate(zip(runs, map(last_student, runs), strict=True))
    ]
    metric = formats.metric_name(runs[0].metric)
    return page.Section(
        "By task type",
        plot=page.draw_categories(
            f"Test {metric} of the last students by task type",
            f"{metric} of the last student on the test split, %",
            series,
            legend_columns=2,
        ),
        note="Test split; lines are 95 % intervals. A task type with few instructions says little.",
    )


def _plot_answers(runs: Sequence[RunSummary]) -> page.Section:
    """Answers of teacher and judge: asked for by the run itself, and from the store."""
    series = [
        ("asked for", page.COLOURS[3], [run.usage.calls for run in runs]),
        ("from the store", page.COLOURS[2], [run.usage.stored for run in runs]),
    ]
    return page.Section(
        "Where the answers came from",
        plot=page.draw_stacked(
            "Answers asked for and from the store by run",
            [run.name for run in runs],
            series,
            "answers of teacher and judge",
            legend=2,
        ),
        note="What the store gave was paid before, by another run or by an earlier start of the same one.",
    )


_DIFFERS = {
    **DIFFERS,
    "items": "other questions or another baseline",
    "files": "other tables for length control, or another folder of tasks",
    "versions": "made by another version of tapir",
}
"""``DIFFERS``, and what else must be equal, of a benchmark as it is configured."""

_HELDOUT = "held-out"
"""What stands in the place of a benchmark."""


class _Asked(NamedTuple):
    """A run's last trained student with figures of one benchmark, or of the test split."""

    run: RunFolder
    benchmark: str
    student: str
    """With its run."""
    scores: pl.DataFrame
    scale: dict[str, str]
    """What must be equal for figures to be comparable, by the keys of `_DIFFERS`."""
    max_failed_share: float
    """Above this share of failed items there is no figure."""
    values: dict[str, ItemValues]
    """Metric → item → its value."""


def _benchmarks_of_runs(asked: Iterable[_Asked]) -> list[page.Table]:
    """Each benchmark's figures with the runs' last students as columns: a table for each scale."""
    by_scale = grouped(
        ((each.benchmark, *each.scale.values()), each.scores.with_columns(student=pl.lit(each.student)))
        for each in asked
        if each.benchmark != _HELDOUT
    )
    return [figures_side_by_side(pl.concat(alike)) for alike in by_scale.values()]


def _paired(first: _Asked, other: _Asked) -> list[tuple[str, ...]]:
    """A row for each headline, or one that says why the two cannot be compared."""
    differs = [words for part, words in _DIFFERS.items() if first.scale.get(part) != other.scale.get(part)]
    return paired_rows(
        (other.student, first.student, first.benchmark),
        other.values,
        first.values,
        differs,
        max_failed_share=min(first.max_failed_share, other.max_failed_share),
        unit="instructions" if first.benchmark == _HELDOUT else "judgments",
    )


def _asked(runs: Sequence[RunFolder]) -> dict[str, list[_Asked]]:
    """Held-out set and benchmark → the students that have figures of it, in the order of the runs."""
    found: dict[str, list[_Asked]] = defaultdict(list)
    for reader in map(RunReader, runs):
        for name in (_HELDOUT, *reader.run.config.evaluation.asked):
            of_students = (
                _on_heldout(reader, number) if name == _HELDOUT else _on_benchmark(reader, name, number)
                for number in range(reader.run.config.run.rounds, -1, -1)
            )
            found[name] += islice(filter(None, of_students), 1)
    return {name: asked for name, asked in found.items() if asked}


def _on_heldout(reader: RunReader, number: int) -> _Asked | None:
    scores, config = reader.rows(EVALUATE.at(number)), reader.run.config
    if scores is None:
        return None
    return _Asked(
        reader.run,
        _HELDOUT,
        _name(reader, number),
        scores,
        scale=scores.filter(metric=config.data.metric).select("settings", "judge", "prompt_version").row(0, named=True),
        max_failed_share=max_failed_share(config),
        values={f"test {formats.metric_name(config.data.metric)}": marks_on_test(reader, number)},
    )


def _on_benchmark(reader: RunReader, name: str, number: int) -> _Asked | None:
    """Questions, references and a baseline's answers count by what they say, wherever they come from."""
    run, items, stages = reader.run, BENCHMARK_ITEMS.at(benchmark=name), benchmark_stages(name, number)
    scores = reader.rows(stages[-1])
    if scores is None:
        return None
    fields = (file_ingredient(name, field) for field in ("difficulty", "anchors", "include_path"))
    scale = {
        **{part: scores[part][0] for part in DIFFERS},
        "settings": without_files(scores["settings"][0]),
        "items": text.digest([*map(list, run.rows(items).iter_rows())]),
        "files": " ".join(run.record.ingredients.get(field, "") for field in fields),
        "versions": " ".join(str(each.version) for each in filter(None, map(reader.manifest, (items, *stages)))),
    }
    return _Asked(
        run,
        name,
        _name(reader, number),
        scores,
        scale,
        max_failed_share=run.config.evaluation.asked[name].max_failed_share,
        values=headline_values(reader, name, number),
    )


def _name(reader: RunReader, number: int) -> str:
    return f"{reader.run.ref.name} {formats.student_name(number)}"
