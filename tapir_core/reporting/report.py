"""What is told of a whole run: `report.html`, a page that needs nothing else, and the run card, the same in Markdown
without plots; of one student the model card.

All are made from the run folder alone, so they can be made again at any time, of an unfinished run too. Names of files
and folders of the machine that made it stay out of a model card; digests stand in their place.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import polars as pl

from tapir_core.config import EMBEDDED_STUDENT, StudentConfig
from tapir_core.config.load import resolved_json
from tapir_core.data.decontamination import FEWEST_WORDS
from tapir_core.evaluation.scores import SCORES
from tapir_core.paths import REPORT, RESOLVED_CONFIG, training_file
from tapir_core.randomness import derive_rng
from tapir_core.reporting.benchmarks import (
    benchmark_gains_table,
    benchmark_names,
    benchmark_tables,
    figures_tables,
)
from tapir_core.reporting.estimate_table import kept_comparison
from tapir_core.reporting.page import (
    Section,
    Table,
    caution_sentence,
    gain_sentence,
    markdown_table,
    markdown_text,
    render,
    render_page,
    report_path,
    report_sentence,
    state_sentence,
    table_of,
    table_section,
    ui_sentence,
)
from tapir_core.reporting.plots import (
    benchmark_plots,
    plot_accuracy,
    plot_accuracy_by_task_type,
    plot_mfd,
    plot_order_gap,
    plot_shares,
    plot_time,
)
from tapir_core.reporting.tables import (
    accuracy_table,
    contaminated_table,
    decontamination_table,
    left_out_table,
    rounds_table,
    seconds_table,
    settled_table,
    shares_table,
    spend_table,
)
from tapir_core.run_folder import RunFolder
from tapir_core.stages import StageAt
from tapir_core.summary import Examples, choose_examples, summarise
from tapir_core.summary.formats import (
    NOTHING,
    count,
    first_two_and_last,
    moment,
    number,
    percent,
    round_name,
    student_name,
)
from tapir_core.summary.run_reader import Look
from tapir_core.summary.types import MixtureSummary, RunSummary
from tapir_core.task_types import TASK_TYPES

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
    gains: Table | None = None,
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
    said = [what, state_sentence(summary), gain_sentence(summary), caution_sentence(summary)]
    tables = [rounds_table, accuracy_table, left_out_table, settled_table, seconds_table, spend_table]
    benchmarks = benchmark_tables(summary, summary.compared, benchmark_names(summary))
    made = [*(make(summary) for make in tables), *benchmarks, decontamination_table(summary.decontamination)]
    links = [report_sentence(summary), ui_sentence(summary) if pages is None else _links(pages)]
    parts = [f"# {summary.name}", *map(markdown_text, said), *map(table_section, filter(None, made)), *links]
    return "\n\n".join(filter(None, parts)) + "\n"


def _sections_of_students(summary: RunSummary, gains: Table | None) -> list[Section]:
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
    settled = settled_table(summary)
    calls = replace(spend_table(summary), title="Calls to teacher and judge") if summary.all_stages else None
    return [
        Section("Rounds", [rounds_table(summary)]),
        Section("How hard the pool is", [plot_mfd(summary.rounds), plot_order_gap(summary.rounds)]),
        Section("Task shares", [plot_shares(summary.mixed_rounds), *shares]),
        Section(
            left_out.title,
            [left_out],
            "Nothing of this is in a training set; a rejected refined answer leaves its plain answer in place.",
        ),
        Section(dropped.title, [dropped, Section(listed.title, [listed])]),
        Section(settled.title, [settled]),
        Section("Time and spend", [plot_time(summary), seconds_table(summary), calls, estimate]),
    ]


def _links(pages: Mapping[str, Mapping[str, str]]) -> str:
    return "\n".join(
        f"- {place}: " + " · ".join(f"[{title}]({address})" for title, address in of_place.items())
        for place, of_place in pages.items()
    )


def model_card(run: RunFolder, round_number: int, use: str) -> str:
    """The card of the student after round ``round_number``; ``use`` says in Markdown how engines load it."""
    summary, config = summarise(run), run.config
    known = [each for each in summary.rounds if each.number <= round_number]
    mixed = {round_name(each.number): each.mixture for each in known if each.mixture is not None}
    refined = {round_name(each.number): each.refinement.accepted for each in known if each.refinement is not None}
    student = config.student
    return (
        render(
            "model_card.md.jinja2",
            table=markdown_table,
            text=markdown_text,
            summary=summary,
            config=config,
            number=round_number,
            use=use,
            base_model=student.backbone if _is_hub_id(student.backbone) else None,
            backbone=backbone_name(student),
            judged=any(map(config.judges, range(1, round_number + 1))),
            mixtures=_mixtures(mixed, refined),
            shares=_shares(mixed) if mixed else None,
            scores=_scores(run, round_number),
            benchmarks=figures_tables(student_name(round_number), summary.benchmarks(round_number)),
            dropped=decontamination_table(summary.decontamination),
            fewest_words=FEWEST_WORDS,
            provenance=Table("", ("", "Value"), tuple(_provenance(run, round_number)), text_columns=2),
        )
        + "\n"
    )


def _mixtures(mixed: Mapping[str, MixtureSummary], refined: Mapping[str, int]) -> Table:
    """How many examples of each origin the rounds have, and how many of them are refined."""
    rows = tuple(
        (name, count(of.rows), *(count(of.origins.get(origin)) for origin in _ORIGINS), count(refined.get(name)))
        for name, of in mixed.items()
    )
    return Table("", ("Round", "Examples", *_ORIGINS.values(), "Refined"), rows)


def _shares(mixed: Mapping[str, MixtureSummary]) -> Table:
    """Task shares of pool and target, as the last round has them, and of each round's mixture."""
    tables = [of.shares for of in mixed.values()]
    rows = zip(TASK_TYPES, tables[-1]["natural"], tables[-1]["target"], *(of["got"] for of in tables), strict=True)
    shown = tuple((name, *map(percent, row)) for name, *row in rows if any(row))
    return Table("", ("Task type", "Pool", "Target", *mixed), shown)


def _scores(run: RunFolder, round_number: int) -> Table:
    """Every score of this student, whole splits first."""
    at = StageAt("evaluate", round_number)
    found = run.rows(at) if run.holds(at) else pl.DataFrame(schema=SCORES)
    in_order = found.sort(pl.col("category") != "all", "benchmark", "split", "metric", maintain_order=True)
    return table_of(
        "",
        _SCORES,
        in_order.to_dicts(),
        text_columns=4,
        note=f"Judged by {found['judge'][0]}; {found['settings'][0]}." if found.height else "",
    )


def _provenance(run: RunFolder, round_number: int) -> Iterator[tuple[str, str]]:
    config, ingredients, at = run.config, run.record.ingredients, StageAt("train", round_number)
    checkpoint = run.manifest(at)
    yield "Run", f"{run.ref.name} ({run.record.id}), created {moment(run.record.created)}"
    yield "Checkpoint, digest", checkpoint.digest if checkpoint else NOTHING
    yield "config.resolved.json, SHA-256", run.storage.sha256(RESOLVED_CONFIG)
    yield "Backbone", backbone_name(config.student)
    yield "Backbone, digest", ingredients.get("backbone", NOTHING)
    if "file:pool" in ingredients:
        yield "Pool file, SHA-256", ingredients["file:pool"]
    yield "Seed", str(config.run.seed)
    # What the trainer wrote may have been removed, since no stage needs it.
    if run.storage.exists(training_file(at.folder)):
        training = json.loads(run.storage.read_bytes(training_file(at.folder)))
        yield (
            "Tokens of the last fine-tune",
            f"{count(training['total_tokens'])}, of answers {count(training['trained_tokens'])}",
        )
        yield "Precision", str(training["precision"])
        versions = {"tapir-distill": _own_version(), **training["versions"]}
        yield "Libraries", ", ".join(f"{name} {version}" for name, version in versions.items())


def _own_version() -> str:
    try:
        return metadata.version("tapir-distill")
    except metadata.PackageNotFoundError:  # works from its sources
        return NOTHING


def backbone_name(student: StudentConfig) -> str:
    """The backbone's name; of a folder only its own."""
    backbone, revision = student.backbone, student.revision
    if _is_hub_id(backbone):
        return f"{backbone}, revision {revision}" if revision else backbone
    return backbone.partition(":")[2] if backbone == EMBEDDED_STUDENT else Path(backbone).name


def _is_hub_id(backbone: str) -> bool:
    return backbone.count("/") == 1 and not backbone.startswith((".", "/", "~")) and not Path(backbone).exists()


_SCORES: tuple[tuple[str, Callable[[dict[str, Any]], str]], ...] = (
    ("Benchmark", lambda row: row["benchmark"]),
    ("Split", lambda row: row["split"]),
    ("Category", lambda row: row["category"]),
    ("Metric", lambda row: row["metric"]),
    ("Value", lambda row: f"no figure: {row['note']}" if row["value"] is None else number(row["value"], 3)),
    ("95 % interval", lambda row: NOTHING if row["low"] is None else f"{row['low']:.3f} to {row['high']:.3f}"),
    ("n", lambda row: count(row["n"])),
    ("Failed", lambda row: count(row["n_failed"])),
)
_ORIGINS = {"pool": "Pool", "seed": "Seeds", "expansion": "Expansion", "easy": "Easy"}
