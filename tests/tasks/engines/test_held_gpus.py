"""Runs of one machine that use the same GPUs wait for each other; others do not."""

import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest

from tapir_core.config import StudentConfig
from tapir_core.errors import EngineError, Stopped
from tapir_core.stages import StageAt
from tasks.engines import machine
from tasks.engines.machine import GPUS_VARIABLE, Gpus, hold_gpus
from tasks.engines.vllm import VllmServer
from tasks.runtime import close_all, current
from tasks.train import make_student, training_lease
from tests import waiting
from tests.tasks.engines.test_student_server import fake_python, make_checkpoint, make_engine, make_server
from tests.tasks.trained_run import make_trained_run

AT = StageAt("train", 0)

OTHER_RUN = """
import time
from tasks.engines.machine import hold_gpus
with hold_gpus(print, lambda: None):
    print("has it", flush=True)
    time.sleep(60)
"""

wait_until = partial(waiting.wait_until, seconds=20, every=0.01)


@pytest.fixture(autouse=True)
def _gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that no other test has."""
    monkeypatch.setenv(GPUS_VARIABLE, f"{tmp_path.name}-a,{tmp_path.name}-b")


def fail() -> None:
    raise Stopped("told to stop")


def test_who_has_no_gpu_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(GPUS_VARIABLE, "")
    with hold_gpus(pytest.fail, fail), hold_gpus(pytest.fail, fail):
        pass


def test_workers_that_share_a_machine_out_do_not_wait_for_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hold_gpus(pytest.fail, fail):
        monkeypatch.setenv(GPUS_VARIABLE, f"{tmp_path.name}-c")
        with hold_gpus(pytest.fail, fail):
            pass


def test_a_wait_that_is_ended_leaves_the_others_gpus_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setenv(GPUS_VARIABLE, f"{tmp_path.name}-b")
    with hold_gpus(pytest.fail, fail):
        monkeypatch.setenv(GPUS_VARIABLE, f"{tmp_path.name}-b,{tmp_path.name}-a")
        with pytest.raises(Stopped), hold_gpus(told.append, fail):
            pass
        monkeypatch.setenv(GPUS_VARIABLE, f"{tmp_path.name}-a")
        with hold_gpus(pytest.fail, fail):
            pass
    assert told == [f"GPU {tmp_path.name}-b is in use by another run of this machine, which is waited for"]


def test_what_a_killed_process_had_is_free() -> None:
    with subprocess.Popen([sys.executable, "-c", OTHER_RUN], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout
        assert other.stdout.readline() == "has it\n"
        looks: list[bool] = []

        def look() -> None:
            looks.append(other.poll() is None)
            other.kill()

        with hold_gpus(lambda _: None, look):
            pass
        assert looks[0], "it was waited for while it lived"


def test_a_server_waits_for_another_runs_until_that_is_stopped(tmp_path: Path) -> None:
    python, checkpoint, told = fake_python(tmp_path), make_checkpoint(tmp_path), list[str]()
    first = make_server(tmp_path, python)
    second = VllmServer(StudentConfig(engine=make_engine(python)), tmp_path / "second.log", told.append)
    first.start(checkpoint)
    starting = threading.Thread(target=second.start, args=(checkpoint,))
    starting.start()
    wait_until(lambda: told)
    assert "in use by another run" in told[0]
    assert not second.runs
    first.stop()
    starting.join()
    assert second.runs
    second.stop()
    with hold_gpus(pytest.fail, fail):
        pass


def test_a_server_that_waits_is_ended_at_once(tmp_path: Path) -> None:
    server = make_server(tmp_path, fake_python(tmp_path))
    with hold_gpus(pytest.fail, fail):
        server.abort()
        with pytest.raises(EngineError, match="told to stop"):
            server.start(make_checkpoint(tmp_path))


def test_a_server_that_does_not_start_leaves_the_gpus_free(tmp_path: Path) -> None:
    with pytest.raises(EngineError):
        make_server(tmp_path, fake_python(tmp_path, before="sys.exit(3)")).start(make_checkpoint(tmp_path))
    with hold_gpus(pytest.fail, fail):
        pass


def test_a_training_waits_and_can_be_stopped_then(tmp_path: Path) -> None:
    run = make_trained_run(tmp_path)
    with hold_gpus(pytest.fail, fail):
        current(run).stop()
        with training_lease(run, AT) as lease, pytest.raises(Stopped):
            make_student(run, AT, lease, lambda _: None)
    close_all()
    assert run.holds(AT) is None
    with training_lease(run, AT) as lease:
        make_student(run, AT, lease, lambda _: None)
    assert run.holds(AT) is not None


def test_a_run_waits_for_no_gpu_that_it_holds_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(GPUS_VARIABLE, f"{tmp_path.name}-shared")
    gpus = Gpus()
    with gpus.hold(pytest.fail, fail):
        with gpus.hold(pytest.fail, fail):
            pass
        with pytest.raises(Stopped), hold_gpus(lambda _: None, fail):
            pass
    with hold_gpus(pytest.fail, fail):
        pass


@pytest.mark.parametrize(
    ("limit", "used", "free"), [("1000", "400", 600), ("max", "400", None), (str(2**60), "400", None)]
)
def test_free_memory_is_that_of_the_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, used: str, free: int | None
) -> None:
    monkeypatch.setenv(GPUS_VARIABLE, "")
    (tmp_path / "memory.max").write_text(limit)
    (tmp_path / "memory.current").write_text(used)
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    found = machine.free_memory()
    assert found == free if free else found > 1000
