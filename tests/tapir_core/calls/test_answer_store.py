import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tapir_core.calls import Answer, AnswerStore, Failure, FailureKind, Outcome, Request, Spend
from tapir_core.calls.wire import Reply
from tapir_core.errors import ConfigError, MissingPrerequisite, TapirError
from tests.doubles.provider import make_request


def answer(text: str = "fine", *, usd: float = 0.0) -> Reply:
    return Reply(Answer(text, "stop", 10, 5, usd), Spend(1, 10, 5, usd), raw="{}")


def put(store: AnswerStore, request: Request, reply: Reply) -> Outcome:
    return store.put(request.key, request, reply).result(timeout=30)


def test_what_was_put_is_found_again_marked_as_stored(store_url: str):
    request = make_request("a")
    with AnswerStore(store_url) as store:
        assert put(store, request, answer("é \u202e 漢")) == Answer("é \u202e 漢", "stop", 10, 5)
        assert store.lookup([request.key]) == {request.key: Answer("é \u202e 漢", "stop", 10, 5, stored=True)}


@pytest.mark.parametrize("kind", ["refused", "too_long", "bad_request"])
def test_a_terminal_failure_is_stored_with_its_message(store_url: str, kind: FailureKind):
    request = make_request()
    with AnswerStore(store_url) as store:
        put(store, request, Reply(Failure(kind, "no", attempts=2), Spend(2), raw="{}"))
        assert store.lookup([request.key]) == {request.key: Failure(kind, "no", attempts=2, stored=True)}


def test_a_retryable_failure_is_not_accepted(store_url: str):
    with AnswerStore(store_url) as store, pytest.raises(AssertionError, match="never stored"):
        store.put("k", make_request(), Reply(Failure("timeout", "slow")))


def test_it_survives_closing_and_unknown_keys_are_left_out(store_url: str):
    requests = [make_request(str(number)) for number in range(20)]
    with AnswerStore(store_url) as store:
        for request in requests[:10]:
            put(store, request, answer(request.messages[0].content))
    with AnswerStore(store_url) as store:
        found = store.lookup([request.key for request in requests])
        assert set(found) == {request.key for request in requests[:10]} == store.known([r.key for r in requests])


def test_many_keys_are_looked_up_in_several_queries(store_url: str):
    keys = [f"key {number}" for number in range(12_000)]
    there = keys[::100]
    with AnswerStore(store_url) as store:
        for put in [store.put(key, make_request(), answer()) for key in there]:
            put.result(timeout=60)
        assert store.known(keys) == set(store.lookup(keys)) == set(there)


def test_the_first_to_store_a_key_wins_and_the_second_is_told(store_url: str):
    request = make_request()
    with AnswerStore(store_url) as one, AnswerStore(store_url) as other:
        put(one, request, answer("first"))
        assert put(other, request, answer("second")) == Answer("first", "stop", 10, 5, stored=True)


def test_equal_keys_in_one_commit_all_get_the_first_answer(store_url: str):
    request = make_request()
    with AnswerStore(store_url) as store:
        puts = [store.put(request.key, request, answer(text)) for text in ("first", "second", "third")]
        assert {each.result(timeout=30).text for each in puts} == {"first"}


def test_threads_may_put_and_look_up_at_once(store_url: str):
    with AnswerStore(store_url) as store:
        found: list[int] = []

        def work(number: int) -> None:
            requests = [make_request(f"{number}-{each}") for each in range(20)]
            for request in requests:
                put(store, request, answer())
            found.append(len(store.lookup([request.key for request in requests])))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [20] * 8


def test_every_column_says_what_it_should(store_url: str, tmp_path: Path):
    request = make_request("q", role="judge", prompt_version="abc", sample_index=3, run="r1")
    with AnswerStore(store_url) as store:
        put(store, request, answer(usd=0.25))
    with sqlite3.connect(tmp_path / "store.sqlite") as database:
        database.row_factory = sqlite3.Row
        row = dict(database.execute("SELECT * FROM answers").fetchone())
        created = row.pop("created")
        assert database.execute("SELECT value FROM meta WHERE name = 'schema_version'").fetchone()[0] == "5"
        assert database.execute("SELECT julianday('now') - julianday(?)", [created]).fetchone()[0] < 0.01
    assert row == {
        "key": request.key,
        "role": "judge",
        "model": "fake-model",
        "identity": "fake-1",
        "prompt_version": "abc",
        "run": "r1",
        "sample_index": 3,
        "status": "answer",
        "text": "fine",
        "finish_reason": "stop",
        "message": "",
        "attempts": 1,
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "usd": 0.25,
        "raw": "{}",
    }


@pytest.mark.parametrize("version", ["4", "99"])
def test_a_store_of_another_schema_is_refused_and_left_as_it_is(store_url: str, tmp_path: Path, version: str):
    AnswerStore(store_url).close()
    with sqlite3.connect(tmp_path / "store.sqlite") as database:
        database.execute("UPDATE meta SET value = ? WHERE name = 'schema_version'", [version])
        database.execute("DROP TABLE shards")
    with pytest.raises(ConfigError, match=f"has schema version {version}, this version of tapir knows 5"):
        AnswerStore(store_url)
    with sqlite3.connect(tmp_path / "store.sqlite") as database:
        assert database.execute("SELECT value FROM meta WHERE name = 'schema_version'").fetchone()[0] == version
        assert not database.execute("SELECT name FROM sqlite_master WHERE name = 'shards'").fetchall()


def test_an_answer_costs_nothing_beside_its_attempts(store_url: str):
    with AnswerStore(store_url) as store:
        put(store, make_request("a", run="r1"), answer(usd=0.5))
        store.add_seconds("r1", "teach", 2.5).result(timeout=30)
        assert store.spend_by_role("r1") == {"teach": Spend(seconds=2.5)}
        assert store.spend_by_role("unknown") == {}


def test_a_closed_store_says_so(store_url: str):
    store = AnswerStore(store_url)
    store.close()
    store.close()
    with pytest.raises(TapirError, match="closed"):
        put(store, make_request(), answer())


def test_what_was_queued_is_committed_when_the_store_closes(store_url: str):
    requests = [make_request(str(number)) for number in range(700)]
    store = AnswerStore(store_url)
    for request in requests:
        store.put(request.key, request, answer())
    store.close()
    with AnswerStore(store_url) as again:
        assert len(again.known([request.key for request in requests])) == 700


def test_a_store_that_cannot_be_written_fails_whoever_waits_for_it(store_url: str, tmp_path: Path):
    with AnswerStore(store_url) as store:
        with sqlite3.connect(tmp_path / "store.sqlite") as database:
            database.execute("DROP TABLE answers")
        database.close()
        with pytest.raises(TapirError, match="cannot be written"):
            put(store, make_request(), answer())


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///:memory:", "mysql://host/db", "not a url", "postgresql://host"]
)
def test_an_unsupported_url_is_refused_with_an_example(url: str):
    with pytest.raises(ConfigError, match="sqlite:///path"):
        AnswerStore(url)


def test_a_path_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MissingPrerequisite, match="file/store"):
        AnswerStore(f"sqlite:///{tmp_path}/file/store.sqlite")


def test_a_new_store_that_another_process_keeps_locked_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tapir_core.calls.store_tables.BUSY_SECONDS", 0.05)
    locked = sqlite3.connect(tmp_path / "store.sqlite", isolation_level=None)
    locked.execute("BEGIN EXCLUSIVE")
    with pytest.raises(MissingPrerequisite, match=r"store\.sqlite.*locked"):
        AnswerStore(f"sqlite:///{tmp_path}/store.sqlite")
    locked.close()


def test_a_new_store_that_another_process_locks_for_a_moment_is_waited_for(tmp_path: Path):
    locked = sqlite3.connect(tmp_path / "store.sqlite", isolation_level=None, check_same_thread=False)
    locked.execute("BEGIN EXCLUSIVE")
    unlock = threading.Timer(0.1, locked.close)
    unlock.start()
    with AnswerStore(f"sqlite:///{tmp_path}/store.sqlite") as store:
        assert store.known(["a"]) == set()
    unlock.join()


def test_a_database_that_is_not_there_is_named_without_its_password():
    with pytest.raises(MissingPrerequisite) as raised:
        AnswerStore("postgresql://me:hunter2@127.0.0.1:1/tapir")
    assert "127.0.0.1" in str(raised.value)
    assert "hunter2" not in str(raised.value)


PUT_AND_REPORT = """
import sys
from tapir_core.calls import Answer, AnswerStore
from tapir_core.calls.wire import Reply
from tests.doubles.provider import make_request

url, name, rows = sys.argv[1], sys.argv[2], int(sys.argv[3])
store = AnswerStore(url)
for number in range(rows):
    request = make_request(str(number))
    outcome = store.put(request.key, request, Reply(Answer(f"{name} {number}", "stop", 1, 1))).result()
    print(outcome.text, flush=True)
"""


def start_writer(url: str, name: str, rows: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PUT_AND_REPORT, url, name, str(rows)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_an_answer_that_was_committed_survives_a_kill(store_url: str):
    writer = start_writer(store_url, "one", 100_000)
    assert writer.stdout is not None
    reported = [writer.stdout.readline().strip() for _ in range(20)]
    os.kill(writer.pid, signal.SIGKILL)
    reported += writer.stdout.read().split("\n")[:-1]
    writer.stdout.close()
    writer.wait()
    with AnswerStore(store_url) as store:
        found = store.lookup([make_request(str(number)).key for number in range(len(reported))])
    assert {outcome.text for outcome in found.values()} == set(reported)


def test_several_processes_open_one_new_store_and_agree_on_every_answer(store_url: str):
    writers = [start_writer(store_url, name, 30) for name in ("one", "two", "three")]
    reports = [writer.communicate(timeout=60)[0].splitlines() for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert reports[0] == reports[1] == reports[2]
    assert len(reports[0]) == 30


def test_importing_the_front_door_loads_neither_sdk_nor_database_library():
    code = "import sys, json, tapir_core.calls; print(json.dumps(list(sys.modules)))"
    loaded = json.loads(subprocess.check_output([sys.executable, "-c", code]))
    assert not {"openai", "aiohttp", "httpx2", "sqlalchemy"} & set(loaded)
