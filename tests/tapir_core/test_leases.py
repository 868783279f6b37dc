import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tapir_core.errors import RunBusy, TapirError
from tapir_core.leases import Holding, RunLease
from tests.tapir_core.store_admin.store_rows import sql

HOLD = """
import sys, time
from tapir_core.leases import RunLease

lease = RunLease(sys.argv[1], "a-run")
lease.acquire()
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def other(store_url: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lease."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, store_url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def change(tmp_path: Path, assignments: str) -> None:
    with sqlite3.connect(tmp_path / "store.sqlite") as database:
        database.execute(f"UPDATE leases SET {assignments}")
    database.close()


def test_a_second_driver_is_told_who_holds_the_run_and_what_to_do(store_url: str, other: subprocess.Popen[str]):
    with pytest.raises(RunBusy, match=rf"a-run is driven by process {other.pid} .*kill {other.pid}"):
        RunLease(store_url, "a-run").acquire()


def test_a_second_driver_is_told_where_the_ui_shows_the_first(store_url: str):
    address = "http://127.0.0.1:4200/runs/flow-run/1234"
    with RunLease(store_url, "a-run", flow_run=address), pytest.raises(RunBusy, match=f"flow run {address},") as busy:
        RunLease(store_url, "a-run").acquire()
    assert busy.value.flow_run == address


def test_a_second_driver_in_the_same_process_is_refused_too(store_url: str):
    with RunLease(store_url, "a-run"), pytest.raises(RunBusy, match=str(os.getpid())):
        RunLease(store_url, "a-run").acquire()


def test_other_runs_are_free(store_url: str, other: subprocess.Popen[str]):
    with RunLease(store_url, "another-run") as lease:
        assert lease.holds()


def test_a_released_lease_is_free(store_url: str):
    with RunLease(store_url, "a-run") as first:
        assert first.holds()
    first.release()
    with RunLease(store_url, "a-run") as second:
        assert second.holds()


def test_the_lease_of_a_killed_process_is_taken_over_at_once(store_url: str, other: subprocess.Popen[str]):
    # Not waited for: while its parent has not, the dead process is a zombie, and still gone.
    os.kill(other.pid, signal.SIGKILL)
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
    with RunLease(store_url, "a-run") as lease:
        assert lease.holds()


@pytest.mark.parametrize("changed", ["boot_id = 'an earlier boot'", "process_started = process_started - 100"])
def test_a_number_that_now_belongs_to_another_process_holds_nothing(store_url: str, tmp_path: Path, changed: str):
    with RunLease(store_url, "a-run") as old:
        change(tmp_path, changed)
        with RunLease(store_url, "a-run") as new:
            assert new.holds()
            assert not old.holds()


def test_another_machines_lease_is_kept_while_its_heart_beats_and_lapses_after_a_minute(store_url: str, tmp_path: Path):
    with RunLease(store_url, "a-run") as old:
        change(tmp_path, "host = 'elsewhere', heartbeat = datetime('now', '-50 seconds')")
        with pytest.raises(RunBusy, match="on elsewhere"):
            RunLease(store_url, "a-run").acquire()
        change(tmp_path, "heartbeat = datetime('now', '-61 seconds')")
        with RunLease(store_url, "a-run") as new:
            assert new.holds()
            assert not old.holds()


def test_a_slow_holder_on_this_machine_is_not_robbed(store_url: str, tmp_path: Path):
    with RunLease(store_url, "a-run") as lease:
        change(tmp_path, "heartbeat = datetime('now', '-1 day')")
        with pytest.raises(RunBusy):
            RunLease(store_url, "a-run").acquire()
        assert lease.holds()


def test_anybody_sees_who_holds_a_lease_and_whether_it_lives(store_url: str, other: subprocess.Popen[str]):
    with RunLease(store_url, "mine", token="a" * 32) as mine:
        assert mine.holding() == Holding("a" * 32, lives=True)
    assert mine.holding() is None
    seen = RunLease(store_url, "a-run")
    first = seen.holding()
    assert first is not None
    assert first.lives
    os.kill(other.pid, signal.SIGKILL)
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
    assert seen.holding() == Holding(first.token, lives=False)
    seen.release()


def test_who_lost_the_lease_does_not_drop_the_new_holders(store_url: str, tmp_path: Path):
    old = RunLease(store_url, "a-run")
    old.acquire()
    change(tmp_path, "boot_id = 'an earlier boot'")
    with RunLease(store_url, "a-run") as new:
        old.release()
        assert new.holds()


def test_the_heart_beats_while_the_lease_is_held(store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tapir_core.processes.HEARTBEAT_SECONDS", 0.02)
    with RunLease(store_url, "a-run"):
        change(tmp_path, "heartbeat = datetime('now', '-1 day')")
        with sqlite3.connect(tmp_path / "store.sqlite") as database:
            while database.execute("SELECT julianday('now') - julianday(heartbeat) FROM leases").fetchone()[0] > 0.5:
                pass
        database.close()


def test_a_heart_that_cannot_beat_says_so_and_beats_on(
    store_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr("tapir_core.processes.HEARTBEAT_SECONDS", 0.02)
    with RunLease(store_url, "a-run") as lease:
        sql(store_url, "ALTER TABLE leases RENAME TO away")
        while "no heartbeat for run a-run" not in caplog.text:
            time.sleep(0.01)
        sql(store_url, "UPDATE away SET heartbeat = datetime('now', '-1 day')")
        sql(store_url, "ALTER TABLE away RENAME TO leases")
        while sql(store_url, "SELECT julianday('now') - julianday(heartbeat) > 0.5 FROM leases") == [(1,)]:
            time.sleep(0.01)
        assert lease.holds()


def test_a_lease_that_cannot_be_given_back_hides_no_error_of_its_block(
    store_url: str, caplog: pytest.LogCaptureFixture
):
    def fail() -> None:
        sql(store_url, "ALTER TABLE leases RENAME TO away")
        raise TapirError("free the disk")

    with pytest.raises(TapirError, match="free the disk"), RunLease(store_url, "a-run"):
        fail()
    assert "the lease of run a-run could not be given back (no such table: leases)" in caplog.text
