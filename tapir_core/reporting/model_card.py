"""The model card of an exported student: what it was taught, what it scores, what it is made of. Markdown.

Names of files and folders of the machine that made it stay out of it; digests stand in their place.
"""

import json
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from tapir_core.config import EMBEDDED_STUDENT, RunConfig, StudentConfig
from tapir_core.data.decontamination import FEWEST_WORDS
from tapir_core.paths import RESOLVED_CONFIG, training_file
from tapir_core.reporting.benchmarks import figures_tables
from tapir_core.reporting.decontamination import decontamination_table
from tapir_core.reporting.run_card import markdown_table, markdown_text
from tapir_core.reporting.sentences import standin_sentence
from tapir_core.reporting.tables import Table
from tapir_core.run_folder import RunFolder
from tapir_core.stages import StageAt
from tapir_core.summary import summarise
from tapir_core.summary.formats import NOTHING, count, moment, number, percent, round_name, student_name
from tapir_core.summary.types import RunSummary

__all__ = ["backbone_name", "model_card"]


def model_card(run: RunFolder, round_number: int, use: str) -> str:
    """The card of the student after round ``round_number``; ``use`` says in Markdown how engines load it."""
    summary, config = summarise(run), run.config
    training = _training(run, round_number)
    parts = [
        _front_matter(config),
        f"# {summary.name}, {student_name(round_number)}",
        _what_it_is(summary, config, round_number),
        use,
        "## Training data",
        *_data(summary, config, round_number),
        "## Scores",
        *_scores(run, summary, round_number),
        *_benchmarks(summary, config, round_number),
        *_decontamination(summary, config),
        "## Terms",
        _terms(summary, config),
        "## How it was made",
        markdown_table(Table("", ("", "Value"), tuple(_provenance(run, round_number, training)), text_columns=2)),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _front_matter(config: RunConfig) -> str:
    base = [f"base_model: {json.dumps(config.student.backbone)}"] if _is_hub_id(config.student.backbone) else []
    lines = ["library_name: transformers", "pipeline_tag: text-generation", *base, "tags:", "- tapir", "- distillation"]
    return "\n".join(["---", *lines, "---"])


def _what_it_is(summary: RunSummary, config: RunConfig, round_number: int) -> str:
    judged = any(map(config.judges, range(1, round_number + 1)))
    kind = "of curriculum" if judged else "in which nothing was judged"
    rounds = f" and {round_number} {'round' if round_number == 1 else 'rounds'} {kind}" if round_number else ""
    by = f", judged by {markdown_text(summary.judge)}" if judged else ""
    said = [
        f"{markdown_text(backbone_name(config.student))} after basic fine-tuning{rounds} with TAPIR "
        f"([arXiv 2405.13448](https://arxiv.org/abs/2405.13448)): taught by {markdown_text(summary.teacher)}{by}.",
        standin_sentence(summary),
    ]
    return "\n\n".join(filter(None, said))


def _data(summary: RunSummary, config: RunConfig, round_number: int) -> Iterator[str]:
    """Pool, mixtures by origin, task shares."""
    left = sum((summary.unusable or {}).values())
    yield (
        f"The pool: {count(summary.pool)} instructions from {config.data.pool.source}, of which {count(left)} were "
        "left out because the teacher gave no usable answer or no task type. The mixture of each round:"
    )
    mixed = [(each, each.mixture) for each in summary.rounds if each.mixture and each.number <= round_number]
    rows = []
    for each, mixture in mixed:
        origins = (count(mixture.origins.get(name)) for name in _ORIGINS)
        refined = count(each.refinement.accepted if each.refinement else None)
        rows.append((round_name(each.number), count(mixture.rows), *origins, refined))
    yield markdown_table(Table("", ("Round", "Examples", *_ORIGINS.values(), "Refined"), tuple(rows)))
    if not mixed:
        return
    natural, target = ({row[0]: row[place] for row in mixed[-1][1].shares.rows()} for place in (1, 2))
    got = [{row[0]: row[3] for row in mixture.shares.rows()} for _, mixture in mixed]
    shown = [name for name in natural if any(table.get(name) for table in (natural, target, *got))]
    shares = tuple((name, *(percent(table[name]) for table in (natural, target, *got))) for name in shown)
    columns = ("Task type", "Pool", "Target", *(round_name(each.number) for each, _ in mixed))
    yield "Task shares:\n\n" + markdown_table(Table("", columns, shares))


def _scores(run: RunFolder, summary: RunSummary, round_number: int) -> Iterator[str]:
    """Every score of this student, whole splits first."""
    at = StageAt("evaluate", round_number)
    if not run.holds(at):
        yield "This student was not scored."
        return
    found = run.rows(at).sort("benchmark", "split", "metric", maintain_order=True)
    rows = tuple(
        (
            row["benchmark"],
            row["split"],
            row["category"],
            row["metric"],
            _figure(row),
            _interval(row),
            count(row["n"]),
            count(row["n_failed"]),
        )
        for whole in (True, False)
        for row in found.iter_rows(named=True)
        if (row["category"] == "all") is whole
    )
    yield markdown_table(Table("", _SCORE_COLUMNS, rows, text_columns=4))
    best = (
        f"{student_name(summary.best)} has the highest score on the dev split of the students of this run. "
        if summary.best is not None
        else ""
    )
    judged = f"Judged by {found['judge'][0]}; {found['settings'][0]}."
    yield (
        f"{best}The dev split decides which round is best and when a run stops, so its figures may flatter; figures of "
        "test splits are read by no decision. Intervals are 95 %, Wilson's; n counts answers, and what failed is in no "
        f"figure. {markdown_text(judged)}"
    )


def _benchmarks(summary: RunSummary, config: RunConfig, round_number: int) -> Iterator[str]:
    """This student's figures on benchmarks, a table for each judge; nothing of a run that asks none."""
    if not config.evaluation.asked:
        return
    yield "## Benchmarks"
    tables = figures_tables(student_name(round_number), summary.benchmarks(round_number))
    if not tables:
        yield f"This student was asked none of the run's benchmarks ({', '.join(config.evaluation.asked)})."
        return
    for table in tables:
        yield f"### {markdown_text(table.title)}" if len(tables) > 1 else ""
        yield f"{markdown_table(table)}\n\n{markdown_text(table.note)}"
    yield (
        "n is the number of judgments in a figure, failed those that are in none. Figures are comparable where judge, "
        "prompts and settings are equal. No decision reads them."
    )


def _figure(row: dict[str, Any]) -> str:
    return f"no figure: {row['note']}" if row["value"] is None else number(row["value"], 3)


def _interval(row: dict[str, Any]) -> str:
    return NOTHING if row["low"] is None else f"{number(row['low'], 3)} to {number(row['high'], 3)}"


def _decontamination(summary: RunSummary, config: RunConfig) -> Iterator[str]:
    yield "## Decontamination"
    table = decontamination_table(summary.decontamination)
    if not table.rows:
        yield "Nothing was looked for: the run names no benchmark and has no held-out set."
        return
    settings = config.evaluation.decontamination
    yield markdown_table(table)
    yield (
        f"An instruction holds a question when both are equal, share {settings.overlap_words} words in a row (of a "
        f"shorter question of at least {FEWEST_WORDS} words: all of its words), or have a ROUGE-L F1 above "
        f"{settings.max_rouge_l:g}. {table.note}"
    )


def _terms(summary: RunSummary, config: RunConfig) -> str:
    licence = f"This model is made from {markdown_text(backbone_name(config.student))}, whose licence holds for it."
    if config.teacher.terms is not None:
        return f"{licence} Terms of the teacher's answers that it learnt from: {config.teacher.terms}"
    if "teacher" in summary.standins:
        return f"{licence} No LLM's answers are in it: its teacher was the stand-in."
    return (
        f"{licence} The terms of the teacher's answers that it learnt from are not stated (`teacher.terms`): find out "
        "whether they allow what you want to do with it."
    )


def _provenance(run: RunFolder, round_number: int, training: dict[str, Any]) -> Iterator[tuple[str, str]]:
    config, ingredients = run.config, run.record.ingredients
    checkpoint = run.manifest(StageAt("train", round_number))
    yield "Run", f"{run.ref.name} ({run.record.id}), created {moment(run.record.created)}"
    yield "Checkpoint, digest", checkpoint.digest if checkpoint else NOTHING
    yield "config.resolved.json, SHA-256", run.storage.sha256(RESOLVED_CONFIG)
    yield "Backbone", backbone_name(config.student)
    yield "Backbone, digest", ingredients.get("backbone", NOTHING)
    if "file:pool" in ingredients:
        yield "Pool file, SHA-256", ingredients["file:pool"]
    yield "Seed", str(config.run.seed)
    if training:
        yield (
            "Tokens of the last fine-tune",
            f"{count(training['total_tokens'])}, of answers {count(training['trained_tokens'])}",
        )
        yield "Precision", str(training["precision"])
        versions = {"tapir-distill": _own_version(), **training["versions"]}
        yield "Libraries", ", ".join(f"{name} {version}" for name, version in versions.items())


def _training(run: RunFolder, round_number: int) -> dict[str, Any]:
    """What the trainer wrote of the last fine-tune; it may have been removed, since no stage needs it."""
    try:
        found: dict[str, Any] = json.loads(run.storage.read_bytes(training_file(StageAt("train", round_number).folder)))
    except FileNotFoundError:
        return {}
    return found


def backbone_name(student: StudentConfig) -> str:
    """The backbone's name; of a folder only its own."""
    backbone, revision = student.backbone, student.revision
    if _is_hub_id(backbone):
        return f"{backbone}, revision {revision}" if revision else backbone
    return backbone.partition(":")[2] if backbone == EMBEDDED_STUDENT else Path(backbone).name


def _is_hub_id(backbone: str) -> bool:
    return backbone.count("/") == 1 and not backbone.startswith((".", "/", "~")) and not Path(backbone).exists()


def _own_version() -> str:
    try:
        return metadata.version("tapir-distill")
    except metadata.PackageNotFoundError:  # works from its sources
        return NOTHING


_ORIGINS = {"pool": "Pool", "seed": "Seeds", "expansion": "Expansion", "easy": "Easy"}
_SCORE_COLUMNS = ("Benchmark", "Split", "Category", "Metric", "Value", "95 % interval", "n", "Failed")
