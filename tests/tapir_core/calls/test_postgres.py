"""The store and the lease on a PostgreSQL server that the test starts itself."""

import subprocess
import sys
from collections.abc import Iterator

import pytest
from sqlalchemy import create_engine, func, make_url, select, text

from tapir_core.calls import Answer, AnswerStore, CallEngine, Failure, Spend
from tapir_core.calls.budget import Attempt, Settlement
from tapir_core.calls.store_tables import open_engine
from tapir_core.calls.store_writes import LOCK
from tapir_core.calls.wire import Reply
from tapir_core.config import BudgetConfig, CallsConfig
from tapir_core.errors import RunBusy
from tapir_core.leases import ReplicaRegistry, RunLease
from tapir_core.store_admin import gather_stats
from tests.doubles.batches import BatchRules
from tests.doubles.provider import FakeProvider, make_request
from tests.doubles.standin import StandinServer
from tests.postgres_server import needs_postgres, run_postgres
from tests.tapir_core.calls.batch_helpers import (
    batch_endpoint,
    batch_states,
    expected,
    open_batch_engine,
    plan_batch,
    sums,
)
from tests.tapir_core.calls.engine_helpers import texts
from tests.tapir_core.calls.test_odd_replies import ODD, keep_beside_others

pytestmark = [needs_postgres, pytest.mark.slow]


@pytest.fixture(scope="module")
def postgres_url() -> Iterator[str]:
    with run_postgres() as url:
        yield url


def test_a_database_without_an_encoding_keeps_texts_as_they_are(postgres_url: str):
    server = create_engine(postgres_url.replace("postgresql:", "postgresql+psycopg:"), isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.execute(text("CREATE DATABASE plain ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0"))
    server.dispose()
    request = make_request("漢", run="plain")
    with AnswerStore(make_url(postgres_url).set(database="plain").render_as_string(hide_password=False)) as store:
        store.put(request.key, request, Reply(Answer("fine 漢", "stop", 2, 1))).result(timeout=30)
        stored = store.lookup([request.key])[request.key]
    assert isinstance(stored, Answer)
    assert stored.text == "fine 漢"


def test_the_store_works_on_postgresql_as_on_sqlite(postgres_url: str):
    requests = [make_request(str(number), run="pg") for number in range(600)]
    refused = make_request("refused", run="pg")
    with AnswerStore(postgres_url) as store, AnswerStore(postgres_url) as other:
        reply = Reply(Answer("fine\n\u202e 漢", "stop", 2, 1, 0.5), Spend(1, 2, 1, 0.5), raw='"\\u0000"')
        puts = [store.put(request.key, request, reply) for request in requests]
        assert all(put.result(timeout=30) == reply.outcome for put in puts)
        store.put(refused.key, refused, Reply(Failure("refused", "no", 1))).result(timeout=30)
        late = other.put(requests[0].key, requests[0], Reply(Answer("late", "stop", 0, 0))).result(timeout=30)
        assert late == Answer("fine\n\u202e 漢", "stop", 2, 1, 0.5, stored=True)
        found = other.lookup([*(request.key for request in requests), refused.key])
        assert len(found) == 601
        assert found[refused.key] == Failure("refused", "no", 1, stored=True)
        wanted = [Attempt(number, "pg", "teach", "key", Spend(1, 20, 10, 1.0)) for number in range(3)]
        *booked, refusal = store.book(wanted, BudgetConfig(usd=2.0)).result(timeout=30)
        assert booked == ["", ""]
        assert "budget.usd = 2 is reached" in refusal
        store.settle(Settlement(0, "answer", Spend(1, 2, 1, 0.5))).result(timeout=30)
        assert other.spend_by_role("pg") == {"teach": Spend(2, 22, 11, 1.5)}


def test_the_engine_asks_nothing_twice_on_postgresql(postgres_url: str):
    requests = [make_request(f"engine {number}") for number in range(20)]
    with FakeProvider() as provider:
        for _ in range(2):
            with CallEngine(AnswerStore(postgres_url), CallsConfig(), run="a-run") as engine:
                engine.ask(requests, provider.endpoint)
        assert len(provider.calls) == 20


def test_replicas_are_registered_on_postgresql_as_on_sqlite(postgres_url: str):
    registry = ReplicaRegistry(postgres_url, "served-run")
    with RunLease(postgres_url, "served-run"):
        assert registry.is_driven()
        taken, untaken = registry.ask(1, "identity"), registry.ask(1, "identity")
        assert registry.take(taken) is not None
        registry.serve(taken, "http://127.0.0.1:1/v1", 8)
        registry.beat(taken)
        assert [each.is_dead() for each in registry.all()] == [False, False]
        assert registry.dismiss() == [untaken]
        assert not registry.is_wanted(taken)
        registry.abandon(taken)
        assert [each.is_dead() for each in registry.all()] == [True]
        registry.remove(taken)
        assert registry.all() == []
    registry.close()


def test_two_processes_never_look_for_room_at_the_same_time(postgres_url: str):
    waiting = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
    engine = open_engine(postgres_url)
    with AnswerStore(postgres_url) as store, engine.connect() as other, engine.connect() as observer:
        other.execute(select(func.pg_advisory_xact_lock(LOCK)))
        booked = store.book([Attempt(977, "another-run", "teach", "a", Spend(1))], BudgetConfig(requests=1))
        while observer.execute(waiting).scalar() != 1:
            assert not booked.done()
        other.commit()
        assert booked.result(timeout=30) == [""]
    engine.dispose()


def test_a_batch_left_on_postgresql_is_taken_over_and_its_failed_rows_go_into_others(postgres_url: str):
    requests = {request.key: request for request in sums(30, run="batched")}
    with StandinServer(batches=BatchRules(seconds=0.05, fail_share=0.3)) as server:
        with AnswerStore(postgres_url) as store:
            store.lead(plan_batch("a-tag", server.base_url, requests)).result(timeout=30)
        with open_batch_engine(postgres_url) as engine:
            outcomes = engine.ask(list(requests.values()), lambda: batch_endpoint(server))
    assert texts(outcomes) == expected(30)
    (dropped, first, *rest) = batch_states(postgres_url)
    assert (dropped, first) == (("dropped", 30), ("completed", 30))
    assert rest


ASK_FOR_A_SHARE = """
import sys
from tapir_core.calls import Answer, AnswerStore, CallEngine, Endpoint
from tapir_core.config import BudgetConfig, CallsConfig, Sampling
from tests.doubles.provider import make_request

url, base_url, which = sys.argv[1:]
endpoint = Endpoint(base_url, 8, usd_per_million_prompt_tokens=1000.0, usd_per_million_completion_tokens=1000.0)
mine = [make_request(f"{which}: {number}", sampling=Sampling(max_tokens=8), run="shared") for number in range(30)]
with CallEngine(AnswerStore(url), CallsConfig(), run="shared", budget=BudgetConfig(usd=1.2)) as engine:
    print(sum(isinstance(each, Answer) for each in engine.ask(mine, lambda: endpoint)))
"""


@pytest.mark.operations
def test_eight_processes_share_one_cap(postgres_url: str):
    with FakeProvider(latency_seconds=0.02) as provider:
        commands = [[sys.executable, "-c", ASK_FOR_A_SHARE, postgres_url, provider.base_url, str(n)] for n in range(8)]
        processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
        answered = [int(process.communicate(timeout=120)[0]) for process in processes]
        assert sum(answered) == len(provider.calls)
    # 0.015 USD each: 80 fit, and near the cap a reservation of 0.03 may find no room.
    assert 78 <= sum(answered) <= 80
    with AnswerStore(postgres_url) as store:
        assert store.spend_by_role("shared")["teach"].usd <= 1.2 + 1e-9


def test_one_driver_a_run_on_postgresql(postgres_url: str):
    with RunLease(postgres_url, "a-run") as lease:
        with pytest.raises(RunBusy, match="last sign of life 0 s ago"):
            RunLease(postgres_url, "a-run").acquire()
        assert lease.holds()
    with RunLease(postgres_url, "a-run") as again:
        assert again.holds()


def test_replies_that_it_takes_no_text_or_number_of_are_kept(postgres_url: str):
    for odd in ODD.values():
        keep_beside_others(odd, postgres_url, CallsConfig(backoff_seconds=0.01))


def test_a_long_identity_is_counted_where_its_answers_are_used_again(postgres_url: str):
    asked = make_request("again", identity="a template " * 900)
    with FakeProvider() as provider:
        for _ in range(2):
            with CallEngine(AnswerStore(postgres_url), CallsConfig(), run="a") as engine:
                assert texts(engine.ask([asked], provider.endpoint)) == ["echo: again"]
        assert len(provider.calls) == 1
    engine = open_engine(postgres_url)
    (group,) = [each for each in gather_stats(engine).groups if each.identity == asked.identity]
    engine.dispose()
    assert group.reused == 1
