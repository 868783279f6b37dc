"""What a client that has never reached the server does when nobody listens there, and a run whose own server dies."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flows.prefect_server.server import HURRY, ends_with
from tapir_core.errors import EngineError
from tasks.engines.supervisor import Child, start_child
from tests.waiting import wait_until

NEW_CLIENT = """
import socket, sys, threading, time
from http.server import BaseHTTPRequestHandler, HTTPServer
from prefect.client.base import PrefectHttpxSyncClient
from flows.server_away import outlast_server

class Answers(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

server = HTTPServer(("127.0.0.1", 0), Answers, bind_and_activate=False)
server.server_bind()

def come_back():
    time.sleep(0.5)
    server.server_activate()
    server.handle_request()

threading.Thread(target=come_back, daemon=True).start()
if "patient" in sys.argv:
    outlast_server()
print(PrefectHttpxSyncClient().get(f"http://127.0.0.1:{server.server_port}").status_code)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("patience", "said"), [([], "ConnectError"), (["patient"], "200\n")])
def test_a_new_client_waits_for_a_server_that_comes_back(patience: list[str], said: str) -> None:
    command = [sys.executable, "-c", NEW_CLIENT, *patience]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert said in done.stdout + done.stderr


SERVER = """
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Healthy(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

server = HTTPServer(("127.0.0.1", 0), Healthy)
print("Check out the dashboard", server.server_port, flush=True)
server.serve_forever()
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Child]:
    """Answers as a Prefect server does that is asked for its health."""
    log = tmp_path / "prefect-server.log"
    with start_child([sys.executable, "-c", SERVER], env={}, log_path=log, name="server") as child:
        wait_until(lambda: "dashboard" in child.output(), seconds=60, told="it did not start")
        yield child


def api_of(server: Child) -> str:
    return "http://127.0.0.1:" + re.findall(r"dashboard (\d+)", server.output())[0]


def wait_for_interrupt(server: Child, number: int) -> None:
    os.kill(server.pid, number)
    threading.Event().wait(60)
    pytest.fail("the block was not interrupted")


def interrupt_oneself(server: Child, number: int) -> None:
    os.kill(server.pid, number)
    HURRY.set()
    wait_until(lambda: server.poll() is not None, seconds=60, told="it was left as it was")
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("number", "silent_seconds", "end"),
    [
        (signal.SIGKILL, 600, wait_for_interrupt),
        (signal.SIGTERM, 600, wait_for_interrupt),
        (signal.SIGSTOP, 0.1, wait_for_interrupt),
        (signal.SIGSTOP, 600, interrupt_oneself),
    ],
    ids=["killed", "ended", "frozen", "frozen, and the user wants to end"],
)
def test_a_run_ends_with_its_own_server_and_says_so(
    server: Child, number: signal.Signals, silent_seconds: float, end: Callable[[Child, int], None]
) -> None:
    log, api = re.escape(str(server.log_path)), api_of(server)
    said = rf"Prefect server of this run died or .*{log}: .*dashboard \d+.*the same command starts a new server"
    with pytest.raises(EngineError, match=said), ends_with(server, api, silent_seconds=silent_seconds):
        end(server, number)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), EngineError("of the trainer")])
def test_what_ends_a_run_whose_server_lives_is_told_as_it_is(server: Child, error: BaseException) -> None:
    with pytest.raises(type(error)) as raised, ends_with(server, api_of(server)):
        raise error
    assert raised.value is error
    assert server.poll() is None


def test_a_block_that_ends_by_itself_leaves_its_server_alone(server: Child) -> None:
    with ends_with(server, api_of(server)):
        pass
    assert server.poll() is None
