import json
import os
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer

import psutil
import pytest

from flows.prefect_server.caretaker import Post, worker_environment
from flows.prefect_server.server import (
    answers,
    check_database,
    check_entry,
    check_own_password,
    ignore_settings,
    prepare_prefect,
    server_command,
    server_environment,
    stop_server,
    wait_until_healthy,
)
from tapir_core.errors import EngineError, MissingPrerequisite
from tapir_core.paths import PREFECT_HOME, SERVER_RECORD
from tapir_core.processes import Holder
from tasks.engines.supervisor import start_child
from tests.harness.processes import free_port

SERVER = {
    "PREFECT_SERVER_API_AUTH_STRING": "admin:pass",
    "PREFECT_SERVER_DATABASE_PASSWORD": "sesame",
    "PREFECT_SERVER_DATABASE_CONNECTION_URL": "postgresql+asyncpg://prefect:sesame@host/prefect",
}


class Guarded(BaseHTTPRequestHandler):
    """Answers who says `admin:pass`."""

    def do_GET(self):
        self.send_response(200 if self.headers["Authorization"] == "Basic YWRtaW46cGFzcw==" else 401)
        self.end_headers()

    def log_message(self, *_):
        return


@pytest.fixture
def guarded():
    with HTTPServer(("127.0.0.1", 0), Guarded) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/api"
        server.shutdown()
        thread.join()


def test_a_page_behind_a_password_is_there_for_who_gives_it(guarded, monkeypatch):
    monkeypatch.delenv("PREFECT_API_AUTH_STRING", raising=False)
    assert not answers(f"{guarded}/work_pools/tapir-cpu")
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "admin:pass")
    assert answers(f"{guarded}/work_pools/tapir-cpu")
    check_entry(guarded)


@pytest.mark.parametrize("password", [None, "admin:guessed"])
def test_a_server_that_wants_another_password_is_named_with_the_variable_that_holds_it(guarded, monkeypatch, password):
    monkeypatch.delenv("PREFECT_API_AUTH_STRING", raising=False)
    if password:
        monkeypatch.setenv("PREFECT_API_AUTH_STRING", password)
    with pytest.raises(MissingPrerequisite, match=rf"{guarded} wants another password than PREFECT_API_AUTH_STRING"):
        check_entry(guarded)


def test_a_server_that_would_not_let_us_in_is_not_started(monkeypatch):
    monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", "admin:pass")
    monkeypatch.delenv("PREFECT_API_AUTH_STRING", raising=False)
    with pytest.raises(MissingPrerequisite, match="export both"):
        check_own_password()
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "admin:pass")
    check_own_password()


def test_the_server_gets_its_own_secrets_and_no_key_and_a_worker_the_other_way_round(tmp_path, monkeypatch):
    for name, value in {**SERVER, "OPENAI_API_KEY": "key", "PREFECT_API_AUTH_STRING": "admin:pass"}.items():
        monkeypatch.setenv(name, value)
    server = server_environment(str(tmp_path), "http://127.0.0.1:1")
    assert {name: server.get(name) for name in SERVER} == SERVER
    assert "OPENAI_API_KEY" not in server
    worker = worker_environment(Post("tapir-cpu"), str(tmp_path), "http://127.0.0.1:1/api")
    assert worker.keys() & SERVER.keys() == set()
    assert (worker["OPENAI_API_KEY"], worker["PREFECT_API_AUTH_STRING"]) == ("key", "admin:pass")


LAST_WORDS = {
    "alembic.util.exc.CommandError: Can't locate revision identified by 'ffff0000'": "newer Prefect .* move .* away",
    "sqlite3.DatabaseError: file is not a database": "move .* away",
    "sqlalchemy.exc.DatabaseError: (sqlite3.DatabaseError) database disk image is malformed": "move .* away",
    "sqlite3.OperationalError: attempt to write a readonly database": "let this user write to",
    "PermissionError: [Errno 13] Permission denied: '/runs/.tapir/prefect/prefect.db'": "let this user write to",
    "OSError: [Errno 28] No space left on device": "free some space",
    "sqlite3.OperationalError: database or disk is full": "free some space",
    "ModuleNotFoundError: No module named 'prefect.server'": "log$",
}


@pytest.mark.parametrize(("words", "remedy"), LAST_WORDS.items())
def test_a_server_that_does_not_start_is_told_with_its_last_words_and_what_to_do(tmp_path, monkeypatch, words, remedy):
    monkeypatch.setenv("PREFECT_HOME", "/runs/.tapir/prefect")
    log = tmp_path / "log"
    log.write_text("RuntimeError: of an earlier start\n")

    def dies() -> bool:
        with log.open("a") as file:
            file.write(
                f"Traceback (most recent call last):\n{words}\n\nERROR:    Application startup failed. Exiting.\n"
            )
        return False

    with pytest.raises(EngineError, match=remedy) as told:
        wait_until_healthy("http://127.0.0.1:9", log, dies)
    assert words in str(told.value)
    assert str(log) in str(told.value)
    assert "earlier" not in str(told.value)


def test_what_a_caretaker_says_of_its_server_is_told_as_it_stands(tmp_path):
    said = "the Prefect server did not start at http://127.0.0.1:9:\n  OSError: it broke\nits log is there; do this"

    def dies() -> bool:
        (tmp_path / "log").write_text(f"{said}\n")
        return False

    with pytest.raises(EngineError) as told:
        wait_until_healthy("http://127.0.0.1:9", tmp_path / "log", dies)
    assert str(told.value) == said


@pytest.mark.parametrize(
    "content", [b"this is no database, and long enough to be read as one" * 9, b"SQLite format 3\0"]
)
def test_a_damaged_database_is_a_fault_with_its_remedy(tmp_path, content):
    check_database(str(tmp_path))
    (home := tmp_path / PREFECT_HOME).mkdir(parents=True)
    (home / "prefect.db").write_bytes(content)
    with pytest.raises(EngineError, match=r"damaged; move .*prefect away"):
        check_database(str(tmp_path))


@pytest.mark.slow
def test_a_database_of_a_newer_prefect_is_told_and_once_it_is_moved_the_server_starts(
    tmp_path, lay_prefect_database, monkeypatch
):
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / PREFECT_HOME))
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "")
    lay_prefect_database(tmp_path)
    check_database(str(tmp_path))
    with closing(sqlite3.connect(tmp_path / PREFECT_HOME / "prefect.db")) as database, database:
        database.execute("UPDATE alembic_version SET version_num = 'ffff00001111'")
    remedy = rf"a newer Prefect made the database; move {tmp_path / PREFECT_HOME} away"
    with pytest.raises(EngineError, match=remedy):
        check_database(str(tmp_path))

    def start() -> None:
        port, log = free_port(), tmp_path / "log"
        address = f"http://127.0.0.1:{port}"
        environment = server_environment(str(tmp_path), address)
        with start_child(server_command(port), env=environment, log_path=log, name="Prefect server") as server:
            wait_until_healthy(address, log, lambda: server.poll() is None)

    with pytest.raises(EngineError, match=rf"'ffff00001111'\nits log is .*; {remedy}"):
        start()
    (tmp_path / PREFECT_HOME).rename(tmp_path / "away")
    lay_prefect_database(tmp_path)
    start()


def test_a_home_that_cannot_be_made_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("PREFECT_HOME", "")
    (tmp_path / ".tapir").write_text("in the way")
    with pytest.raises(EngineError, match=r"\.tapir/prefect cannot be made"):
        prepare_prefect(str(tmp_path))


MEANT = {
    "PREFECT_API_URL": "http://server:4200/api",
    "PREFECT_API_KEY": "pnu_1",
    "PREFECT_API_AUTH_STRING": "admin:pass",
    "PREFECT_SERVER_API_AUTH_STRING": "admin:pass",
    "PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED": "true",
    "PREFECT__FLOW_RUN_ID": "1",
}
OTHERS = {
    "PREFECT_API_DATABASE_CONNECTION_URL": "postgresql+asyncpg://me:hush@127.0.0.1:9/prefect",
    "PREFECT_DEFAULT_RESULT_STORAGE_BLOCK": "s3-bucket/none",
    "PREFECT_HOME": "/elsewhere",
    "PREFECT_LOGGING_SETTINGS_PATH": "/none.yml",
    "PREFECT_PROFILE": "cloud",
    "PREFECT_PROFILES_PATH": "/none.toml",
    "PREFECT_SERVER_API_BASE_PATH": "/prefect",
    "PREFECT_SERVER_DATABASE_CONNECTION_URL": "postgresql+asyncpg://me:hush@127.0.0.1:9/prefect",
}


@pytest.fixture
def shell(monkeypatch):
    """Sets variables of Prefect in place of all that there are."""

    def hold(variables: dict[str, str]) -> None:
        for name in [name for name in os.environ if name.startswith("PREFECT_")]:
            monkeypatch.delenv(name)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return hold


def test_settings_meant_for_another_server_are_ignored_and_named(shell, tmp_path):
    shell({**MEANT, **OTHERS, "PREFECT_SERVER_API_HOST": ""})
    said: list[str] = []
    ignore_settings(str(tmp_path), said.append)
    assert {name: value for name, value in os.environ.items() if name.startswith("PREFECT_")} == MEANT
    assert said == [f"ignoring {', '.join(sorted(OTHERS))}: meant for another Prefect server (docs/operating.md)"]
    ignore_settings(str(tmp_path), said.append)
    assert len(said) == 1


def test_tapir_up_takes_the_database_of_the_environment(shell, tmp_path):
    shell(OTHERS)
    ignore_settings(str(tmp_path), lambda _: None, database=True)
    assert [name for name in os.environ if name.startswith("PREFECT_")] == ["PREFECT_SERVER_DATABASE_CONNECTION_URL"]


def test_an_empty_password_shuts_nobody_out(shell, tmp_path):
    shell({"PREFECT_SERVER_API_AUTH_STRING": "", "PREFECT_API_AUTH_STRING": ""})
    said: list[str] = []
    ignore_settings(str(tmp_path), said.append)
    assert said == []
    assert "PREFECT_SERVER_API_AUTH_STRING" not in server_environment(str(tmp_path), "http://127.0.0.1:1")


def start_and_record(root, words, **changed):
    """A process that sleeps and has ``words`` in its command line, in the record of the root's server."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", words])
    holder = Holder.of_process(process.pid)
    fields = {"pid": process.pid, "process_started": holder.process_started, "boot_id": holder.boot_id, **changed}
    (root / SERVER_RECORD).parent.mkdir()
    (root / SERVER_RECORD).write_text(json.dumps({"address": "http://127.0.0.1:1", "gpu_workers": 1, **fields}))
    return process


def test_the_record_of_a_development_version_is_not_taken_for_none(tmp_path):
    (tmp_path / SERVER_RECORD).parent.mkdir()
    (tmp_path / SERVER_RECORD).write_text(
        json.dumps({"address": "http://127.0.0.1:1", "pid": 1, "process_started": 1.0})
    )
    with pytest.raises(EngineError, match="of a development version: end the process"):
        stop_server(str(tmp_path))


@pytest.mark.parametrize(
    ("words", "changed", "is_ended"),
    [
        ("flows.prefect_server.caretaker", {}, True),
        ("something else", {"boot_id": "an earlier boot"}, False),
        ("something else", {"process_started": 1.7e9}, False),
    ],
)
def test_down_ends_the_caretaker_whatever_the_clock_says_and_nobody_else(
    tmp_path, monkeypatch, words, changed, is_ended
):
    with start_and_record(tmp_path, words, **changed) as process:
        true_start = psutil.Process.create_time
        monkeypatch.setattr(psutil.Process, "create_time", lambda each: true_start(each) + 1)
        assert (stop_server(str(tmp_path)) is not None) == is_ended
        assert (process.poll() is not None) == is_ended
        process.kill()
