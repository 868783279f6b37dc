import io
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from flows.commands.live import (
    PlainLines,
    Snapshot,
    live_display,
    print_summary,
    render_snapshot,
    shown_live,
    spend_line,
)
from tapir_core.calls import LiveSpend, Spend
from tapir_core.errors import ConfigError
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.stages import StageAt
from tapir_core.summary import summarise
from tasks.progress import Progress, StageProgress
from tests.run_builder import build_run

ANSWER = StageAt("answer", 1)

NOW = 1000.0


@pytest.fixture(autouse=True)
def stopped_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy the machine is, a stage that began ten seconds ago has taken ten seconds."""
    monkeypatch.setattr("tasks.progress.time", SimpleNamespace(monotonic=lambda: NOW))


def make_stage(at: StageAt = ANSWER, *, seconds: float = 10.0, ended: bool = False, **fields: object) -> StageProgress:
    return StageProgress(
        at, **{"shards": 3, "rows": 600, "started": NOW - seconds, "ended": NOW if ended else None, **fields}
    )


def make_console(**fields: object) -> Console:
    return Console(file=io.StringIO(), width=100, **fields)


def text_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_stage_is_one_line_when_it_starts_and_one_when_it_ends() -> None:
    lines, stage = PlainLines(), make_stage()
    assert lines.new_lines(Snapshot([stage])) == ["round 1 · answer: started, 600 rows in 3 shards"]
    assert lines.new_lines(Snapshot([replace(stage, rows_done=50)])) == []
    ended = replace(stage, rows_done=600, ended=stage.started + 40, missing=2)
    assert lines.new_lines(Snapshot([ended])) == ["round 1 · answer: 600 rows in 40 s (15.0 rows/s), 2 missing"]
    assert lines.new_lines(Snapshot([ended])) == []


def test_a_long_stage_speaks_every_thirty_seconds() -> None:
    lines = PlainLines()
    stage = make_stage(seconds=31, rows_done=62, note="waiting for the server")
    lines.new_lines(Snapshot([stage]))
    (line,) = lines.new_lines(Snapshot([stage], LiveSpend(sent=7, spent=Spend(usd=0.5))))
    assert line.startswith("round 1 · answer: 62 of 600 rows, 2.0 rows/s, 31 s · waiting for the server · calls 7")
    assert "0.50 USD" in line
    assert lines.new_lines(Snapshot([stage])) == []
    later = replace(stage, started=stage.started - 30)
    assert PlainLines().new_lines(Snapshot([later])) != []


def test_a_stage_that_ended_between_two_looks_is_one_line() -> None:
    stage = make_stage(StageAt("select", 2), ended=True, seconds=0.2, rows=0, shards=1)
    assert PlainLines().new_lines(Snapshot([stage])) == ["round 2 · select: 0.2 s"]


def test_a_stage_that_runs_again_is_told_again() -> None:
    lines, stage = PlainLines(), make_stage()
    assert len(lines.new_lines(Snapshot([stage]))) == 1
    assert len(lines.new_lines(Snapshot([replace(stage, started=stage.started + 5)]))) == 1


def test_a_step_of_a_wave_that_asks_nobody_is_not_worth_a_line() -> None:
    trifle = make_stage(StageAt("wave_requests", 1, 2), ended=True, seconds=0.1, rows=0, shards=1)
    asked = make_stage(StageAt("wave_candidates", 1, 2), ended=True, seconds=4.0, rows=40, rows_done=40)
    assert PlainLines().new_lines(Snapshot([trifle, asked])) == [
        "round 1 · wave 2 · candidates: 40 rows in 4.0 s (10.0 rows/s)"
    ]


def test_a_stage_of_a_benchmark_says_which() -> None:
    judged = StageAt("benchmark_replies", 0, benchmark="mt_bench")
    read = StageAt("benchmark_items", benchmark="mt_bench")
    stages = [make_stage(judged, ended=True, rows_done=20, seconds=10), make_stage(read, ended=True)]
    first, second = PlainLines().new_lines(Snapshot(stages))
    assert first.startswith("S_0 · mt_bench · benchmark replies: 20 rows in 10")
    assert second.startswith("mt_bench · benchmark items: ")


def test_the_live_part_shows_only_the_stages_at_work() -> None:
    stages = [
        make_stage(StageAt("label"), ended=True),
        make_stage(rows_done=120, shards_done=1, missing=4, note="warming up"),
    ]
    console = make_console()
    console.print(render_snapshot(Snapshot(stages, LiveSpend(sent=12)), console.width))
    shown = text_of(console)
    assert "label" not in shown
    for part in ("round 1 · answer", "1/3", "120/600", "12.0", "4", "warming up", "calls 12"):
        assert part in shown


def test_a_terminal_of_eighty_columns_shows_a_stage_on_one_line() -> None:
    stage = make_stage(
        StageAt("judge_heldout", 12), rows=50_000, rows_done=12_000, shards=196, shards_done=47, missing=9
    )
    waiting = make_stage(
        StageAt("train", 12), rows=0, shards=1, note="step 310/960, loss 0.412, 1,210 tokens/s, 12 min left"
    )
    console = Console(file=io.StringIO(), width=80)
    console.print(render_snapshot(Snapshot([stage, waiting]), console.width))
    head, first, second, note, _ = text_of(console).splitlines()
    assert head.split() == ["Stage", "Shards", "Rows", "Rows/s", "Time", "Missing"]
    assert first.split()[-6:] == ["47/196", "12,000/50,000", "1,200.0", "10", "s", "9"]
    assert (first.split(" · ")[0], second.split()[:3]) == ("round 12", ["round", "12", "·"])
    assert note == f"round 12 · train: {waiting.note}"


def test_the_spend_line_counts_failures_by_kind() -> None:
    line = spend_line(LiveSpend(sent=1200, stored=3, failures={"timeout": 2, "refused": 1}, spent=Spend(usd=1.234)))
    assert line.startswith("calls 1,200 · from the store 3")
    assert line.endswith("1.23 USD · failed 3 (1 refused, 2 timeout)")
    assert "failed" not in spend_line(LiveSpend())


def test_the_spend_line_says_that_replies_did_not_come_in_time_before_a_row_fails() -> None:
    assert spend_line(LiveSpend(sent=102, timeouts=57)).endswith("0 USD · timed out 57")
    assert "timed out" not in spend_line(LiveSpend(sent=102))


@pytest.mark.parametrize("terminal", [False, True])
def test_a_display_tells_of_every_stage_before_it_leaves(terminal: bool) -> None:
    progress, console = Progress(), make_console(force_terminal=terminal)
    with live_display(lambda: Snapshot(progress.stages(), LiveSpend(sent=5)), console):
        progress.begin(ANSWER, shards=1, rows=2)
        count = progress.row_counter(ANSWER)
        count()
        count()
        progress.end(ANSWER)
    shown = text_of(console)
    assert shown.count("round 1 · answer: 2 rows in") == 1
    assert "calls 5" in shown


def test_the_second_display_of_a_start_tells_of_no_stage_again(monkeypatch: pytest.MonkeyPatch) -> None:
    progress, console, run = Progress(), make_console(), RunFolder(RunRef("runs", "shown"))
    live = SimpleNamespace(progress=progress, calls=SimpleNamespace(spend=LiveSpend))
    monkeypatch.setattr("tasks.runtime.current", lambda _: live)
    for at in (ANSWER, StageAt("judge", 1)):
        with shown_live(run, console):
            progress.begin(at, shards=1, rows=1)
            progress.row_counter(at)()
            progress.end(at)
    for name in ("answer", "judge"):
        assert text_of(console).count(f"round 1 · {name}: 1 rows in") == 1


def test_a_display_leaves_when_the_run_fails() -> None:
    console = make_console()
    with pytest.raises(KeyboardInterrupt), live_display(Snapshot, console):
        raise KeyboardInterrupt
    assert "calls 0" in text_of(console)


def test_a_line_without_rows_has_no_rate() -> None:
    stage = make_stage(StageAt("pool"), ended=True, seconds=3, rows=0)
    assert PlainLines().new_lines(Snapshot([stage])) == ["pool: 3.0 s"]


def test_the_final_tables_say_how_it_went_and_where_to_look(tmp_path: Path) -> None:
    console, narrow, summary = make_console(), Console(file=io.StringIO(), width=80), summarise(build_run(tmp_path))
    for each in (console, narrow):
        print_summary(each, summary)
    assert "…" not in text_of(narrow), "no figure is cut off"
    shown = text_of(console)
    for part in ("Rounds", "Accuracy by task type (test)", "Time by stage", "Hard share", "short of N", "Code Debug"):
        assert part in shown
    assert f"Report: {tmp_path}/example/report.html" in shown
    assert "tapir up" in shown
    assert "no LLM" in shown


def test_a_run_that_has_hardly_begun_has_a_summary(tmp_path: Path) -> None:
    console = make_console()
    print_summary(console, summarise(build_run(tmp_path, until=StageAt("pool"))))
    assert "Next stage: label." in text_of(console)


def test_a_run_that_cannot_be_looked_at_fails_by_its_own_error_and_leaves_no_traceback(
    capfd: pytest.CaptureFixture[str],
) -> None:
    def look() -> Snapshot:
        raise ConfigError("the call store cannot be opened")

    with pytest.raises(ConfigError, match="call store"), live_display(look, make_console()):
        time.sleep(0.7)
    assert "Traceback" not in capfd.readouterr().err
