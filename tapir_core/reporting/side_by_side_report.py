"""Runs side by side on one page that needs nothing else, made from the run folders alone."""

from collections.abc import Sequence

from markupsafe import Markup

from tapir_core.paths import sweep_report_file
from tapir_core.reporting import side_by_side as plots
from tapir_core.reporting.page import Plot, render_page
from tapir_core.reporting.run_card import table_section
from tapir_core.reporting.sentences import standin_sentence
from tapir_core.reporting.side_by_side import SideBySide, last_student, put_side_by_side, side_by_side_tables
from tapir_core.run_folder import RunRef
from tapir_core.storage import Storage
from tapir_core.sweep import Swept, finished_runs

__all__ = ["render_side_by_side", "side_by_side_card", "write_side_by_side", "write_sweep_report"]


def write_side_by_side(shown: SideBySide, root: str, file: str) -> str:
    """Write the page below the root and say where it is."""
    Storage(root).write_bytes(file, render_side_by_side(shown).encode())
    return f"{root}/{file}"


def write_sweep_report(curriculum: RunRef, swept: Sequence[Swept]) -> tuple[SideBySide, str] | None:
    """Compare the finished runs of a sweep, write the page and say where it is; nothing when none is finished."""
    runs = finished_runs(swept)
    if not runs:
        return None
    shown = put_side_by_side(runs)
    return shown, write_side_by_side(shown, curriculum.root, sweep_report_file(curriculum.name))


def side_by_side_card(shown: SideBySide, report: str) -> str:
    """The tables in Markdown, for an artifact."""
    tables = [*side_by_side_tables(shown).values(), *shown.benchmarks, shown.paired]
    parts = [table_section(table) for table in tables if table.rows]
    return "\n\n".join(["# Backbones side by side", *parts, f"Page with plots: `{report}`"]) + "\n"


def render_side_by_side(shown: SideBySide) -> str:
    """The page. Everything that is text is escaped."""
    runs = shown.runs
    said = dict.fromkeys(filter(None, map(standin_sentence, runs)))
    return render_page(
        "side_by_side.html.jinja2",
        runs=runs,
        warnings=list(said),
        plots=_plots(shown),
        tables=side_by_side_tables(shown),
        benchmarks=shown.benchmarks,
        paired=shown.paired,
    )


def _plots(shown: SideBySide) -> dict[str, Plot]:
    """The plots for which there is something to show."""
    runs, found = shown.runs, {}
    if any(each.students for each in runs):
        caption = (
            "Share of the same held-out instructions with the right final result; bars are 95 % intervals. The grey "
            "point is the backbone before any training."
        )
        found["students"] = Plot("Accuracy", Markup(plots.plot_students(runs)), caption)
    if any(last_student(each) for each in runs):
        caption = "Test split; lines are 95 % intervals. A task type with few instructions says little."
        found["task_types"] = Plot("By task type", Markup(plots.plot_task_types(runs)), caption)
    caption = "What the store gave was paid before, by another run or by an earlier start of the same one."
    found["answers"] = Plot("Answers", Markup(plots.plot_answers(runs)), caption)
    return found
