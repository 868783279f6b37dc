"""Processes that share a store never pay for the same request twice, and the dead hold nobody up."""

import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from datetime import timedelta

import pytest
from sqlalchemy import insert, select, update

from tapir_core.calls import Answer, AnswerStore, CallEngine, Outcome
from tapir_core.calls.holder import Holder
from tapir_core.calls.store_tables import claims, database_time, holders, open_engine, writing
from tapir_core.calls.types import Claimed
from tapir_core.config import CallsConfig
from tests.doubles.provider import FakeProvider
from tests.tapir_core.calls import engine_helpers
from tests.tapir_core.calls.engine_helpers import prompts
from tests.tapir_core.store_admin.store_rows import sql

CLAIM_AND_HANG = """
import sys, time
from tapir_core.calls import AnswerStore

store = AnswerStore(sys.argv[1])
print(*(each.name for each in store.claim(sys.argv[2:]).result(timeout=30)), flush=True)
time.sleep(600)
"""


def states(store: AnswerStore, *keys: str) -> list[Claimed]:
    return store.claim(keys).result(timeout=30)


def test_who_claims_first_sends_and_the_other_waits_until_the_claim_ends(store_url: str):
    with AnswerStore(store_url) as one, AnswerStore(store_url) as other:
        assert states(one, "a", "b") == [Claimed.OURS, Claimed.OURS]
        assert states(other, "b", "c") == [Claimed.ELSEWHERE, Claimed.OURS]
        one.release("b").result(timeout=30)
        assert states(other, "b") == [Claimed.OURS]


def test_closing_gives_every_claim_up(store_url: str):
    with AnswerStore(store_url) as one:
        states(one, "a")
    with AnswerStore(store_url) as other:
        assert states(other, "a") == [Claimed.OURS]


def test_two_engines_that_ask_the_same_at_once_pay_once(store_url: str, quick: CallsConfig):
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
    assert all(isinstance(each, Answer) for each in outcomes[0])
    assert [each.text for each in outcomes[0]] == [each.text for each in outcomes[1]]
    paid = sum(not each.stored for several in outcomes.values() for each in several)
    assert paid == 200


def test_the_claims_of_a_killed_process_free_themselves_at_once(store_url: str):
    AnswerStore(store_url).close()
    command = [sys.executable, "-c", CLAIM_AND_HANG, store_url, "a", "b"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().split() == ["OURS", "OURS"]
    with AnswerStore(store_url) as store:
        assert states(store, "a") == [Claimed.ELSEWHERE]
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert states(store, "a", "b") == [Claimed.OURS, Claimed.OURS]


@pytest.mark.parametrize(("silent_seconds", "state"), [(5, Claimed.ELSEWHERE), (61, Claimed.OURS)])
def test_a_claim_of_another_machine_lapses_after_a_minute_of_silence(
    store_url: str, silent_seconds: int, state: Claimed
):
    engine = open_engine(store_url)
    elsewhere = replace(Holder.this_process(), host="elsewhere")
    with writing(engine) as connection:
        heartbeat = database_time(connection) - timedelta(seconds=silent_seconds)
        connection.execute(insert(holders).values(id="other", heartbeat=heartbeat, **asdict(elsewhere)))
        connection.execute(insert(claims).values(key="a", holder="other"))
    engine.dispose()
    with AnswerStore(store_url) as store:
        assert states(store, "a") == [state]


def test_an_interrupted_asker_gives_up_what_it_had_claimed(store_url: str, quick: CallsConfig):
    def interrupt(_: int, __: Outcome) -> None:
        raise KeyboardInterrupt

    with FakeProvider(latency_seconds=0.02) as provider, engine_helpers.open_engine(store_url, quick) as engine:
        with pytest.raises(KeyboardInterrupt):
            engine.ask(prompts(40), lambda: provider.endpoint(concurrency=2), on_outcome=interrupt)
        keys = [each.key for each in prompts(40)]
        with AnswerStore(store_url) as other:
            # They are free with the interrupted engine's next commit; what was on its way may be answered by then.
            deadline = time.monotonic() + 10
            while Claimed.ELSEWHERE in (found := states(other, *keys)):
                assert time.monotonic() < deadline, "claims were kept by an asker that is gone"
            answered = other.known(keys)
            assert len(answered) < len(keys)
            assert found == [Claimed.ANSWERED if key in answered else Claimed.OURS for key in keys]


def test_what_was_answered_meanwhile_is_not_sent(store_url: str, engine: CallEngine):
    with FakeProvider() as provider:
        engine.ask(prompts(1), provider.endpoint)
    with AnswerStore(store_url) as other:
        assert states(other, prompts(1)[0].key) == [Claimed.ANSWERED]


def test_the_heart_of_a_store_beats_while_it_is_open(store_url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tapir_core.calls.answer_store.HEARTBEAT_SECONDS", 0.02)
    with AnswerStore(store_url) as store:
        states(store, "a")
        sql(store_url, "UPDATE holders SET heartbeat = datetime('now', '-1 day')")
        while sql(store_url, "SELECT julianday('now') - julianday(heartbeat) > 0.5 FROM holders") == [(1,)]:
            time.sleep(0.01)
    assert sql(store_url, "SELECT * FROM holders") == []


def test_a_living_process_that_is_slow_keeps_its_claims(store_url: str):
    with AnswerStore(store_url) as one, AnswerStore(store_url) as other:
        states(one, "a")
        engine = open_engine(store_url)
        with writing(engine) as connection:
            long_ago = database_time(connection) - timedelta(hours=1)
            connection.execute(update(holders).values(heartbeat=long_ago))
            assert connection.execute(select(claims.c.key)).scalars().all() == ["a"]
        engine.dispose()
        assert states(other, "a") == [Claimed.ELSEWHERE]
