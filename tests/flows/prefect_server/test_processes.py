import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import psutil
import pytest

from flows.prefect_server import answers, check_entry, check_own_password, server_environment, stop_server
from flows.prefect_server.caretaker import Post, worker_environment
from tapir_core.errors import MissingPrerequisite
from tapir_core.paths import SERVER_RECORD
from tapir_core.processes import Holder

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


def start_and_record(root, words, **changed):
    """A process that sleeps and has ``words`` in its command line, in the record of the root's server."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", words])
    holder = Holder.of_process(process.pid)
    fields = {"pid": process.pid, "process_started": holder.process_started, "boot_id": holder.boot_id, **changed}
    (root / SERVER_RECORD).parent.mkdir()
    (root / SERVER_RECORD).write_text(json.dumps({"address": "http://127.0.0.1:1", "gpu_workers": 1, **fields}))
    return process


@pytest.mark.parametrize(
    ("words", "changed", "is_ended"),
    [
        ("flows.prefect_server.caretaker", {}, True),
        ("something else", {"boot_id": "an earlier boot"}, False),
        # As an earlier version wrote it, before the clock was set.
        ("flows.prefect_server.caretaker", {"process_started": 1.7e9, "boot_id": ""}, True),
        ("something else", {"process_started": 1.7e9, "boot_id": ""}, False),
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
