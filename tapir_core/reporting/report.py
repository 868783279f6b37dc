"""`report.html`: the whole run on one page that needs nothing else, no script and no network.

The page is made from the run folder alone, so it can be made again at any time, of an unfinished run too.
"""

import polars as pl
from markupsafe import Markup

from tapir_core.config.load import resolved_json
from tapir_core.evaluation.statistics import ALL
from tapir_core.paths import REPORT
from tapir_core.randomness import derive_rng
from tapir_core.reporting import plots
from tapir_core.reporting.benchmark_gains import NO_GAINS, benchmark_gains_table
from tapir_core.reporting.benchmark_plots import choose_spokes, plot_benchmark_categories, plot_benchmarks
from tapir_core.reporting.benchmarks import (
    benchmark_names,
    benchmark_tables,
    beside_in_words,
    figures_tables,
    headline_panels,
)
from tapir_core.reporting.decontamination import contaminated_table, decontamination_table
from tapir_core.reporting.estimate_table import kept_comparison
from tapir_core.reporting.page import Fact, Plot, render_page
from tapir_core.reporting.sentences import gain_sentence, report_path, standin_sentence, state_sentence, ui_sentence
from tapir_core.reporting.tables import (
    Table,
    accuracy_table,
    left_out_table,
    rounds_table,
    seconds_table,
    shares_table,
    spend_table,
)
from tapir_core.run_folder import RunFolder
from tapir_core.summary import summarise
from tapir_core.summary.formats import (
    count,
    duration,
    first_two_and_last,
    interval,
    items_in_words,
    moment,
    number,
    percent,
    round_name,
    student_name,
)
from tapir_core.summary.grading import Examples, choose_examples
from tapir_core.summary.run_reader import Look
from tapir_core.summary.types import RunSummary, Score

__all__ = ["render_report", "score_plots", "write_report"]

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
    found = _plots(summary)
    shares = [shares_table(each) for each in summary.rounds if each.mixture is not None and each.number > 0]
    return render_page(
        "report.html.jinja2",
        summary=summary,
        sentences={
            "state": state_sentence(summary),
            "gain": gain_sentence(summary),
            "standin": standin_sentence(summary),
            "ui": ui_sentence(summary),
        },
        facts=_facts(summary),
        plots=found,
        tables={
            "rounds": rounds_table(summary),
            "benchmarks": benchmark_tables(summary, summary.compared, benchmark_names(summary)),
            "gains": gains,
            "figures": [
                table
                for who in summary.compared
                for table in figures_tables(student_name(who), summary.benchmarks(who))
            ],
            "accuracy": accuracy_table(summary),
            "left_out": left_out_table(summary),
            "decontamination": decontamination_table(summary.decontamination),
            "contaminated": contaminated_table(summary.decontamination),
            "seconds": seconds_table(summary),
            "spend": spend_table(summary),
            "estimate": estimate,
            "shares": shares,
        },
        examples=examples,
        config=config,
        student_name=student_name,
        moment=moment,
    )


def _facts(summary: RunSummary) -> list[Fact]:
    """The few figures at the top of the page."""
    scores = [(f"Test accuracy, {student_name(each.number)}", each.score("test")) for each in summary.students]
    usage = summary.usage
    return [
        *(_accuracy(label, score) for label, score in first_two_and_last(scores) if score is not None),
        Fact("Time at work", duration(summary.busy_seconds)),
        Fact("Answers of teacher and judge", count(usage.calls + usage.stored)),
        Fact("Price of these answers", f"{number(usage.usd)} USD"),
    ]


def _accuracy(label: str, score: Score) -> Fact:
    if score.value is None:
        return Fact(label, "no figure", score.note)
    return Fact(label, percent(score.value), f"{interval(score)}, {items_in_words(score)}")


def score_plots(summary: RunSummary) -> dict[str, Plot]:
    """The plots of held-out accuracy and of benchmarks, as far as somebody was asked."""
    found: dict[str, Plot] = {}

    def add(name: str, title: str, svg: str, caption: str) -> None:
        found[name] = Plot(title, Markup(svg), caption)

    if summary.students:
        caption = (
            "Share of held-out instructions with the right final result. Bars are 95 % intervals. The test split "
            "is read by no decision; the dev split is, so its curve may flatter the best round."
        )
        add("accuracy", "Accuracy by round", plots.plot_accuracy(summary.students), caption)
        categories = plots.plot_accuracy_by_task_type(summary.students)
        add("task_types", "Accuracy by task type", categories, "Test split; lines are 95 % intervals.")
    panels = headline_panels(summary)
    radars = [(label, choose_spokes(rows)) for label, rows in panels]
    if panels:
        wholes = [(label, rows.filter(category=ALL)) for label, rows in panels]
        undrawn = [(label, spokes.in_words) for label, spokes in radars if spokes.left_out and not spokes.drawn]
        said = " ".join(f"{label}, is not drawn by category. {why}" for label, why in undrawn)
        beside = beside_in_words(pl.concat([rows for _, rows in panels]))
        told = ("Lines are 95 % intervals over questions. No decision reads these figures.", said, beside)
        add("benchmarks", "Benchmarks", plot_benchmarks(wholes), " ".join(filter(None, told)))
    for place, ((label, spokes), (_, rows)) in enumerate(zip(radars, panels, strict=True)):
        if radar := plot_benchmark_categories(label, spokes):
            told = (f"{label}, by category; the further out, the better.", spokes.in_words, beside_in_words(rows))
            add(f"radar_{place}", label, radar, " ".join(filter(None, told)))
    return found


def _plots(summary: RunSummary) -> dict[str, Plot]:
    """The plots for which there is something to show."""
    found = score_plots(summary)

    def add(name: str, title: str, svg: str, caption: str) -> None:
        found[name] = Plot(title, Markup(svg), caption)

    judged = [each for each in summary.rounds if each.difficulty is not None]
    if judged:
        means = ", ".join(f"{round_name(each.number)} {_mean(each.difficulty)}" for each in judged)
        caption = f"Blue: the seeds. Mean MFD: {means}."
        add("mfd", "How hard the pool is", plots.plot_mfd(judged), caption)
    mixed = [each for each in summary.rounds if each.mixture is not None and each.number > 0]
    if mixed:
        caption = "Natural: the pool as it came. Target: the configured shares. Got: the mixture of a round."
        add("shares", "Task shares", plots.plot_shares(mixed), caption)
    ordered = [each for each in judged if each.order_gap is not None]
    if ordered:
        caption = (
            "How much harder an instruction looks when the teacher's answer is shown first. A judge without position "
            f"bias centres on 0; beyond ±2 points lie {_beyond(ordered[-1].difficulty)} in the last round."
        )
        add("order_gap", "What the order of the answers does", plots.plot_order_gap(ordered), caption)
    parts = [("once", summary.stages), *((round_name(each.number), each.stages) for each in summary.rounds)]
    timed = [(name, stages) for name, stages in parts if stages]
    if timed:
        caption = "Answer and judge overlap, so do label and teach: bars can be longer than the clock showed."
        add("time", "Time by stage", plots.plot_time(timed), caption)
    return found


def _mean(difficulty: pl.DataFrame | None) -> str:
    values = [] if difficulty is None else difficulty["mfd"].to_list()
    return number(sum(values) / len(values) if values else None)


def _beyond(difficulty: pl.DataFrame | None) -> str:
    gaps = [] if difficulty is None else difficulty["order_gap"].drop_nulls().to_list()
    return percent(sum(abs(gap) > 2 for gap in gaps) / len(gaps) if gaps else None)
