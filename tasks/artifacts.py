"""What a run shows in Prefect's UI: progress, tables of each round, of failed shards, plots, its card; and its reports.

Outside a flow only the reports are written. Artifacts are copies for the UI; the run folder stays the truth. Plots
are images within Markdown: both of Prefect's UIs show these, and one artifact holds several. Of an artifact of the type
image the first UI prints the address too, which is the whole image.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast
from uuid import UUID

from httpx import HTTPError
from prefect import artifacts as ui
from prefect import get_run_logger
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactCollectionFilter, ArtifactCollectionFilterKey
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import FlowRunContext

from tapir_core import paths, run_state
from tapir_core.calls import DRIVING, UNPAID, LiveSpend, Spend
from tapir_core.comparison.baseline import with_baseline
from tapir_core.config import Caps
from tapir_core.reporting import benchmarks, judge_report, plots, report, side_by_side, tables
from tapir_core.reporting.page import Table, markdown_table, markdown_text, render_markdown
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.stages import StageAt
from tapir_core.summary import RunReader, summarise, types
from tapir_core.summary.formats import NOTHING, count, duration, number, percent, round_name, student_name
from tasks import outcomes, progress
from tasks.runtime import Runtime

_OF_A_STUDENT = ("stages", "scores")
"""Of backbone and S_0 too: the one has no mixture, that of the other follows no target shares."""
_OF_A_ROUND: dict[str, Callable[[types.RoundSummary], Table]] = {
    "stages": tables.stages_table,
    "mfd": tables.mfd_table,
    "task-shares": tables.shares_table,
    "scores": tables.scores_table,
}
_PLOTS = "plots"

_OF_A_SAMPLE = ("said", "instruction", "kind", "attempts", "instruction_id")
"""What a person looks for comes first: the last columns are beyond the edge of most windows."""


def publish_round(ref: RunRef, number: int) -> None:
    """Show a round in the UI: stages with counts and spend, MFD histogram, task shares, scores; then the run's plots.

    Backbone and S_0 are shown by their stages and scores. The plots are drawn for the newest round only: those of an
    earlier one, which a resumed run comes by again, would be the same.
    """
    summary = summarise(RunFolder(ref))
    if (found := summary.round(number)) is not None:
        shown = _OF_A_ROUND if number > 0 else _OF_A_STUDENT
        _publish(ref, number, {name: _OF_A_ROUND[name](found) for name in shown} | _figures(found))
        if found is summary.rounds[-1]:
            _show_plots(ref, summary)


def publish_scores(ref: RunRef, numbers: Sequence[int]) -> None:
    """Show the held-out scores of these students in the UI: side by side, and each by task type."""
    summary = summarise(RunFolder(ref))
    _show(artifact_key(ref.name, "scores"), tables.students_table(summary, [each.number for each in summary.students]))
    for each in filter(None, map(summary.round, numbers)):
        _publish(ref, each.number, {"scores": tables.scores_table(each)} | _figures(each))


def publish_judge(ref: RunRef, number: int) -> str:
    """Write the judge report of a round and show its tables in the UI; returns where the report is."""
    run = RunFolder(ref)
    found = judge_report.summarise_judge(run, number)
    _publish(ref, number, judge_report.judge_tables(found))
    return judge_report.write_judge_report(run, found)


def publish_run(ref: RunRef) -> str:
    """Write `report.html` and show plots and run card in the UI; returns where the report is."""
    run = RunFolder(ref)
    written = report.write_report(run)
    if FlowRunContext.get() is None:
        return written
    summary = with_baseline(summarise(run), run)
    _show_plots(ref, summary)  # before the card, which links to them
    pages = _pages(ref, {each.number: [*_OF_A_ROUND, *_figures(each)] for each in summary.rounds})
    card = report.run_card(summary, RunReader(run), pages)
    make_artifact(ui.create_markdown_artifact, card, artifact_key(ref.name, "card"), f"Run {ref.name}")
    # All students side by side: a table for each benchmark, and for each of its judges if it had several.
    seen = Counter[str]()
    for table in benchmarks.benchmark_tables(summary):
        seen[table.title] += 1
        again = [str(seen[table.title])] if seen[table.title] > 1 else []
        _show(artifact_key(ref.name, "benchmark", table.title, *again), table)
    return written


def publish_missing(ref: RunRef, _task: Any, task_run: TaskRun, state: State[Any]) -> None:
    """Show rows that an incomplete shard lacks at its red task run: a hook for tasks that have failed for good."""
    raised: object = state.result(raise_on_failure=False)
    if not isinstance(raised, outcomes.ShardIncomplete):
        return
    at, index, outcome = raised.at, raised.index, raised.outcome
    kinds = ", ".join(f"{rows} {kind}" for kind, rows in {**outcome.missing, **outcome.failed}.items())
    again = "If the run stopped here, Retry of its flow run, or its own command, asks for the missing rows again."
    if run_state.is_judging(at):
        again += (
            f" So does retry-judge (`tapir retry-judge {ref.name} --root {ref.root}`), also if the run went on without "
            "them."
        )
    ui.TableArtifact(
        key=artifact_key(ref.name, str(at), "shard", f"{index:04d}", "missing"),
        description=f"{at}, shard {index}: {kinds}. What was received is stored. {again}",
        table=[{name: getattr(sample, name) for name in _OF_A_SAMPLE} for sample in outcome.samples],
        task_run_id=task_run.id,
        flow_run_id=task_run.flow_run_id,
    ).create()


def spend_artifact(runtime: Runtime, stages: Sequence[StageAt]) -> Callable[[bool], None]:
    """Shows the progress of a run at work through ``stages`` and its spend, in one artifact that each call changes.

    The bar counts stages, all of them once the call says that they are done; the card below it is `spend_card`.
    """
    name, artifact = runtime.run.ref.name, cast(UUID | None, None)

    def show(all_done: bool) -> None:
        nonlocal artifact
        working, calls = runtime.progress.stages(), runtime.calls
        done = 100.0 if all_done else round(100 * share_done(working, stages), 1)
        card = f"Run {name}\n\n{spend_card(working, calls.spend(), calls.paid(), runtime.config.budget)}"
        if artifact is None:
            artifact = cast(UUID, ui.create_progress_artifact(done, artifact_key(name, "spend"), card))
        else:
            ui.update_progress_artifact(artifact, done, card)

    return show


def publish_sweep(curriculum: str, shown: side_by_side.SideBySide, page: str) -> None:
    """Show the backbones of a curriculum side by side in the UI; ``page`` is where their page is."""
    key, card = artifact_key(curriculum, "backbones"), side_by_side.side_by_side_card(shown, page)
    make_artifact(ui.create_markdown_artifact, card, key, f"Backbones of {curriculum}")


def publish_comparison(name: str, card: str, plots_card: str) -> None:
    """Show the arms of a comparison in the UI; both cards are Markdown."""
    make_artifact(ui.create_markdown_artifact, card, artifact_key(name, "comparison"), f"Arms of {name}")
    make_artifact(ui.create_markdown_artifact, plots_card, artifact_key(name, "comparison", _PLOTS), f"Plots of {name}")


def artifact_key(*parts: str) -> str:
    """A key as Prefect allows it: lowercase letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")


def _pages(ref: RunRef, names: Mapping[int, Sequence[str]]) -> dict[str, dict[str, str]]:
    """Addresses in the UI of what the server holds of the run and of each round (its ``names``); place, title, address.

    None where the server is away.
    """
    keys = {"whole run": {_PLOTS: artifact_key(ref.name, _PLOTS)}} | {
        round_name(number): {name: _key_of_round(ref, number, name) for name in (*of, "judge")}
        for number, of in names.items()
    }
    wanted = ArtifactCollectionFilterKey(any_=[key for of_place in keys.values() for key in of_place.values()])
    with get_client(sync_client=True) as client:
        try:
            found = client.read_latest_artifacts(artifact_filter=ArtifactCollectionFilter(key=wanted))
        except HTTPError:
            return {}
    # The page of the key is its history; that of the version shows what it holds. Whatever page of the UI shows a card
    # lies three steps below the UI's base, which each of Prefect's two UIs has for itself and which may have a prefix.
    held = {each.key: f"../../artifacts/artifact/{each.latest_id}" for each in found}
    pages = {
        place: {name: held[key] for name, key in of_place.items() if key in held} for place, of_place in keys.items()
    }
    return {place: of_place for place, of_place in pages.items() if of_place}


def _show_plots(ref: RunRef, summary: types.RunSummary) -> None:
    """Held-out accuracy and benchmarks of all students, one key for the whole run: its versions are its history."""
    card = render_markdown(plots.score_plots(summary))
    make_artifact(ui.create_markdown_artifact, card, artifact_key(ref.name, _PLOTS), f"Plots of {ref.name}")


def _figures(found: types.RoundSummary) -> dict[str, Table]:
    """A student's figures on benchmarks, a table for each judge: `benchmarks`, `benchmarks-2`, …"""
    made = benchmarks.figures_tables(student_name(found.number), found.benchmarks)
    return {f"benchmarks-{place}" if place > 1 else "benchmarks": each for place, each in enumerate(made, start=1)}


def _publish(ref: RunRef, number: int, shown: dict[str, Table]) -> None:
    for name, table in shown.items():
        _show(_key_of_round(ref, number, name), table)


def _key_of_round(ref: RunRef, number: int, name: str) -> str:
    return artifact_key(ref.name, paths.OF_NO_ROUND.get(number, f"round {number}"), name)


def _show(key: str, table: Table) -> None:
    records = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    description = markdown_text(" ".join(filter(None, (f"{table.title}.", table.note))))
    make_artifact(ui.create_table_artifact, records, key, description)


def make_artifact(create: Callable[..., object], content: object, key: str, description: str) -> None:
    """Make an artifact in the flow at work, if it has any content.

    Where the server does not take it the log says so: it is a copy, and the run goes on.
    """
    if not content or FlowRunContext.get() is None:
        return
    try:
        create(content, key, description)
    except HTTPError as error:
        get_run_logger().warning("artifact %s is not in the UI, but in the run folder: %s", key, error)


def share_done(working: Sequence[progress.StageProgress], stages: Sequence[StageAt]) -> float:
    """How far along ``stages`` the last of those that began is, as a share (0–1); stages that are none of them count 0.

    A step of an expansion wave counts as its expansion's beginning.
    """
    places = {at: place for place, at in enumerate(stages)}
    reached = (places[stage.at.whole] + _share_of(stage) for stage in working if stage.at.whole in places)
    return min(1.0, max(reached, default=0.0) / len(stages))


def _share_of(stage: progress.StageProgress) -> float:
    done = stage.rows_done / stage.rows if stage.rows else stage.shards_done / max(1, stage.shards)
    return 0.0 if stage.at.wave else 1.0 if stage.ended else done


def spend_card(
    working: Sequence[progress.StageProgress], live: LiveSpend, paid: Mapping[str, Spend], caps: Caps
) -> str:
    """In Markdown: the stages at work, what this start asked, what the run has paid for, the share of each cap."""
    at_work = [stage for stage in working if stage.ended is None]
    rows = tuple((str(stage.at), *_rows_cells(stage), stage.note) for stage in at_work)
    stages = Table("Stages", ("Stage at work", "Rows", "Rows/s", "Missing", "Left", ""), rows)
    whole = sum((each for name, each in paid.items() if name not in {*UNPAID, DRIVING}), Spend())
    hours = paid.get(DRIVING, Spend()).seconds / 3600
    tokens = whole.prompt_tokens + whole.completion_tokens
    figures = (
        ("Calls", count(live.sent), count(whole.requests), _of(whole.requests, caps.requests)),
        ("From the store", count(live.stored), "", ""),
        ("Tokens", count(live.spent.tokens), count(tokens), _of(tokens, caps.tokens)),
        ("USD", number(live.spent.usd), number(whole.usd), _of(whole.usd, caps.usd)),
        ("Hours of work", "", number(hours), _of(hours, caps.hours)),
    )
    columns = ("", "This start, student included", "All starts, teacher and judge", "Of the cap")
    return "\n\n".join([*([markdown_table(stages)] if rows else []), markdown_table(Table("Spend", columns, figures))])


def _rows_cells(stage: progress.StageProgress) -> tuple[str, str, str, str]:
    if not stage.rows:
        return NOTHING, NOTHING, NOTHING, NOTHING
    rate = stage.rows_done / stage.seconds if stage.seconds else 0.0
    left = duration((stage.rows - stage.rows_done) / rate) if rate else NOTHING
    return f"{count(stage.rows_done)} of {count(stage.rows)}", number(rate, 1), count(stage.missing), left


def _of(used: float, cap: float | None) -> str:
    return f"{percent(used / cap)} of {cap:g}" if cap else ""
