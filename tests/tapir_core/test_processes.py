from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path

import psutil
import pytest

from tapir_core.processes import Holder, is_free, read_start

STAT = "{pid} ({name}) {state} 1 7 7 0 -1 4194560 0 0 0 0 1 2 0 0 20 0 1 0 {ticks} 4096 0\n"


def step_clock(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """The clock is set forward, and with it what it says of every start."""
    true_start = psutil.Process.create_time
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: true_start(process) + seconds)


def row_of(holder: Holder, silent_seconds: float) -> dict[str, object]:
    return {**asdict(holder), "silent": timedelta(seconds=silent_seconds)}


def test_this_process_is_not_gone_and_its_successor_is_another():
    me = Holder.this_process()
    assert not me.is_gone()
    assert Holder(me.host, me.boot_id, me.pid, me.process_started + 1).is_gone()
    assert replace(me, boot_id="an earlier boot").is_gone()


@pytest.mark.parametrize("seconds", [1, -1, 3600 * 24 * 365])
def test_a_step_of_the_clock_makes_no_living_process_gone(monkeypatch: pytest.MonkeyPatch, seconds: float):
    before = Holder.this_process()
    step_clock(monkeypatch, seconds)
    assert before.lives()
    assert before == Holder.this_process()
    assert not is_free(row_of(before, 3600))


@pytest.mark.parametrize(
    ("name", "state", "ticks", "start"),
    [
        ("python", "S", 12345, 123.45),
        ("a) S 1 (b c", "R", 7, 0.07),
        (") Z 1 1", "S", 500, 5.0),
        ("caf\udce9", "D", 500, 5.0),
        ("ended", "Z", 12345, None),
        ("ended", "X", 12345, None),
    ],
)
def test_the_start_is_read_whatever_the_process_is_called(
    tmp_path: Path, name: str, state: str, ticks: int, start: float | None
):
    for folder in ("self", "41"):
        (tmp_path / folder).mkdir()
    stat = STAT.format(pid=41, name=name, state=state, ticks=ticks)
    (tmp_path / "41/stat").write_bytes(stat.encode(errors="surrogateescape"))
    assert read_start(41, tmp_path) == start
    assert read_start(42, tmp_path) is None


def test_a_process_that_this_machine_hides_is_not_taken_for_gone(monkeypatch: pytest.MonkeyPatch):
    holder = replace(Holder.this_process(), pid=2**22 - 1)
    assert holder.lives() is False
    monkeypatch.setattr("psutil.pid_exists", lambda _: True)
    assert holder.lives() is None


def test_a_row_of_a_development_version_is_free_only_when_it_is_silent():
    by_the_clock = replace(Holder.this_process(), process_started=psutil.Process().create_time())
    assert by_the_clock.lives() is None
    assert not is_free(row_of(by_the_clock, 59))
    assert is_free(row_of(by_the_clock, 61))
