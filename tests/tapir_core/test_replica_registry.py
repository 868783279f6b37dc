"""The registry of replicas: asked for, taken by one process, serving, gone."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tapir_core.errors import TapirError
from tapir_core.leases import Replica, ReplicaRegistry, RunLease
from tests.tapir_core.store_admin.store_rows import sql

TAKE = """
import sys
from tapir_core.leases import ReplicaRegistry

assert ReplicaRegistry(sys.argv[1], "a-run").take(sys.argv[2])
print("taken", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def registry(store_url: str) -> Iterator[ReplicaRegistry]:
    registry = ReplicaRegistry(store_url, "a-run")
    yield registry
    registry.close()


def only(registry: ReplicaRegistry) -> Replica:
    (replica,) = registry.all()
    return replica


def test_a_replica_is_asked_for_taken_serves_and_is_forgotten(registry: ReplicaRegistry):
    asked = registry.ask(2, "identity")
    found = only(registry)
    assert (found.id, found.round, found.checkpoint) == (asked, 2, "identity")
    assert (found.holder, found.base_url, found.leaving, found.is_dead()) == (None, "", False, False)
    taken = registry.take(asked)
    assert taken is not None
    assert taken.holder is not None
    assert taken.holder.pid == os.getpid()
    registry.serve(asked, "http://127.0.0.1:1/v1", 64)
    assert (only(registry).base_url, only(registry).concurrency) == ("http://127.0.0.1:1/v1", 64)
    assert registry.is_wanted(asked)
    registry.remove(asked)
    assert registry.all() == []
    assert not registry.is_wanted(asked)


def test_one_process_takes_it_and_what_nobody_asks_for_is_taken_by_none(
    registry: ReplicaRegistry, store_url: str
) -> None:
    asked = registry.ask(1, "identity")
    assert registry.take(asked) is not None
    assert registry.take(asked) is None
    assert registry.take("unknown") is None
    assert ReplicaRegistry(store_url, "another-run").take(registry.ask(1, "identity")) is None


def test_dismissed_ones_are_told_to_leave_and_those_that_nobody_took_are_forgotten(registry: ReplicaRegistry):
    taken, untaken = registry.ask(1, "identity"), registry.ask(1, "identity")
    registry.take(taken)
    assert registry.dismiss() == [untaken]
    assert only(registry).leaving
    assert not registry.is_wanted(taken)
    assert registry.take(untaken) is None


def test_other_runs_are_left_alone(registry: ReplicaRegistry, store_url: str):
    registry.ask(1, "identity")
    other = ReplicaRegistry(store_url, "another-run")
    assert other.all() == []
    assert other.dismiss() == []
    assert len(registry.all()) == 1


def test_one_whose_process_was_killed_is_dead_at_once(registry: ReplicaRegistry, store_url: str):
    asked = registry.ask(1, "identity")
    command = [sys.executable, "-c", TAKE, store_url, asked]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "taken\n"
        assert not only(registry).is_dead()
        os.kill(process.pid, signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert only(registry).is_dead()


def test_one_of_another_machine_is_dead_after_a_minute_without_heartbeat(registry: ReplicaRegistry, store_url: str):
    asked = registry.ask(1, "identity")
    registry.take(asked)
    for silent, dead in ((50, False), (61, True)):
        sql(store_url, f"UPDATE replicas SET host = 'elsewhere', heartbeat = datetime('now', '-{silent} seconds')")
        assert only(registry).is_dead() is dead
    registry.beat(asked)
    assert not only(registry).is_dead()


def test_a_run_is_driven_while_its_lease_is_held_and_a_minute_after_a_driver_was_killed(
    registry: ReplicaRegistry, store_url: str
):
    assert not registry.is_driven()
    with RunLease(store_url, "a-run"):
        assert registry.is_driven()
        sql(store_url, "UPDATE leases SET heartbeat = datetime('now', '-50 seconds')")
        assert registry.is_driven()
        sql(store_url, "UPDATE leases SET heartbeat = datetime('now', '-61 seconds')")
        assert not registry.is_driven()
    assert not registry.is_driven()


def test_a_store_of_an_earlier_version_gets_the_table(store_url: str, registry: ReplicaRegistry):
    sql(store_url, "DROP TABLE replicas")
    again = ReplicaRegistry(store_url, "a-run")
    assert again.all() == []
    again.close()


def test_a_database_that_is_away_is_an_error_of_ours(store_url: str, registry: ReplicaRegistry):
    sql(store_url, "DROP TABLE replicas")
    for call in (registry.all, registry.dismiss):
        with pytest.raises(TapirError, match="the call store cannot be reached: no such table: replicas"):
            call()
