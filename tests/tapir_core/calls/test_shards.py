"""Who asks a list of requests holds it: who wants the same waits, nobody pays twice, and the dead hold nobody up."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import datetime, timedelta

import pytest
from sqlalchemy import Connection, insert, select, update

from tapir_core.calls import Answer, AnswerStore, CallEngine, Endpoint, Failure, Outcome, Watch
from tapir_core.calls.budget import LOST_HOLD
from tapir_core.calls.store_tables import database_time, holders, open_engine, shards, writing
from tapir_core.calls.store_writes import beat, give_shard_back, leave, take_shard
from tapir_core.config import CallsConfig
from tapir_core.processes import Holder
from tests.doubles.provider import FakeProvider, FakeReply, RecordedCall, Text
from tests.tapir_core.calls import engine_helpers
from tests.tapir_core.calls.engine_helpers import prompts
from tests.tapir_core.store_admin.store_rows import sql

TAKE_AND_HANG = """
import sys, time
from tapir_core.calls import AnswerStore

store = AnswerStore(sys.argv[1])
print(store.take_shard(sys.argv[2]), flush=True)
time.sleep(600)
"""


@pytest.fixture
def connection(store_url: str) -> Iterator[Connection]:
    engine = open_engine(store_url)
    with writing(engine) as connection:
        yield connection
    engine.dispose()


def take(connection: Connection, shard: str, holder: str = "me") -> bool:
    return take_shard(connection, holder, False, shard=shard)


def test_who_holds_a_list_may_take_it_again_and_another_only_when_it_is_given_back(store_url: str) -> None:
    with AnswerStore(store_url) as one, AnswerStore(store_url) as other:
        assert one.take_shard("a")
        assert one.take_shard("a")
        assert not other.take_shard("a")
        assert other.take_shard("b")
        other.give_shard_back("a").result(timeout=30)
        assert not other.take_shard("a"), "only its holder gives it back"
        one.give_shard_back("a").result(timeout=30)
        assert other.take_shard("a")
    with AnswerStore(store_url) as late:
        assert late.take_shard("a"), "who closes holds nothing"


def test_engines_that_ask_the_same_at_once_pay_once(store_url: str, quick: CallsConfig) -> None:
    outcomes: dict[int, list[Outcome]] = {}

    def ask(which: int) -> None:
        with engine_helpers.open_engine(store_url, quick) as engine:
            outcomes[which] = engine.ask(prompts(200), lambda: provider.endpoint(concurrency=8))

    with FakeProvider(latency_seconds=0.02) as provider:
        threads = [threading.Thread(target=ask, args=(which,)) for which in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(provider.calls) == 200
    texts = [[each.text for each in several if isinstance(each, Answer)] for several in outcomes.values()]
    assert texts[0] == texts[1] == texts[2]
    assert len(texts[0]) == 200
    assert sum(not each.stored for several in outcomes.values() for each in several) == 200


def test_who_waits_for_an_endpoint_holds_no_list_that_another_waits_for(store_url: str, quick: CallsConfig) -> None:
    """As a run does that waits for the GPU on which the other one serves its teacher."""
    served, late = threading.Event(), list[Outcome]()

    def wait_for_the_gpu() -> Endpoint:
        assert served.wait(30)
        return provider.endpoint()

    def ask_late() -> None:
        with engine_helpers.open_engine(store_url, quick) as engine:
            late.extend(engine.ask(prompts(9), wait_for_the_gpu))

    with FakeProvider() as provider, engine_helpers.open_engine(store_url, quick) as engine:
        waiting = threading.Thread(target=ask_late)
        waiting.start()
        asked = engine.ask(prompts(9), provider.endpoint)
        served.set()
        waiting.join()
        assert len(provider.calls) == 9
    assert [each.stored for each in (*asked, *late)] == [False] * 9 + [True] * 9


def test_threads_of_one_engine_that_ask_the_same_at_once_pay_once(engine: CallEngine) -> None:
    def ask() -> None:
        answered.extend(engine.ask(prompts(40), lambda: provider.endpoint(concurrency=8)))

    answered: list[Outcome] = []
    with FakeProvider(latency_seconds=0.02) as provider:
        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(provider.calls) == 40
    assert len(answered) == 120
    assert sum(not each.stored for each in answered) == 40


def test_who_waits_for_a_list_and_is_stopped_waits_no_longer(store_url: str, engine: CallEngine) -> None:
    from tapir_core.text import digest

    with AnswerStore(store_url) as other, FakeProvider() as provider:
        assert other.take_shard(digest(sorted(each.key for each in prompts(3))))
        stop = threading.Timer(0.2, engine.stop_sending)
        stop.start()
        outcomes = engine.ask(prompts(3), provider.endpoint)
        stop.join()
        assert [each.kind for each in outcomes if isinstance(each, Failure)] == ["stopped"] * 3
        assert provider.calls == []


def test_the_lists_of_a_killed_process_are_free_at_once(store_url: str) -> None:
    AnswerStore(store_url).close()
    command = [sys.executable, "-c", TAKE_AND_HANG, store_url, "a"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "True"
    with AnswerStore(store_url) as store:
        assert not store.take_shard("a")
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert store.take_shard("a")


@pytest.mark.parametrize(("silent_seconds", "free"), [(5, False), (61, True)])
def test_a_list_of_another_machine_is_free_after_a_minute_of_silence(
    store_url: str, silent_seconds: int, free: bool
) -> None:
    engine = open_engine(store_url)
    elsewhere = replace(Holder.this_process(), host="elsewhere")
    with writing(engine) as connection:
        heartbeat = database_time(connection) - timedelta(seconds=silent_seconds)
        connection.execute(insert(holders).values(id="other", heartbeat=heartbeat, **asdict(elsewhere)))
        connection.execute(insert(shards).values(shard="a", holder="other"))
    engine.dispose()
    with AnswerStore(store_url) as store:
        assert store.take_shard("a") is free


def test_a_living_process_that_is_slow_keeps_what_it_holds(store_url: str) -> None:
    with AnswerStore(store_url) as one, AnswerStore(store_url) as other:
        assert one.take_shard("a")
        engine = open_engine(store_url)
        with writing(engine) as connection:
            long_ago = database_time(connection) - timedelta(hours=1)
            connection.execute(update(holders).values(heartbeat=long_ago))
        engine.dispose()
        assert not other.take_shard("a")


def test_who_was_taken_for_dead_sends_nothing_more_until_it_holds_the_list_again(
    store_url: str, engine: CallEngine
) -> None:
    def lose_everything(_: RecordedCall) -> FakeReply:
        if len(provider.calls) == 4:
            # As a process of another machine finds it that had been silent for a minute.
            sql(store_url, "DELETE FROM holders")
            sql(store_url, "DELETE FROM shards")
        return Text("fine")

    with FakeProvider(lose_everything) as provider:
        first = engine.ask(prompts(20), lambda: provider.endpoint(concurrency=1))
        lost = [each for each in first if isinstance(each, Failure)]
        assert {(each.kind, each.message) for each in lost} == {("connection", LOST_HOLD)}
        sent = len(provider.calls)
        assert sent == 20 - len(lost) < 20
        again = engine.ask(prompts(20), lambda: provider.endpoint(concurrency=1))
        assert all(isinstance(each, Answer) for each in again)
        assert len(provider.calls) == 20


def test_an_interrupted_asker_holds_nothing_and_what_it_had_not_sent_is_free(
    store_url: str, quick: CallsConfig
) -> None:
    def interrupt(_: int, __: Outcome) -> None:
        raise KeyboardInterrupt

    with FakeProvider(latency_seconds=0.02) as provider, engine_helpers.open_engine(store_url, quick) as engine:
        with pytest.raises(KeyboardInterrupt):
            engine.ask(prompts(40), lambda: provider.endpoint(concurrency=2), Watch(interrupt))
        with engine_helpers.open_engine(store_url, quick) as other:
            outcomes = other.ask(prompts(40), provider.endpoint)
        assert all(isinstance(each, Answer) for each in outcomes)
        assert len(provider.calls) <= 40 + 2, "only what was in flight may be sent twice"


def test_the_heart_of_a_store_beats_while_it_is_open(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tapir_core.processes.HEARTBEAT_SECONDS", 0.02)
    with AnswerStore(store_url) as store:
        store.take_shard("a")
        sql(store_url, "UPDATE holders SET heartbeat = datetime('now', '-1 day')")
        while sql(store_url, "SELECT julianday('now') - julianday(heartbeat) > 0.5 FROM holders") == [(1,)]:
            time.sleep(0.01)
    assert sql(store_url, "SELECT * FROM holders") == []


@pytest.mark.parametrize(("gone", "stays"), [("me", "you"), ("you", "me")])
def test_a_holder_that_goes_leaves_the_lists_of_others(connection: Connection, gone: str, stays: str) -> None:
    assert take(connection, "a", stays)
    assert take(connection, "b", gone)
    leave(connection, gone)
    assert connection.execute(select(holders.c.id)).scalars().all() == [stays]
    assert (take(connection, "a", "they"), take(connection, "b", "they")) == (False, True)


def die(connection: Connection, holder: str) -> None:
    """Its process number belongs to another process from now on."""
    gone = {"process_started": holders.c.process_started - 100}
    connection.execute(update(holders).where(holders.c.id == holder).values(gone))


def test_who_is_gone_loses_its_lists_and_who_is_here_keeps_them(connection: Connection) -> None:
    assert take(connection, "a", "you")
    assert take(connection, "b", "gone")
    die(connection, "gone")
    assert (take(connection, "a"), take(connection, "b")) == (False, True)


def test_when_nobody_could_beat_only_who_is_known_to_be_gone_loses_its_lists(connection: Connection) -> None:
    for holder in ("me", "you", "gone"):
        assert take(connection, holder, holder)
    die(connection, "gone")
    connection.execute(update(holders).values(heartbeat=datetime(2026, 1, 1)))
    take(connection, "another")
    assert {*connection.execute(select(holders.c.id)).scalars()} == {"me", "you"}


def test_who_was_taken_for_dead_and_goes_on_can_die_again(connection: Connection) -> None:
    assert take(connection, "a", "you")
    leave(connection, "you")
    assert take(connection, "a", "you")
    assert not take(connection, "a")
    die(connection, "you")
    assert take(connection, "a")


def test_giving_back_leaves_the_list_of_another_holder(connection: Connection) -> None:
    assert take(connection, "a", "you")
    give_shard_back(connection, "me", False, shard="a")
    assert not take(connection, "a", "they"), "it would be sent, and paid, twice"


@pytest.mark.parametrize(("who", "other"), [("me", "you"), ("you", "me")])
def test_a_beat_is_the_sign_of_life_of_one_holder_and_brings_nobody_back(
    connection: Connection, who: str, other: str
) -> None:
    long_ago = datetime(2026, 1, 1)
    for holder in (who, other):
        take(connection, holder, holder)
    connection.execute(update(holders).values(heartbeat=long_ago))
    beat(connection, who)
    beats = dict(connection.execute(select(holders.c.id, holders.c.heartbeat)).tuples().all())
    assert beats[who] > long_ago == beats[other]
    leave(connection, who)
    beat(connection, who)
    assert connection.execute(select(holders.c.id)).scalars().all() == [other]
