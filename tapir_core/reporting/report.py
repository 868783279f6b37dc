"""The whole run: `report.html`, a page that needs nothing else, and the run card, the same in Markdown without plots.

Both are made from the run folder alone, so they can be made again at any time, of an unfinished run too.
"""

from collections.abc import Mapping
from dataclasses import replace

from tapir_core.config.load import resolved_json
from tapir_core.paths import REPORT
from tapir_core.randomness import derive_rng
from tapir_core.reporting.benchmarks import (
    NO_GAINS,
    benchmark_gains_table,
    benchmark_names,
    benchmark_tables,
    figures_tables,
)
from tapir_core.reporting.estimate_table import kept_comparison
from tapir_core.reporting.page import Section, markdown_text, render_page, table_section
from tapir_core.reporting.plots import (
    benchmark_plots,
    plot_accuracy,
    plot_accuracy_by_task_type,
    plot_mfd,
    plot_order_gap,
    plot_shares,
    plot_time,
)
from tapir_core.reporting.sentences import (
    gain_sentence,
    report_path,
    report_sentence,
    standin_sentence,
    state_sentence,
    ui_sentence,
)
from tapir_core.reporting.tables import (
    Table,
    accuracy_table,
    contaminated_table,
    decontamination_table,
    left_out_table,
    rounds_table,
    seconds_table,
    shares_table,
    spend_table,
)
from tapir_core.run_folder import RunFolder
from tapir_core.summary import summarise
from tapir_core.summary.formats import first_two_and_last, moment, student_name
from tapir_core.summary.grading import Examples, choose_examples
from tapir_core.summary.run_reader import Look
from tapir_core.summary.types import RunSummary


_EXAMPLES = 10


def write_report(run: RunFolder) -> str:
    """Write `report.html` into the run folder and say where it is."""
    summary = summarise(run)
    shown = first_two_and_last([each.number for each in summary.students])
    rng = derive_rng(run.config.run.seed, "report", "examples")
    examples = choose_examples(Look(run), shown, _EXAMPLES, rng) if shown else None
    asked = [each.number for each in summary.rounds if each.benchmarks is not None]
    gains = benchmark_gains_table(Look(run), asked, summary.best)
    page = render_report(summary, examples, resolved_json(run.config), kept_comparison(run, summary), gains)
    run.storage.write_bytes(REPORT, page.encode())
    return report_path(summary)


def render_report(
    summary: RunSummary,
    examples: Examples | None,
    config: str,
    estimate: Table | None = None,
    gains: Table = NO_GAINS,
) -> str:
    """The page.

    ``config`` is the resolved configuration as text, ``estimate`` what was expected beside what came, ``gains`` what
    students gained over each other on benchmarks.

    Everything that is text is escaped.
    """
    return render_page(
        "report.html.jinja2",
        [*_sections_of_students(summary, gains), *_sections_of_rounds(summary, estimate)],
        summary=summary,
        examples=examples,
        config=config,
    )


def run_card(summary: RunSummary, pages: Mapping[str, Mapping[str, str]] | None = None) -> str:
    """What the run is, its state, its rounds, and where to read more.

    Args:
        summary: The run.
        pages: Where more of it is shown, where this card is: the run or a round, then title, then address. Without it
            the card says how to get there.
    """
    what = (
        f"{summary.backbone} taught by {summary.teacher}, judged by {summary.judge}; created {moment(summary.created)}."
    )
    said = [what, state_sentence(summary), gain_sentence(summary), standin_sentence(summary)]
    tables = [rounds_table, accuracy_table, left_out_table, seconds_table, spend_table]
    benchmarks = benchmark_tables(summary, summary.compared, benchmark_names(summary))
    made = [*(make(summary) for make in tables), *benchmarks, decontamination_table(summary.decontamination)]
    links = [report_sentence(summary), ui_sentence(summary) if pages is None else _links(pages)]
    parts = [f"# {summary.name}", *map(markdown_text, said), *map(table_section, filter(None, made)), *links]
    return "\n\n".join(filter(None, parts)) + "\n"


def _sections_of_students(summary: RunSummary, gains: Table) -> list[Section]:
    figures = [
        Section(f"{table.title}, with intervals", [table])
        for who in summary.compared
        for table in figures_tables(student_name(who), summary.benchmarks(who))
    ]
    tables = benchmark_tables(summary, summary.compared, benchmark_names(summary))
    curve, bars = plot_accuracy(summary.students), plot_accuracy_by_task_type(summary.students)
    return [
        Section("Held-out accuracy", [curve, bars, Section("The same as a table", [accuracy_table(summary)])]),
        Section("Benchmarks", [*benchmark_plots(summary), *tables, gains, *figures]),
    ]


def _sections_of_rounds(summary: RunSummary, estimate: Table | None) -> list[Section]:
    shares = [Section(f"{table.title} as a table", [table]) for table in map(shares_table, summary.mixed_rounds)]
    found, left_out = summary.decontamination, left_out_table(summary)
    dropped, listed = decontamination_table(found), contaminated_table(found)
    calls = replace(spend_table(summary), title="Calls to teacher and judge") if summary.all_stages else None
    why = "Nothing of this is in a training set; a rejected refined answer leaves its plain answer in place."
    return [
        Section("Rounds", [rounds_table(summary)]),
        Section("How hard the pool is", [plot_mfd(summary.rounds), plot_order_gap(summary.rounds)]),
        Section("Task shares", [plot_shares(summary.mixed_rounds), *shares]),
        Section(left_out.title, [left_out], why),
        Section(dropped.title, [dropped, Section(listed.title, [listed])]),
        Section("Time and spend", [plot_time(summary), seconds_table(summary), calls, estimate]),
    ]


def _links(pages: Mapping[str, Mapping[str, str]]) -> str:
    lines = (
        f"- {place}: " + " · ".join(f"[{title}]({address})" for title, address in of_place.items())
        for place, of_place in pages.items()
    )
    return "\n".join(lines)
