"""The model card of an exported student: what it was taught, what it scores, what it is made of. Markdown.

Names of files and folders of the machine that made it stay out of it; digests stand in their place.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import polars as pl

from tapir_core.config import EMBEDDED_STUDENT, StudentConfig
from tapir_core.data.decontamination import FEWEST_WORDS
from tapir_core.evaluation.scores import SCORES
from tapir_core.paths import RESOLVED_CONFIG, training_file
from tapir_core.reporting.benchmarks import figures_tables
from tapir_core.reporting.page import markdown_table, markdown_text
from tapir_core.reporting.sentences import render
from tapir_core.reporting.tables import Table, decontamination_table, table_of
from tapir_core.run_folder import RunFolder
from tapir_core.stages import StageAt
from tapir_core.summary import summarise
from tapir_core.summary.formats import NOTHING, count, moment, number, percent, round_name, student_name
from tapir_core.summary.types import MixtureSummary
from tapir_core.task_types import TASK_TYPES


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
    note = f"Judged by {found['judge'][0]}; {found['settings'][0]}." if found.height else ""
    return table_of("", _SCORES, in_order.to_dicts(), text_columns=4, note=note)


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
