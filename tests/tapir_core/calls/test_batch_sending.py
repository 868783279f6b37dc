"""Batches against the real stand-in: every row gets its outcome, and no fault of the provider is paid twice."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import select

from tapir_core.calls import (
    Answer,
    AnswerStore,
    CallEngine,
    Endpoint,
    Failure,
    Message,
    Outcome,
    Request,
    Watch,
    batch_client,
)
from tapir_core.calls.store_tables import answers, open_engine
from tapir_core.calls.wire import Reply, read_completion
from tapir_core.config import BudgetConfig
from tapir_core.errors import ConfigError, TapirError
from tests.doubles.batches import BatchRules
from tests.doubles.standin import StandinServer
from tests.tapir_core.calls.batch_helpers import (
    QUICK,
    batch_endpoint,
    batch_states,
    expected,
    logged,
    open_batch_engine,
    paid_twice,
    sums,
)
from tests.tapir_core.calls.engine_helpers import never, texts
from tests.tapir_core.store_admin.store_rows import sql

FAST = BatchRules(seconds=0.1)


def test_a_batch_answers_every_row_in_the_order_of_the_requests_and_tells_each_as_it_is_stored(
    store_url: str, tmp_path: Path
):
    told: dict[int, Outcome] = {}
    log_path = tmp_path / "log.jsonl"
    with StandinServer(batches=FAST, log_path=log_path) as server, open_batch_engine(store_url) as engine:
        outcomes = engine.ask(sums(60), lambda: batch_endpoint(server), Watch(told.__setitem__))
        assert texts(outcomes) == expected(60)
        assert told == dict(enumerate(outcomes))
        assert engine.spend().sent == engine.spend().answers == 60
    assert {line["batch"] is None for line in logged(log_path)} == {False}
    assert paid_twice(log_path) == []
    assert batch_states(store_url) == [("completed", 60)]
    with open_batch_engine(store_url) as engine:
        assert texts(engine.ask(sums(60), never)) == expected(60)


def test_the_raw_reply_of_a_batch_is_that_of_a_live_call(store_url: str):
    with StandinServer(batches=FAST) as server, open_batch_engine(store_url) as engine:
        engine.ask(sums(5), lambda: batch_endpoint(server))
    database = open_engine(store_url)
    with database.connect() as connection:
        bodies = [json.loads(raw) for raw in connection.execute(select(answers.c.raw)).scalars()]
    database.dispose()
    assert [body["object"] for body in bodies] == ["chat.completion"] * 5
    assert not any("custom_id" in body for body in bodies)


def test_files_are_split_by_rows_and_by_bytes(store_url: str):
    with StandinServer(batches=BatchRules(seconds=0.05, max_rows=25)) as server, open_batch_engine(store_url) as engine:
        assert texts(engine.ask(sums(60), lambda: batch_endpoint(server, max_rows=25))) == expected(60)
        assert batch_states(store_url) == [("completed", 25), ("completed", 25), ("completed", 10)]
    other_url = store_url.replace("store", "other")
    with StandinServer(batches=BatchRules(seconds=0.05, max_bytes=3000)) as server:
        with open_batch_engine(other_url) as engine:
            outcomes = engine.ask(sums(20), lambda: batch_endpoint(server, max_bytes=3000))
        assert texts(outcomes) == expected(20)
    assert len(batch_states(other_url)) > 1


def test_failed_and_expired_rows_are_asked_again_in_other_batches(store_url: str, tmp_path: Path):
    rules = BatchRules(seconds=0.05, expire_share=0.2, fail_share=0.2)
    log_path = tmp_path / "log.jsonl"
    config = QUICK.model_copy(update={"retries": QUICK.retries.model_copy(update={"timeout": 12})})
    with StandinServer(batches=rules, log_path=log_path) as server, open_batch_engine(store_url, config) as engine:
        assert texts(engine.ask(sums(80), lambda: batch_endpoint(server))) == expected(80)
        spent = engine.paid()["teach"]
    outcomes = Counter(line["outcome"] for line in logged(log_path))
    assert outcomes["answered"] == 80
    assert outcomes["failed"] > 0
    # What expired was never made: it counts as no request.
    assert spent.requests == outcomes.total()
    states = batch_states(store_url)
    assert states[0] == ("expired", 80)
    assert [rows for _, rows in states] == sorted((rows for _, rows in states), reverse=True)


def test_rows_that_always_fail_end_as_retryable_failures_after_their_limit(store_url: str):
    config = QUICK.model_copy(update={"retries": QUICK.retries.model_copy(update={"server": 2, "timeout": 3})})
    with StandinServer(batches=BatchRules(seconds=0.02, fail_share=1)) as server:
        with open_batch_engine(store_url, config) as engine:
            outcomes = engine.ask(sums(5), lambda: batch_endpoint(server))
        assert batch_states(store_url) == [("completed", 5)] * 2
    assert {(each.kind, each.attempts, each.retryable) for each in outcomes if isinstance(each, Failure)} == {
        ("server", 2, True)
    }
    expiring = BatchRules(seconds=0.02, expire_share=1)
    with StandinServer(batches=expiring) as server, open_batch_engine(store_url, config) as engine:
        outcomes = engine.ask(sums(5), lambda: batch_endpoint(server))
        assert engine.paid()["teach"].requests == 10, "what expired was not made"
    assert texts(outcomes) == ["timeout"] * 5


def test_a_refusal_is_stored_and_a_wrong_row_loses_no_other(store_url: str):
    essay = replace(sums(1)[0], messages=(Message("user", "Write an essay about the sea."),))
    with StandinServer(batches=FAST) as server, open_batch_engine(store_url) as engine:
        assert texts(engine.ask([*sums(2), essay], lambda: batch_endpoint(server))) == [*expected(2), "refused"]
        assert texts(engine.ask([essay], never)) == ["refused"]


def test_a_file_that_the_provider_refuses_is_one_clear_error_for_all_its_rows(store_url: str):
    with StandinServer(batches=BatchRules(seconds=0.02, max_rows=3)) as server, open_batch_engine(store_url) as engine:
        outcomes = engine.ask(sums(5), lambda: batch_endpoint(server))
        assert batch_states(store_url) == [("failed", 5)]
        (message,) = {each.message for each in outcomes if isinstance(each, Failure) and each.retryable}
        assert "more than the 3" in message
        assert "batch.max_rows" in message
        assert texts(engine.ask(sums(5), lambda: batch_endpoint(server, max_rows=3))) == expected(5)


@pytest.mark.parametrize("fault", ["500", "429", "reset"])
def test_faults_at_upload_creation_and_polling_are_survived_without_a_second_batch(
    store_url: str, tmp_path: Path, fault: str
):
    log_path = tmp_path / "log.jsonl"
    faults = f"{fault}=0.4,retry_after_seconds=0.01"
    with StandinServer(batches=FAST, faults=faults, log_path=log_path) as server:
        with open_batch_engine(store_url) as engine:
            outcomes = engine.ask(sums(30), lambda: batch_endpoint(server, max_rows=10))
        assert texts(outcomes) == expected(30)
    assert paid_twice(log_path) == []
    assert [rows for _, rows in batch_states(store_url)] == [10, 10, 10]


def test_a_provider_that_takes_no_file_is_one_clear_error_and_nothing_stays_claimed(store_url: str):
    config = QUICK.model_copy(update={"max_attempts": 3})
    with StandinServer(faults="500@0-") as server, open_batch_engine(store_url, config) as engine:
        outcomes = engine.ask(sums(4), lambda: batch_endpoint(server))
        (message,) = {each.message for each in outcomes if isinstance(each, Failure)}
        assert "takes no batch" in message
    assert batch_states(store_url) == [("refused", 4)]
    with StandinServer(batches=FAST) as server, open_batch_engine(store_url) as engine:
        assert texts(engine.ask(sums(4), lambda: batch_endpoint(server))) == expected(4)


def test_a_batch_reserves_before_it_is_made_and_settles_row_by_row(store_url: str):
    with StandinServer(batches=FAST) as server:
        with CallEngine(AnswerStore(store_url), QUICK, run="a-run", budget=BudgetConfig(requests=7)) as engine:
            outcomes = engine.ask(sums(10), lambda: batch_endpoint(server, price=1.0))
            assert Counter(texts(outcomes))["budget"] == 3
            assert "budget.requests" in engine.spend().cap_reached
            paid = engine.paid()["teach"]
        assert paid.requests == 7
        answers = [each for each in outcomes if isinstance(each, Answer)]
        assert paid.usd == pytest.approx(sum(each.usd for each in answers))
        assert paid.usd > 0


@pytest.mark.parametrize("table", ["batches", "attempts"])
def test_a_store_that_fails_while_a_batch_is_made_ends_the_ask_with_its_reason(store_url: str, table: str):
    with StandinServer(batches=FAST) as server, open_batch_engine(store_url) as engine:
        sql(store_url, f"DROP TABLE {table}")
        with pytest.raises(TapirError, match="cannot be written"):
            engine.ask(sums(2), lambda: batch_endpoint(server))
        assert server.stats()["requests"] == 0


def test_an_address_with_a_password_is_refused_before_anything_is_claimed(store_url: str):
    with open_batch_engine(store_url) as engine, pytest.raises(ConfigError, match="password"):
        engine.ask(sums(1), lambda: batch_endpoint("http://me:pass@127.0.0.1:9/v1"))
    assert batch_states(store_url) == []


def test_a_row_that_three_batches_bring_no_answer_to_is_put_into_no_other(store_url: str, monkeypatch):
    read = batch_client.read_line

    def blocked(line: bytes, endpoint: Endpoint, requests: Mapping[str, Request]) -> tuple[str, Reply] | None:
        key, reply = read(line, endpoint, requests) or ("", None)
        body = json.dumps({"choices": [], "note": "not that one"})
        return key, read_completion(body, endpoint) if key == sums(1)[0].key else reply

    monkeypatch.setattr(batch_client, "read_line", blocked)
    with StandinServer(batches=FAST) as server, open_batch_engine(store_url) as engine:
        outcomes = engine.ask(sums(4), lambda: batch_endpoint(server))
        assert texts(outcomes) == ["no_answer", *expected(4)[1:]]
        assert [rows for _, rows in batch_states(store_url)] == [4, 1, 1]
        assert texts(engine.ask(sums(4), never)) == texts(outcomes)
