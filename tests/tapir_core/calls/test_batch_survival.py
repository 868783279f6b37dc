"""A batch outlives whoever made it: kills, interrupts, other processes, a provider that forgets or cancels."""

import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import openai
import pytest

from tapir_core.calls import AnswerStore, CallEngine, Endpoint, Failure, Outcome, Request
from tapir_core.calls.batch_client import write_file
from tapir_core.calls.store_writes import note_batch
from tapir_core.config import BudgetConfig
from tests import waiting
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
    plan_batch,
    sums,
)
from tests.tapir_core.calls.engine_helpers import never, texts
from tests.tapir_core.store_admin.store_rows import sql

pytestmark = pytest.mark.slow

wait_until = partial(waiting.wait_until, seconds=20, every=0.01)

ROOT = Path(__file__).parents[3]
FAST = BatchRules(seconds=0.1)
ASK = """
import signal, sys
from tests.tapir_core.calls.batch_helpers import batch_endpoint, open_batch_engine, sums

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts us in the background has it ignored
url, base_url = sys.argv[1:]
with open_batch_engine(url) as engine:
    engine.ask(sums(40), lambda: batch_endpoint(base_url, max_rows=20))
"""


def provider(server: StandinServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=server.base_url, api_key="none", max_retries=0)


def leave_behind(store_url: str, requests: list[Request], *, base_url: str, file_id: str = "", tokens: int = 0) -> str:
    """A batch in the store as a process leaves it that dies after planning it, or after its upload; gives its tag."""
    rows = {request.key: request for request in requests}
    with AnswerStore(store_url) as store:
        store.lead(plan_batch("a-tag", base_url, rows, tokens=tokens)).result(timeout=30)
        if file_id:
            store.lead(partial(note_batch, tag="a-tag", state="uploaded", input_file_id=file_id)).result(timeout=30)
    return "a-tag"


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_a_batch_goes_on_without_its_asker_and_the_same_command_takes_its_answers(
    store_url: str, tmp_path: Path, sent: int
):
    log_path = tmp_path / "log.jsonl"
    AnswerStore(store_url).close()
    with StandinServer(batches=BatchRules(seconds=2), log_path=log_path) as server:
        command = [sys.executable, "-c", ASK, store_url, server.base_url]
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        wait_until(lambda: batch_states(store_url) == [("made", 20)] * 2)
        os.kill(process.pid, sent)
        _, said = process.communicate(timeout=30)
        assert process.returncode == -sent
        assert batch_states(store_url) == [("made", 20)] * 2
        if sent == signal.SIGINT:
            assert said.count("the same command takes its answers") == 2
        subprocess.run(command, cwd=ROOT, timeout=60, check=True)
        with provider(server) as client:
            assert len(client.batches.list().data) == 2
    assert len(logged(log_path)) == 40
    assert paid_twice(log_path) == []
    with open_batch_engine(store_url) as engine:
        assert texts(engine.ask(sums(40), never)) == expected(40)
        assert engine.paid()["teach"].requests == 40


def test_three_processes_that_ask_the_same_share_one_batch(store_url: str, tmp_path: Path):
    log_path, outcomes = tmp_path / "log.jsonl", dict[int, list[Outcome]]()
    AnswerStore(store_url).close()

    def ask(which: int) -> None:
        with open_batch_engine(store_url) as engine:
            outcomes[which] = engine.ask(sums(30), lambda: batch_endpoint(server))

    with StandinServer(batches=BatchRules(seconds=0.5), log_path=log_path) as server:
        threads = [threading.Thread(target=ask, args=(which,)) for which in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [texts(outcomes[which]) for which in range(3)] == [expected(30)] * 3
    assert len(logged(log_path)) == 30
    assert sum(not each.stored for several in outcomes.values() for each in several) == 30
    assert batch_states(store_url)[0] == ("completed", 30)


@pytest.mark.parametrize("died", ["before the upload", "before the creation", "before its id was noted"])
def test_a_death_while_a_batch_is_made_makes_no_second_one(store_url: str, tmp_path: Path, died: str):
    log_path = tmp_path / "log.jsonl"
    with StandinServer(batches=FAST, log_path=log_path) as server, provider(server) as client:
        content = write_file({r.key: r for r in sums(10)}, Endpoint("", 1))
        file_id = ""
        if died != "before the upload":
            file_id = client.files.create(file=("input.jsonl", content), purpose="batch").id
        tag = leave_behind(store_url, sums(10), base_url=server.base_url, file_id=file_id)
        if died == "before its id was noted":
            client.batches.create(
                input_file_id=file_id,
                endpoint="/v1/chat/completions",
                completion_window="24h",
                metadata={"tapir": tag},
            )
        with open_batch_engine(store_url) as engine:
            assert texts(engine.ask(sums(10), lambda: batch_endpoint(server))) == expected(10)
        assert len(client.batches.list().data) == 1
    assert len(logged(log_path)) == 10


def test_a_batch_whose_id_was_not_noted_is_found_behind_a_hundred_newer_ones(store_url: str):
    made = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}
    with StandinServer(batches=FAST) as server, provider(server) as client:
        content = write_file({r.key: r for r in sums(3)}, Endpoint("", 1))
        file_id = client.files.create(file=("input.jsonl", content), purpose="batch").id
        client.batches.create(input_file_id=file_id, **made)
        other_id = client.files.create(file=("other.jsonl", content), purpose="batch").id
        for _ in range(110):
            client.batches.create(input_file_id=other_id, **made)
        leave_behind(store_url, sums(3), base_url=server.base_url, file_id=file_id)
        with open_batch_engine(store_url) as engine:
            assert texts(engine.ask(sums(3), lambda: batch_endpoint(server))) == expected(3)
        assert len(list(client.batches.list(limit=100))) == 111


def test_who_asks_for_a_part_of_a_batch_stores_all_of_it(store_url: str):
    with StandinServer(batches=FAST) as server, provider(server) as client:
        content = write_file({r.key: r for r in sums(10)}, Endpoint("", 1))
        file_id = client.files.create(file=("input.jsonl", content), purpose="batch").id
        leave_behind(store_url, sums(10), base_url=server.base_url, file_id=file_id)
        with open_batch_engine(store_url) as engine:
            assert texts(engine.ask(sums(12)[9:], lambda: batch_endpoint(server))) == expected(12)[9:]
            assert texts(engine.ask(sums(10), never)) == expected(10)


def test_live_calls_wait_for_what_is_in_a_batch_and_make_the_rest(store_url: str, tmp_path: Path):
    log_path = tmp_path / "log.jsonl"
    with StandinServer(batches=FAST, log_path=log_path) as server, provider(server) as client:
        content = write_file({r.key: r for r in sums(10)}, Endpoint("", 1))
        file_id = client.files.create(file=("input.jsonl", content), purpose="batch").id
        leave_behind(store_url, sums(10), base_url=server.base_url, file_id=file_id)
        with open_batch_engine(store_url) as engine:
            live = replace(batch_endpoint(server), batch=None)
            assert texts(engine.ask(sums(15), lambda: live)) == expected(15)
    assert sorted(line["batch"] is None for line in logged(log_path)) == [False] * 10 + [True] * 5


@pytest.mark.parametrize("mode", ["batch", "live"])
def test_what_a_batch_reserved_that_nobody_asks_for_leaves_no_asker_waiting_for_room(store_url: str, mode: str):
    leave_behind(store_url, sums(10), base_url="http://127.0.0.1:9/v1", file_id="a-file")
    with StandinServer(batches=FAST) as server:
        endpoint = batch_endpoint(server) if mode == "batch" else replace(batch_endpoint(server), batch=None)
        budget = BudgetConfig(requests=12)
        with CallEngine(AnswerStore(store_url), QUICK, run="a-run", budget=budget) as engine:
            outcomes = engine.ask(sums(14)[10:], lambda: endpoint)
            assert Counter(texts(outcomes))["budget"] == 2
            assert engine.spend().cap_reached.endswith("Of 10 requests (0 USD) no reply has told the cost")


def test_a_batch_that_is_taken_over_may_make_room_for_other_requests(store_url: str):
    with StandinServer(batches=FAST) as server, provider(server) as client:
        content = write_file({r.key: r for r in sums(10)}, Endpoint("", 1))
        file_id = client.files.create(file=("input.jsonl", content), purpose="batch").id
        leave_behind(store_url, sums(10), base_url=server.base_url, file_id=file_id, tokens=500)
        budget = BudgetConfig(tokens=5_000)
        with CallEngine(AnswerStore(store_url), QUICK, run="a-run", budget=budget) as engine:
            assert texts(engine.ask(sums(12), lambda: batch_endpoint(server))) == expected(12)


def test_what_a_cancelled_batch_answered_is_kept_and_the_rest_is_asked_by_the_next_command(
    store_url: str, tmp_path: Path
):
    log_path = tmp_path / "log.jsonl"
    with StandinServer(batches=BatchRules(seconds=3), log_path=log_path) as server, provider(server) as client:

        def cancel() -> None:
            wait_until(lambda: log_path.exists() and len(logged(log_path)) >= 10)
            client.batches.cancel(client.batches.list().data[0].id)

        thread = threading.Thread(target=cancel)
        thread.start()
        with open_batch_engine(store_url) as engine:
            outcomes = engine.ask(sums(60), lambda: batch_endpoint(server))
        thread.join()
        failures = [each for each in outcomes if isinstance(each, Failure)]
        assert 0 < len(failures) <= 50
        assert all(each.retryable and "was cancelled" in each.message for each in failures)
        assert batch_states(store_url) == [("cancelled", 60)]
    with StandinServer(batches=FAST) as server, open_batch_engine(store_url) as engine:
        assert texts(engine.ask(sums(60), lambda: batch_endpoint(server))) == expected(60)
        assert engine.spend().answers == len(failures)


@pytest.mark.parametrize("price", [0.0, 2.0])
def test_a_batch_that_the_provider_forgot_is_asked_again_only_where_that_is_free(store_url: str, price: float):
    with StandinServer(batches=BatchRules(seconds=600)) as server:
        leave_behind(store_url, sums(5), base_url=server.base_url, file_id="file-gone")
        sql(store_url, "UPDATE batches SET state = 'made', provider_id = 'batch_gone'")
    with StandinServer(batches=FAST) as server, open_batch_engine(store_url) as engine:
        outcomes = engine.ask(sums(5), lambda: batch_endpoint(server, price=price))
        if price:
            (message,) = {each.message for each in outcomes if isinstance(each, Failure) and each.retryable}
            assert "does not know batch batch_gone" in message
            assert batch_states(store_url) == [("made", 5)]
            assert server.stats()["requests"] == 0
        else:
            assert texts(outcomes) == expected(5)
            assert batch_states(store_url) == [("lost", 5), ("completed", 5)]


def test_who_waits_for_the_batch_of_another_process_takes_what_it_brings(store_url: str, tmp_path: Path):
    log_path, brought = tmp_path / "log.jsonl", list[Outcome]()

    def ask_for_ten() -> None:
        with open_batch_engine(store_url) as engine:
            brought.extend(engine.ask(sums(10), lambda: batch_endpoint(server)))

    with StandinServer(batches=BatchRules(seconds=1), log_path=log_path) as server:
        thread = threading.Thread(target=ask_for_ten)
        thread.start()
        wait_until(lambda: batch_states(store_url) == [("made", 10)])
        with open_batch_engine(store_url) as engine:
            outcomes = engine.ask(sums(12), lambda: batch_endpoint(server))
        thread.join()
    assert texts(outcomes) == expected(12)
    assert [each.stored for each in outcomes] == [True] * 10 + [False] * 2
    assert texts(brought) == expected(10)
    assert paid_twice(log_path) == []
    assert batch_states(store_url) == [("completed", 10), ("completed", 2)]
