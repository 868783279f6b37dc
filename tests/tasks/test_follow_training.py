"""A driver follows what a worker trains: it starts nothing twice, and starts again what was lost."""

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
from prefect.client.schemas.objects import FlowRun

from tapir_core.data.dataset import DatasetRef, Part
from tapir_core.errors import EngineError
from tapir_core.leases import RunLease
from tapir_core.paths import attempt_folder
from tapir_core.run_folder import RunFolder
from tapir_core.stages import StageAt
from tasks.engines.training.launch import Attempt, TrainingProgress
from tasks.train import MOST_LOST, follow_training, training_lease
from tests.doubles.trainings import ScriptedTrainings
from tests.run_builder import build_run

AT = StageAt("train", 0)
LONG = 400
"""Looks: more than a process takes to begin."""


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return build_run(tmp_path, until=StageAt("mix", 0))


def seal(run: RunFolder) -> None:
    run.storage.write_bytes(f"{AT.folder}/model.safetensors", b"weights")
    run.seal(AT, [Part("model.safetensors", 0, "a" * 64)])


def completes(run: RunFolder, *before: str) -> Iterator[str]:
    yield from before
    seal(run)
    yield "COMPLETED"


def follow(run: RunFolder, runs: ScriptedTrainings, notes: list[str] | None = None) -> DatasetRef:
    note = [].append if notes is None else notes.append
    return follow_training(run, AT, runs, training_lease(run, AT), note, poll_seconds=0)


def hold(run: RunFolder, number: int, *, dead: bool = False) -> RunLease:
    """The lease as an attempt has it, or as it leaves it when it is killed."""
    lease = training_lease(run, AT, ScriptedTrainings.token(number))
    lease.acquire()
    if dead:
        with sqlite3.connect(Path(run.ref.root, ".tapir/store.sqlite")) as database:
            database.execute("UPDATE leases SET boot_id = 'an earlier boot'")
        database.close()
    return lease


def test_a_training_that_runs_is_followed_to_its_end_and_no_other_is_started(run: RunFolder) -> None:
    runs, notes = ScriptedTrainings([completes(run, "RUNNING", "RUNNING")]), []
    assert follow(run, runs, notes) == run.holds(AT)
    assert runs.asked == [1]
    assert runs.declared == []
    assert notes == ["flow run attempt-1: Running"]


def test_who_waits_for_a_worker_is_told_so(run: RunFolder) -> None:
    notes: list[str] = []
    follow(run, ScriptedTrainings([completes(run, "SCHEDULED", "PENDING")]), notes)
    assert notes[0].startswith("waiting for a worker of tapir-gpu")


def test_what_the_trainer_writes_is_noted(run: RunFolder) -> None:
    key = run.key(AT)
    assert key is not None
    file = Attempt(run.workplace.local(attempt_folder(0, key))).progress_file
    file.parent.mkdir(parents=True)
    file.write_text("of an earlier start\n")

    def script() -> Iterator[str]:
        yield "RUNNING"
        yield "RUNNING"
        with file.open("a") as log:
            log.write(json.dumps(asdict(TrainingProgress(3, 8, 1.25, 4096, 512.0, 9.0))) + "\n")
        yield from completes(run, "RUNNING", "RUNNING")

    notes: list[str] = []
    follow(run, ScriptedTrainings([script()]), notes)
    assert notes == ["flow run attempt-1: Running", *["step 3/8, loss 1.250, 512 tokens/s, 9.0 s left"] * 2]


def test_a_lost_training_is_started_again(run: RunFolder) -> None:
    runs = ScriptedTrainings([["RUNNING", "CRASHED"], completes(run, "RUNNING")])
    follow(run, runs)
    assert runs.asked == [1, 2]


def test_attempts_that_ended_before_this_drive_came_are_no_answer_to_it(run: RunFolder) -> None:
    earlier: list[list[str]] = [["CRASHED"], ["CANCELLED"], ["FAILED"], ["CRASHED"], ["CRASHED"]]
    runs = ScriptedTrainings([*earlier, completes(run, "RUNNING")])
    follow(run, runs)
    assert runs.asked == [1, 2, 3, 4, 5, 6]


def test_what_kills_every_attempt_ends_the_run(run: RunFolder) -> None:
    runs = ScriptedTrainings([["RUNNING", "CRASHED"]] * MOST_LOST)
    with pytest.raises(EngineError, match="3 trainings in a row were lost"):
        follow(run, runs)


def test_a_failed_training_is_told_in_its_own_words(run: RunFolder) -> None:
    with pytest.raises(EngineError, match=r"the training failed, flow run 'attempt-1' \(Failed\)"):
        follow(run, ScriptedTrainings([["RUNNING", "FAILED"]]))


def test_a_training_that_a_person_cancels_is_not_started_again(run: RunFolder) -> None:
    with pytest.raises(EngineError, match=r"was cancelled.*\*Retry\*"):
        follow(run, ScriptedTrainings([["RUNNING", "CANCELLING", "CANCELLED"]]))


def test_a_training_whose_process_is_gone_is_declared_lost_though_it_stands_as_running(run: RunFolder) -> None:
    hold(run, 1, dead=True)
    runs = ScriptedTrainings([["RUNNING", "RUNNING"], completes(run, "RUNNING")])
    follow(run, runs)
    assert runs.declared == [("attempt-1", "CRASHED")]


def test_an_attempt_that_a_worker_took_and_never_began_makes_room_for_the_next(run: RunFolder) -> None:
    runs = ScriptedTrainings([["SCHEDULED", *["PENDING"] * LONG], completes(run, "PENDING", "RUNNING")])
    follow(run, runs)
    assert runs.asked == [1, 2]
    assert runs.declared == [("attempt-1", "CRASHED")]


def test_who_waits_for_a_worker_may_wait_long(run: RunFolder) -> None:
    runs = ScriptedTrainings([completes(run, *["SCHEDULED"] * LONG, "PENDING", "RUNNING")])
    follow(run, runs)
    assert runs.declared == []


def test_a_container_may_take_long_to_begin(run: RunFolder) -> None:
    runs = ScriptedTrainings([completes(run, *["PENDING"] * LONG, "RUNNING")], in_container=True)
    follow(run, runs)
    assert runs.declared == []


def test_a_training_that_works_is_waited_for_though_it_stands_as_pending(run: RunFolder) -> None:
    lease = hold(run, 1)

    def script() -> Iterator[str]:
        yield from ["PENDING"] * LONG
        lease.release()
        yield from completes(run)

    runs = ScriptedTrainings([script()])
    follow(run, runs)
    assert runs.declared == []


def test_a_lease_that_an_earlier_attempt_left_says_nothing_of_the_next_one(run: RunFolder) -> None:
    hold(run, 1, dead=True)
    runs = ScriptedTrainings([["CRASHED"], completes(run, "PENDING", "RUNNING", "RUNNING")])
    follow(run, runs)
    assert runs.declared == []


def test_a_training_that_works_is_waited_for_though_it_stands_as_crashed(run: RunFolder) -> None:
    lease, looks = hold(run, 1), []

    def note(_: str) -> None:
        looks.append(1)
        if len(looks) == 3:
            seal(run)
            lease.release()

    runs = ScriptedTrainings([["RUNNING", "CRASHED"]])
    follow_training(run, AT, runs, training_lease(run, AT), note, poll_seconds=0)
    assert runs.asked == [1]
    assert len(looks) == 3


def test_a_training_that_was_being_cancelled_when_its_worker_died_makes_room_for_the_next(run: RunFolder) -> None:
    hold(run, 1, dead=True)
    runs = ScriptedTrainings([["CANCELLING", "CANCELLING"], completes(run, "RUNNING")])
    follow(run, runs)
    assert runs.declared == [("attempt-1", "CANCELLED")]


@pytest.mark.parametrize(("raised", "cancelled"), [(KeyboardInterrupt, True), (OSError, False)])
def test_an_interrupt_of_the_driver_cancels_the_training_and_an_error_does_not(
    run: RunFolder, raised: type[BaseException], cancelled: bool
) -> None:
    def note(_: str) -> None:
        raise raised

    runs = ScriptedTrainings([["RUNNING", "RUNNING"]])
    with pytest.raises(raised):
        follow_training(run, AT, runs, training_lease(run, AT), note, poll_seconds=0)
    assert runs.declared == ([("attempt-1", "CANCELLING")] if cancelled else [])


def test_an_interrupt_is_told_as_one_though_the_server_is_away(run: RunFolder) -> None:
    class Away(ScriptedTrainings):
        def declare(self, *_: object) -> FlowRun:
            raise EngineError("away")

    def note(_: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        follow_training(run, AT, Away([["RUNNING", "RUNNING"]]), training_lease(run, AT), note, poll_seconds=0)


def test_a_worker_that_works_in_another_root_is_named_as_the_fault(run: RunFolder) -> None:
    with pytest.raises(EngineError, match="TAPIR_ROOT"):
        follow(run, ScriptedTrainings([["RUNNING", "COMPLETED"]]))
