"""What is told of a whole run: `report.html`, a page that needs nothing else, and the run card, the same in Markdown
without plots; of one student the model card.

All are made from the run folder alone, so they can be made again at any time, of an unfinished run too. Names of files
and folders of the machine that made it stay out of a model card; digests stand in their place.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import polars as pl

from tapir_core.comparison.baseline import with_baseline
from tapir_core.config import ACCURACY, EMBEDDED_STUDENT, LENGTHS, NATURAL, StudentConfig
from tapir_core.config.load import resolved_json
from tapir_core.data.decontamination import FEWEST_WORDS
from tapir_core.evaluation.scores import ALL
from tapir_core.paths import REPORT, RESOLVED_CONFIG
from tapir_core.randomness import derive_rng
from tapir_core.reporting import page, plots, tables
from tapir_core.reporting.benchmarks import benchmark_gains_table, benchmark_tables, figures_tables
from tapir_core.reporting.estimate_table import kept_comparison
from tapir_core.reporting.serving import serving_tables
from tapir_core.run_folder import RunFolder
from tapir_core.stages import EVALUATE, TRAIN
from tapir_core.summary import RunReader, summarise
from tapir_core.summary.examples import choose_examples
from tapir_core.summary.formats import NOTHING, count, first_two_and_last, number, round_name, student_name
from tapir_core.summary.types import Examples, RunSummary

_EXAMPLES = 10
_LEFT_OUT = "Nothing of this is in a training set; a rejected refined answer leaves its plain answer in place."


def write_report(run: RunFolder) -> str:
    """Write `report.html` into the run folder and say where it is."""
    summary, reader = with_baseline(summarise(run), run), RunReader(run)
    # The pool of a round is answered by the student of the round before.
    answered = [each.number - 1 for each in summary.rounds if each.did("answer")]
    shown = first_two_and_last([each.number for each in summary.students] or answered)
    rng = derive_rng(run.config.run.seed, "report", "examples")
    examples = choose_examples(reader, shown, _EXAMPLES, rng) if shown else None
    asked = [each.number for each in summary.rounds if each.benchmarks is not None]
    html = render_report(
        summary,
        examples,
        gains=benchmark_gains_table(reader, asked, summary.best),
        trainings={
            student_name(each.number): found for each in summary.rounds if (found := reader.training(each.number))
        },
        estimate=kept_comparison(run, summary),
        serving=serving_tables(reader, summary.best),
    )
    run.storage.write_bytes(REPORT, html.encode())
    return summary.report_path


def render_report(
    summary: RunSummary,
    examples: Examples | None,
    *,
    gains: page.Table | None = None,
    trainings: Mapping[str, Mapping[str, Any]] | None = None,
    estimate: page.Table | None = None,
    serving: Sequence[page.Table] = (),
) -> str:
    """The page: what the run is, its scores by round, examples, then all else. Everything that is text is escaped.

    ``gains`` is what students gained over each other on benchmarks, ``trainings`` what the trainer said of each
    student's training, ``estimate`` what was expected beside what came, ``serving`` what is asked of a student before
    it is put to work.
    """
    tables_of_scores = [
        tables.students_table(summary, [each.number for each in summary.students]),
        tables.metric_table(summary.students, ACCURACY),
    ]
    of_scores = zip(plots.plot_scores(summary), tables_of_scores, strict=False)
    judged = [page.section_of(tables.judged_table(summary.students))] if summary.config.data.judged else []
    benchmarks = plots.benchmark_plots(summary)
    sections = [
        *_of_students(summary, serving, benchmarks[1:], gains),
        *_of_rounds(summary, trainings or {}),
        *_of_spend(summary, estimate),
    ]
    return page.render_page(
        "report.html.jinja2",
        sections,
        summary=summary,
        scores=[
            *(replace(plot, table=table) for plot, table in of_scores),
            *judged,
            page.section_of(tables.metric_table(summary.students, NATURAL)),
            page.section_of(tables.baseline_table(summary)),
            *benchmarks[:1],
        ],
        examples=examples,
        config=resolved_json(summary.config),
    )


def _of_students(
    summary: RunSummary, serving: Sequence[page.Table], radars: list[page.Section], gains: page.Table | None
) -> list[page.Section]:
    figures = [
        replace(page.section_of(table, folded=True), title=f"{table.title}, with intervals")
        for who in summary.compared
        for table in figures_tables(student_name(who), summary.benchmarks(who))
    ]
    return [
        replace(plots.plot_score_by_task_type(summary), table=tables.accuracy_table(summary)),
        *map(page.section_of, serving),
        *radars,
        *map(page.section_of, benchmark_tables(summary, summary.compared, summary.benchmark_names)),
        page.section_of(gains),
        *figures,
    ]


def _of_rounds(summary: RunSummary, trainings: Mapping[str, Mapping[str, Any]]) -> list[page.Section]:
    mixed, found = summary.mixed_rounds, summary.decontamination
    judged = [(round_name(each.number), each.difficulty) for each in summary.rounds]
    gaps = {name: rows["order_gap"].drop_nulls() for name, rows in judged if rows is not None}
    return [
        page.section_of(tables.rounds_table(summary)),
        plots.plot_mfd(summary.rounds),
        plots.plot_order_gap(gaps),
        replace(plots.plot_shares(mixed), table=tables.shares_table(*mixed)),
        replace(plots.plot_training(trainings), table=tables.trainings_table(trainings)),
        replace(page.section_of(tables.left_out_table(summary)), note=_LEFT_OUT),
        page.section_of(tables.decontamination_table(found)),
        page.section_of(tables.contaminated_table(found), folded=True),
        page.section_of(tables.settled_table(summary)),
    ]


def _of_spend(summary: RunSummary, estimate: page.Table | None) -> list[page.Section]:
    spent = tables.spend_table(summary) if summary.all_stages else None
    return [
        replace(plots.plot_time(summary), table=tables.seconds_table(summary)),
        replace(page.section_of(spent), title="Calls to teacher and judge"),
        page.section_of(estimate),
    ]


def run_card(
    summary: RunSummary,
    pages: Mapping[str, Mapping[str, str]] | None = None,
    serving: Sequence[page.Table] = (),
) -> str:
    """What the run is, its state, its rounds, and where to read more.

    Args:
        summary: The run.
        pages: Where more of it is shown, where this card is: the run or a round, then title, then address. Without it
            the card says how to get there.
        serving: The tables of `tapir_core.reporting.serving`.
    """
    shown = [
        tables.rounds_table(summary),
        tables.baseline_table(summary),
        tables.judged_table(summary.students),
        tables.accuracy_table(summary),
        *serving,
        tables.left_out_table(summary),
        tables.settled_table(summary),
        tables.seconds_table(summary),
        tables.spend_table(summary),
        *benchmark_tables(summary, summary.compared, summary.benchmark_names),
        tables.decontamination_table(summary.decontamination),
    ]
    path = summary.report_path
    address = "" if "://" in path else Path(path).absolute().as_uri()
    sections = [page.section_of(table) for table in shown if table]
    return page.render("run_card.md.jinja2", summary=summary, sections=sections, address=address, pages=pages)


def model_card(run: RunFolder, round_number: int, use: str) -> str:
    """The card of the student after round ``round_number``; ``use`` says in Markdown how engines load it."""
    summary, config = with_baseline(summarise(run), run), run.config
    known = [each for each in summary.rounds if each.number <= round_number and each.mixture is not None]
    at = EVALUATE.at(round_number)
    scores = run.rows(at) if run.holds(at) else pl.DataFrame(schema=at.stage.columns)
    benchmarks = summary.benchmarks(round_number)
    figures = scores if benchmarks is None else pl.concat([scores, benchmarks])
    card = page.render(
        "model_card.md.jinja2",
        front_matter=_front_matter(summary, round_number, figures),
        summary=summary,
        config=config,
        number=round_number,
        use=use,
        backbone=backbone_name(config.student),
        judged=any(map(config.judges, range(1, round_number + 1))),
        mixtures=page.table_of("", _MIXTURES, known),
        shares=tables.shares_table(*known),
        scores=_scores(scores),
        benchmarks=figures_tables(student_name(round_number), benchmarks),
        dropped=tables.decontamination_table(summary.decontamination),
        fewest_words=FEWEST_WORDS,
        run=run,
        checkpoint=run.manifest(TRAIN.at(round_number)),
        resolved=run.storage.sha256(RESOLVED_CONFIG),
        training=RunReader(run).training(round_number),
        own_version=_own_version(),
    )
    return card + "\n"


def _front_matter(summary: RunSummary, round_number: int, scores: pl.DataFrame) -> str:
    """What model hubs read: base model and licence, and every figure of a whole split or benchmark."""
    from huggingface_hub import EvalResult, ModelCardData  # loads for a while, and only cards need it

    backbone = summary.config.student.backbone
    of_base: dict[str, str] = {"license": "unknown"}
    if _is_hub_id(backbone):
        link = {"license_name": "that-of-the-base-model", "license_link": f"https://huggingface.co/{backbone}"}
        of_base = {"base_model": backbone, "license": "other", **link}
    wanted = (pl.col("category") == ALL) & pl.col("value").is_not_null() & ~pl.col("metric").is_in(LENGTHS)
    figures = scores.filter(wanted).iter_rows(named=True)
    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type=row["benchmark"],
            dataset_name=row["benchmark"],
            dataset_split=row["split"] or None,
            metric_type=row["metric"],
            metric_value=row["value"],
        )
        for row in figures
    ]
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["tapir", "distillation"],
        model_name=f"{summary.name}, {student_name(round_number)}",
        eval_results=results or None,
        **of_base,
    )
    return str(data.to_yaml())


def _scores(found: pl.DataFrame) -> page.Table:
    """Every score of this student, whole splits first."""
    judged = found.select("judge", "settings").unique(maintain_order=True).rows()
    note = " ".join(f"Judged by {judge}; {settings}." for judge, settings in judged)
    in_order = found.sort(pl.col("category") != ALL, "benchmark", "split", "metric", maintain_order=True)
    return page.table_of("", _SCORES, in_order.to_dicts(), text_columns=4, note=note)


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


_MIXTURES: tuple[tables.OfRound, ...] = (
    ("Round", lambda each: round_name(each.number)),
    ("Examples", lambda each: count(each.mixture.rows if each.mixture else None)),
    ("Asked for", lambda each: count(each.mixture.asked if each.mixture else None)),
    *tables.origin_rows("", pool="Pool", seed="Seeds", expansion="Expansion", easy="Easy"),
    ("Refined", lambda each: count(each.refinement.accepted if each.refinement else None)),
)
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
