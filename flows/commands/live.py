"""What a user sees while a run works, and when it is done.

On a terminal the stages at work are a live table at the bottom and finished ones scroll away above it, a line each;
elsewhere a stage is one line when it starts, one when it ends and one every 30 seconds between. The display
reads snapshots only: it knows nothing of Prefect, of engines or of the store.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from flows.commands.terminal import print_lines, print_tables, say
from flows.prefect_server.server import TAG, connect_prefect, ignore_settings
from flows.whole_run import Work
from tapir_core import errors, run_folder
from tapir_core.calls.budget import LiveSpend
from tapir_core.reporting import report, sentences, tables
from tapir_core.stages import StageAt
from tapir_core.summary import formats, types
from tasks import runtime
from tasks.progress import StageProgress

_LINE_SECONDS = 30.0
_WIDE = 100
"""Columns of a terminal that has room for bars."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One look at a run at work."""

    stages: Sequence[StageProgress] = ()
    """Oldest first."""
    spend: LiveSpend = field(default_factory=LiveSpend)


@contextmanager
def shown_flows(ref: run_folder.RunRef, console: Console) -> Iterator["ShownFlows"]:
    """The flows of a command; the first one connects to Prefect for as long as the block lasts, and says so."""
    with ExitStack() as servers:

        @cache
        def connect() -> None:
            ignore_settings(ref.root, say)
            say("connecting to Prefect")
            say(f"Prefect UI {servers.enter_context(connect_prefect(ref))} while it runs")

        yield ShownFlows(connect, console)


@dataclass(frozen=True, slots=True)
class ShownFlows:
    """Flow runs of our own, each with the live display."""

    connect: Callable[[], None]
    """Connects to Prefect, once."""
    console: Console

    def do(self, work: Work, run: run_folder.RunFolder, *given: Any) -> Any:
        """Begin the flow of this work; scores that stand are shown by the report."""
        if work == "show":
            return report.write_report(run)
        self.connect()
        # Not before: Prefect reads its settings when it is imported.
        from flows.distill import FLOWS

        with shown_live(run, self.console):
            return FLOWS[work](run.ref, *given)


@contextmanager
def shown_live(run: run_folder.RunFolder, console: Console) -> Iterator[None]:
    """Flow runs of the block carry the run's tags; what they do is shown while they work."""
    from prefect import tags

    def look() -> Snapshot:
        return Snapshot(
            [each for each in live.progress.stages() if (each.at, each.started) not in before], live.calls.spend()
        )

    live = runtime.current(run)
    # Shown by an earlier display of this start.
    before = {(each.at, each.started) for each in live.progress.stages()}
    with tags(TAG, f"run-{run.ref.name}"), live_display(look, console):
        yield


@contextmanager
def live_display(look: Callable[[], Snapshot], console: Console) -> Iterator[None]:
    """Show a run at work for as long as the block lasts; rich's own thread calls ``look`` about twice a second."""
    lines = PlainLines(only_ends=console.is_terminal)

    def show() -> RenderableType:
        try:
            snapshot = look()
        except errors.TapirError:
            return ""  # what cannot be looked at (a store that does not open) fails in the run itself, with its remedy
        _print(console, lines.new_lines(snapshot))
        return render_snapshot(snapshot, console.width)

    try:
        with Live(console=console, get_renderable=show, refresh_per_second=2, transient=True):
            yield
    finally:
        last = look()
        _print(console, [*lines.new_lines(last), spend_line(last.spend)])


class PlainLines:
    """Turns looks at a run into lines, each said once."""

    def __init__(self, *, only_ends: bool = False) -> None:
        self._only_ends = only_ends
        self._due: dict[tuple[StageAt, float], float] = {}
        """A stage and its start → after how many seconds it is worth a line again."""

    def new_lines(self, snapshot: Snapshot) -> list[str]:
        """What is new since the last look. A stage that began and ended between two looks is one line."""
        lines: list[str] = []
        for stage in snapshot.stages:
            key = stage.at, stage.started
            due = self._due.get(key, 0.0)
            if stage.ended is not None and due < math.inf:
                self._due[key] = math.inf
                lines += filter(None, [_ended(stage)])
            elif stage.ended is None and not self._only_ends and stage.seconds >= due:
                lines.append(_working(stage, snapshot.spend) if due else _started(stage))
                self._due[key] = (stage.seconds // _LINE_SECONDS + 1) * _LINE_SECONDS if due else _LINE_SECONDS
        return lines


def render_snapshot(snapshot: Snapshot, width: int) -> RenderableType:
    """The live part: a row for each stage at work, below them what they note, and the spend.

    A terminal of fewer than ``_WIDE`` columns has no room for bars.
    """
    at_work = [stage for stage in snapshot.stages if stage.ended is None]
    spent = Text(spend_line(snapshot.spend), style="dim" if at_work else "")
    if not at_work:
        return spent
    figures = (Column(name, justify="right", no_wrap=True) for name in ("Shards", "Rows", "Rows/s", "Time", "Missing"))
    bar = [""] if width >= _WIDE else []
    table = Table(Column("Stage", no_wrap=True), *bar, *figures, box=None, padding=(0, 2, 0, 0), header_style="dim")
    for stage in at_work:
        table.add_row(
            _name(stage.at),
            *(_bar(stage) for _ in bar),
            f"{stage.shards_done}/{stage.shards}",
            f"{formats.count(stage.rows_done)}/{formats.count(stage.rows)}" if stage.rows else "",
            _rate(stage),
            formats.duration(stage.seconds),
            Text(formats.count(stage.missing), style="yellow" if stage.missing else "dim"),
        )
    return Group(table, *(Text(f"{_name(stage.at)}: {stage.note}") for stage in at_work if stage.note), spent)


def spend_line(spend: LiveSpend) -> str:
    """What this start of the run has asked so far, the student's answers included."""
    failed = ", ".join(f"{rows} {kind}" for kind, rows in sorted(spend.failures.items()))
    return (
        f"calls {formats.count(spend.sent)} · from the store {formats.count(spend.stored)} · tokens "
        f"{formats.count(spend.spent.prompt_tokens)} in, {formats.count(spend.spent.completion_tokens)} out · "
        f"{formats.number(spend.spent.usd)} USD"
        f"{f' · timed out {formats.count(spend.timeouts)}' if spend.timeouts else ''}"
        f"{f' · failed {formats.count(sum(spend.failures.values()))} ({failed})' if failed else ''}"
    )


def _name(at: StageAt) -> str:
    """`round 1 · wave 2 · candidates`, `S_0 · alpaca_eval · benchmark answers`."""
    who = at.model if at.round is None else formats.round_name(at.round)
    what = at.name.removeprefix("wave_").replace("_", " ")
    return " · ".join(dict.fromkeys(filter(None, (who, f"wave {at.wave}" if at.wave else "", at.benchmark, what))))


def _rate(stage: StageProgress) -> str:
    """Rows a second, so far."""
    return f"{stage.rows_done / stage.seconds:,.1f}" if stage.rows_done and stage.seconds > 0 else ""


def _started(stage: StageProgress) -> str:
    return (
        f"{_name(stage.at)}: started{f', {formats.count(stage.rows)} rows' if stage.rows else ''}"
        f"{f' in {formats.count(stage.shards)} shards' if stage.rows and stage.shards > 1 else ''}"
    )


def _working(stage: StageProgress, spend: LiveSpend) -> str:
    rows = (
        f"{formats.count(stage.rows_done)} of {formats.count(stage.rows)} rows, {_rate(stage) or 0} rows/s, "
        if stage.rows
        else ""
    )
    return (
        f"{_name(stage.at)}: {rows}{f'{formats.count(stage.missing)} missing, ' if stage.missing else ''}"
        f"{formats.duration(stage.seconds)}{f' · {stage.note}' if stage.note else ''} · {spend_line(spend)}"
    )


def _ended(stage: StageProgress) -> str:
    """Nothing for a step of a wave that sent no request and took less than a second."""
    rows, rate = (
        (f"{formats.count(stage.rows_done)} rows in ", f" ({_rate(stage)} rows/s)") if stage.rows_done else ("", "")
    )
    return (
        f"{_name(stage.at)}: {rows}{formats.duration(stage.seconds)}{rate}"
        f"{f', {formats.count(stage.missing)} missing' if stage.missing else ''}"
        if stage.at.wave is None or stage.rows_done or stage.seconds >= 1
        else ""
    )


def print_summary(console: Console, summary: types.RunSummary) -> None:
    """The run in tables: by round, by task type, time by stage; then where to read more."""
    print_tables(console, tables.rounds_table(summary), tables.accuracy_table(summary), tables.seconds_table(summary))
    said = (
        sentences.state(summary),
        sentences.gain(summary),
        sentences.added(*summary.baselines),
        sentences.scarce(summary),
        sentences.caution(summary),
        f"Report: {summary.report_path}",
        sentences.ui(summary),
    )
    print_lines(console, *filter(None, said))


def _print(console: Console, lines: Sequence[str]) -> None:
    print_lines(console, *(f"{datetime.now():%H:%M:%S}  {line}" for line in lines))


def _bar(stage: StageProgress) -> RenderableType:
    done, whole = (stage.rows_done, stage.rows) if stage.rows else (stage.shards_done, stage.shards)
    # A stage that counts nothing while it works shows that it is alive.
    return ProgressBar(total=max(1, whole), completed=done, width=20, pulse=whole <= 1)
