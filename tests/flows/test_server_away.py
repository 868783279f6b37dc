"""What a client that has never reached the server does when nobody listens there."""

import subprocess
import sys

import pytest

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
