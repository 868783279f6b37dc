"""Several runs of a root beside each other: what differs in what they are, ask and score; with pictures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tapir_core.errors import ConfigError
from tapir_core.reporting.figure import COLOURS, GREY, INK, draw
from tapir_core.reporting.paired_runs import benchmarks_of_runs, paired_runs_table
from tapir_core.reporting.plots import interval_bars
from tapir_core.reporting.sentences import accuracy_note
from tapir_core.reporting.tables import Table
from tapir_core.run_folder import RunFolder
from tapir_core.stages import StageAt, lines
from tapir_core.summary import summarise
from tapir_core.summary.formats import NOTHING, count, duration, gain, most, number, percent, score, student_name
from tapir_core.summary.run_reader import Look
from tapir_core.summary.types import RoundSummary, RunSummary, Score, Usage
from tapir_core.task_types import TASK_TYPES

__all__ = [
    "SideBySide",
    "last_student",
    "plot_answers",
    "plot_students",
    "plot_task_types",
    "put_side_by_side",
    "reused_share",
    "side_by_side_tables",
]

_ROLES = ("teacher", "judge")


@dataclass(frozen=True, slots=True)
class SideBySide:
    """Runs that were measured on the same held-out set, in the order in which they were named."""

    runs: tuple[RunSummary, ...]
    benchmarks: tuple[Table, ...]
    """Figures of their last students, a table for each benchmark and judge."""
    paired: Table
    """The last student of every run against that of the first one, item by item."""


def put_side_by_side(runs: Sequence[RunFolder]) -> SideBySide:
    """Put runs side by side, finished or not.

    Raises:
        ConfigError: there is no such run, or two runs have different held-out sets; says in what they differ.
    """
    sets = [run.holds(StageAt("heldout")) if run.config.data.heldout else None for run in runs]
    digests = [each.digest if each is not None else "" for each in sets]
    for run, digest in zip(runs, digests, strict=True):
        if digest != digests[0]:
            raise ConfigError(
                f"run {run.ref.name!r} cannot stand beside {runs[0].ref.name!r}, their held-out sets are not the same: "
                f"{_difference(runs[0], run)}; take runs of one curriculum"
            )
    summaries, looks = tuple(map(summarise, runs)), [Look(run) for run in runs]
    last = [None if (student := last_student(each)) is None else student.number for each in summaries]
    return SideBySide(summaries, tuple(benchmarks_of_runs(looks)), paired_runs_table(looks, last))


def side_by_side_tables(shown: SideBySide) -> dict[str, Table]:
    """`overview`, `task_types` and `answers`, each with a column for each run."""
    make = {"overview": _overview_table, "task_types": _task_types_table, "answers": _answers_table}
    return {name: table(shown.runs) for name, table in make.items()}


def last_student(summary: RunSummary) -> RoundSummary | None:
    """The last student that was evaluated; nothing while only the backbone was."""
    trained = [each for each in summary.students if each.number >= 0]
    return trained[-1] if trained else None


def reused_share(usage: Usage) -> float | None:
    """Share of the answers that the store gave; nothing when none was needed."""
    answers = usage.calls + usage.stored
    return usage.stored / answers if answers else None


def _overview_table(runs: Sequence[RunSummary]) -> Table:
    rows = tuple((label, *map(cell, runs)) for label, cell in _ROWS.items())
    note = (
        f"{accuracy_note(map(_last_score, runs))} The gain is paired, with its 95 % interval. Answers are those of "
        "teacher and judge. USD is the price of all of them: what came from the store was paid by the run that asked "
        "first."
    ).strip()
    return Table("Side by side", ("", *(each.name for each in runs)), rows, note=note)


def _task_types_table(runs: Sequence[RunSummary], split: str = "test") -> Table:
    """The last student of each run by task type."""
    students = [last_student(each) for each in runs]
    rows = []
    for name in ("all", *TASK_TYPES):
        scores = [None if each is None else each.score(split, name) for each in students]
        if any(scores):
            rows.append((name, *map(score, scores), most(scores)))
    columns = ("Task type", *(each.name for each in runs), "n")
    note = f"Last student of each run on the {split} split; n counts what failed, too. "
    note += accuracy_note(map(_last_score, runs))
    return Table("Accuracy by task type", columns, tuple(rows), note=note)


def _answers_table(runs: Sequence[RunSummary]) -> Table:
    """Where the answers came from, by stage and by role."""
    rows = [(name, *(_answers(_usage(each, name)) for each in runs)) for name in lines()]
    rows = [row for row in rows if any(cell != NOTHING for cell in row[1:])]
    rows += [(f"all of the {role}", *(_answers(_usage(each, role)) for each in runs)) for role in _ROLES]
    note = "Asked for + from the store, and the store's share."
    return Table("Where the answers came from", ("Stage", *(each.name for each in runs)), tuple(rows), note=note)


def _usage(summary: RunSummary, name: str) -> Usage:
    """What a stage, or a role in all its stages, was asked in the whole run."""
    asked = [stage for stage in summary.all_stages if stage.asks in _ROLES and name in (stage.name, stage.asks)]
    return sum((stage.usage for stage in asked), Usage())


def _answers(usage: Usage) -> str:
    share = reused_share(usage)
    return NOTHING if share is None else f"{count(usage.calls)} + {count(usage.stored)} ({percent(share)})"


def _difference(first: RunFolder, other: RunFolder) -> str:
    here, there = _heldout_fields(first), _heldout_fields(other)
    changed = [name for name in {**here, **there} if here.get(name) != there.get(name)]
    said = [f"{name} is {here.get(name)!r} in the one and {there.get(name)!r} in the other" for name in changed]
    return ", ".join(said) or "the same settings, but other rows (another file, or not drawn yet)"


def _heldout_fields(run: RunFolder) -> dict[str, object]:
    heldout = run.config.data.heldout
    fields = {} if heldout is None else heldout.model_dump()
    return {"run.seed": run.config.run.seed, **{f"data.heldout.{name}": value for name, value in fields.items()}}


def _accuracy(place: Callable[[RunSummary], RoundSummary | None]) -> Callable[[RunSummary], str]:
    def cell(summary: RunSummary) -> str:
        found = place(summary)
        return NOTHING if found is None else score(found.score("test"))

    return cell


def _last_score(summary: RunSummary) -> Score | None:
    last = last_student(summary)
    return None if last is None else last.score("test")


def _last_name(summary: RunSummary) -> str:
    last = last_student(summary)
    return NOTHING if last is None else student_name(last.number)


_ROWS: dict[str, Callable[[RunSummary], str]] = {
    "Backbone": lambda run: run.backbone,
    "State": lambda run: "done" if run.done else f"next: {run.next_stage}",
    "Last student": _last_name,
    "Test accuracy, backbone": _accuracy(lambda run: run.round(-1)),
    "Test accuracy, S_0": _accuracy(lambda run: run.round(0)),
    "Test accuracy, last student": _accuracy(last_student),
    "Test instructions": lambda run: most([_last_score(run)]),
    "Gain over S_0, points": lambda run: NOTHING if run.gain is None else gain(run.gain),
    "Answers asked for": lambda run: count(run.usage.calls),
    "Answers from the store": lambda run: count(run.usage.stored),
    "Share from the store": lambda run: percent(reused_share(run.usage)),
    "USD": lambda run: number(run.usage.usd),
    "Time at work": lambda run: duration(run.busy_seconds),
}


_STUDENTS = (("backbone", GREY, "o"), ("S_0", COLOURS[1], "s"), ("last student", COLOURS[0], "D"))


def plot_students(runs: Sequence[RunSummary]) -> str:
    """Test accuracy of backbone, S_0 and last student of each run, with 95 % intervals."""

    def fill(figure: Any) -> None:
        axes = figure.subplots()
        for offset, (label, colour, marker) in enumerate(_STUDENTS):
            students = [(run.round(-1), run.round(0), last_student(run))[offset] for run in runs]
            scores = [None if each is None else each.score("test") for each in students]
            found = [
                (place, score) for place, score in enumerate(scores) if score is not None and score.value is not None
            ]
            values, errors = interval_bars([score for _, score in found])
            axes.errorbar(
                values,
                [place + 0.16 * (offset - 1) for place, _ in found],
                xerr=errors,
                color=colour,
                marker=marker,
                markersize=5,
                capsize=3,
                linestyle="none",
                label=label,
            )
        _name_rows(axes, [run.name for run in runs])
        axes.set_xlim(-2, 102)
        axes.set_xlabel("accuracy on the test split, %")
        figure.legend(loc="outside upper center", ncols=3)

    return draw("Test accuracy of backbone, S_0 and last student by run", 0.9 + 0.5 * len(runs), fill)


def plot_task_types(runs: Sequence[RunSummary]) -> str:
    """Test accuracy of each run's last student on each task type, as bars with 95 % intervals."""
    students = [last_student(run) for run in runs]
    names = [name for name in TASK_TYPES if any(each is not None and each.score("test", name) for each in students)]
    thickness = 0.8 / len(runs)

    def fill(figure: Any) -> None:
        axes = figure.subplots()
        for offset, (run, student) in enumerate(zip(runs, students, strict=True)):
            values, errors = interval_bars([None if student is None else student.score("test", name) for name in names])
            axes.barh(
                [place + thickness * (offset - (len(runs) - 1) / 2) for place in range(len(names))],
                values,
                thickness * 0.92,
                xerr=errors,
                color=COLOURS[offset % len(COLOURS)],
                label=run.name,
                error_kw={"elinewidth": 0.8, "capsize": 1.5, "ecolor": INK, "alpha": 0.8},
            )
        _name_rows(axes, names)
        axes.set_xlim(0, 100)
        axes.set_xlabel("accuracy of the last student on the test split, %")
        figure.legend(loc="outside upper center", ncols=2)

    height = 0.9 + (0.14 + 0.11 * len(runs)) * len(names)
    return draw("Test accuracy of the last students by task type", height, fill)


def plot_answers(runs: Sequence[RunSummary]) -> str:
    """Answers of teacher and judge: asked for by the run itself, and from the store."""

    def fill(figure: Any) -> None:
        axes = figure.subplots()
        asked, stored = [run.usage.calls for run in runs], [run.usage.stored for run in runs]
        axes.barh(range(len(runs)), asked, 0.62, color=COLOURS[3], label="asked for")
        axes.barh(range(len(runs)), stored, 0.62, left=asked, color=COLOURS[2], label="from the store")
        _name_rows(axes, [run.name for run in runs])
        axes.set_xlabel("answers of teacher and judge")
        figure.legend(loc="outside upper center", ncols=2)

    return draw("Answers asked for and from the store by run", 0.9 + 0.35 * len(runs), fill)


def _name_rows(axes: Any, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
