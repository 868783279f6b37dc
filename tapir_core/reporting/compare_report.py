"""The comparison of runs on one page that needs nothing else, made from the run folders alone."""

from collections.abc import Sequence

from markupsafe import Markup

from tapir_core.paths import sweep_report_file
from tapir_core.reporting import compare_plots as plots
from tapir_core.reporting.compare import Comparison, compare_runs, comparison_tables, last_student
from tapir_core.reporting.page import Plot, render_page
from tapir_core.reporting.run_card import markdown_table
from tapir_core.reporting.sentences import standin_sentence
from tapir_core.run_folder import RunRef
from tapir_core.storage import Storage
from tapir_core.sweep import Swept, finished_runs

__all__ = ["comparison_card", "render_comparison", "write_comparison", "write_sweep_report"]


def write_comparison(comparison: Comparison, root: str, file: str) -> str:
    """Write the page below the root and say where it is."""
    Storage(root).write_bytes(file, render_comparison(comparison).encode())
    return f"{root}/{file}"


def write_sweep_report(curriculum: RunRef, swept: Sequence[Swept]) -> tuple[Comparison, str] | None:
    """Compare the finished runs of a sweep, write the page and say where it is; nothing when none is finished."""
    runs = finished_runs(swept)
    if not runs:
        return None
    comparison = compare_runs(runs)
    return comparison, write_comparison(comparison, curriculum.root, sweep_report_file(curriculum.name))


def comparison_card(comparison: Comparison, report: str) -> str:
    """The tables in Markdown, for an artifact."""
    tables = [table for table in comparison_tables(comparison).values() if table.rows]
    parts = [f"## {table.title}\n\n{markdown_table(table)}\n\n{table.note}" for table in tables]
    return "\n\n".join(["# Backbones side by side", *parts, f"Page with plots: `{report}`"]) + "\n"


def render_comparison(comparison: Comparison) -> str:
    """The page. Everything that is text is escaped."""
    runs = comparison.runs
    said = dict.fromkeys(filter(None, map(standin_sentence, runs)))
    return render_page(
        "comparison.html.jinja2",
        runs=runs,
        warnings=list(said),
        plots=_plots(comparison),
        tables=comparison_tables(comparison),
    )


def _plots(comparison: Comparison) -> dict[str, Plot]:
    """The plots for which there is something to show."""
    runs, shown = comparison.runs, {}
    if any(each.students for each in runs):
        caption = (
            "Share of the same held-out instructions with the right final result; bars are standard errors. The grey "
            "point is the backbone before any training."
        )
        shown["students"] = Plot("Accuracy", Markup(plots.plot_students(runs)), caption)
    if any(last_student(each) for each in runs):
        caption = "Test split; lines are standard errors. A task type with few instructions says little."
        shown["task_types"] = Plot("By task type", Markup(plots.plot_task_types(runs)), caption)
    caption = "What the store gave was paid before, by another run or by an earlier start of the same one."
    shown["answers"] = Plot("Answers", Markup(plots.plot_answers(runs)), caption)
    return shown
