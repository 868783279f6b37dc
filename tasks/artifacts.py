"""What a run leaves in Prefect's UI: tables of each round, of failed shards, the run card; and reports in its folder.

Outside a flow only the reports are written. Artifacts are copies for the UI; the run folder stays the truth.
"""

import re
from typing import Any

from prefect.artifacts import TableArtifact, create_markdown_artifact, create_table_artifact
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import FlowRunContext

from tapir_core.reporting.compare import Comparison
from tapir_core.reporting.compare_report import comparison_card
from tapir_core.reporting.judge_report import write_judge_report
from tapir_core.reporting.judge_round import summarise_judge
from tapir_core.reporting.judge_tables import judge_tables
from tapir_core.reporting.report import write_report
from tapir_core.reporting.run_card import run_card
from tapir_core.reporting.summary import summarise
from tapir_core.reporting.tables import Table, mfd_table, scores_table, shares_table, stages_table
from tapir_core.run_folder import RunFolder, RunRef
from tasks.outcomes import ShardIncomplete

__all__ = ["artifact_key", "publish_judge", "publish_missing", "publish_round", "publish_run", "publish_sweep"]

_OF_A_ROUND = {"stages": stages_table, "mfd": mfd_table, "task-shares": shares_table, "scores": scores_table}

_OF_A_SAMPLE = ("said", "instruction", "kind", "attempts", "instruction_id")
"""What a person looks for comes first: the last columns are beyond the edge of most windows."""


def publish_round(ref: RunRef, number: int) -> None:
    """Show a round in the UI: stages with counts and spend, MFD histogram, task shares, held-out scores."""
    if FlowRunContext.get() is None:
        return
    found = summarise(RunFolder(ref)).round(number)
    if found is None:
        return
    _publish(ref, number, {name: make(found) for name, make in _OF_A_ROUND.items()})


def publish_judge(ref: RunRef, number: int) -> str:
    """Write the judge report of a round and show its tables in the UI; returns where the report is."""
    run = RunFolder(ref)
    report = write_judge_report(run, number)
    if FlowRunContext.get() is not None:
        _publish(ref, number, judge_tables(summarise_judge(run, number)))
    return report


def publish_run(ref: RunRef) -> str:
    """Write `report.html` and show the run card in the UI; returns where the report is."""
    run = RunFolder(ref)
    report = write_report(run)
    if FlowRunContext.get() is not None:
        create_markdown_artifact(run_card(summarise(run)), artifact_key(ref.name, "card"), f"Run {ref.name}")
    return report


def publish_missing(ref: RunRef, _task: Any, task_run: TaskRun, state: State[Any]) -> None:
    """Show rows that an incomplete shard lacks at its red task run: a hook for tasks that have failed for good."""
    raised: object = state.result(raise_on_failure=False)
    if not isinstance(raised, ShardIncomplete):
        return
    at, outcome = raised.at, raised.outcome
    kinds = ", ".join(f"{count} {kind}" for kind, count in {**outcome.missing, **outcome.failed}.items())
    again = "If the run stopped here, Retry of its flow run, or its own command, asks for the missing rows again."
    if at.name == "judge":
        again += f" So does retry-judge (`tapir retry-judge {ref.name}`), also if the run went on without them."
    TableArtifact(
        key=artifact_key(ref.name, str(at), "shard", f"{outcome.index:04d}", "missing"),
        description=f"{at}, shard {outcome.index}: {kinds}. What was received is stored. {again}",
        table=[{name: getattr(sample, name) for name in _OF_A_SAMPLE} for sample in outcome.samples],
        task_run_id=task_run.id,
        flow_run_id=task_run.flow_run_id,
    ).create()


def publish_sweep(curriculum: str, comparison: Comparison, report: str) -> None:
    """Show the backbones of a curriculum side by side in the UI; ``report`` is where their page is."""
    key = artifact_key(curriculum, "backbones")
    create_markdown_artifact(comparison_card(comparison, report), key, f"Backbones of {curriculum}")


def artifact_key(*parts: str) -> str:
    """A key as Prefect allows it: lowercase letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")


def _publish(ref: RunRef, number: int, tables: dict[str, Table]) -> None:
    for name, table in tables.items():
        if table.rows:
            key = artifact_key(ref.name, "round", str(number), name)
            create_table_artifact(_records(table), key, " ".join(filter(None, (f"{table.title}.", table.note))))


def _records(table: Table) -> list[dict[str, str]]:
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]
