import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "docker/health.py"


@pytest.fixture
def page():
    """The address of a page, and a list whose last entry is the status with which it answers."""
    statuses = [200]

    class Page(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(statuses[-1])
            self.end_headers()

        def log_message(self, *_):
            return

    with HTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/health", statuses
        server.shutdown()
        thread.join()


def check(url):
    environment = {"TAPIR_HEALTH_URL": url, "http_proxy": "http://127.0.0.1:9"}
    return subprocess.run([sys.executable, SCRIPT], env=environment, capture_output=True, text=True)


def test_health_is_what_the_page_says_whatever_proxy_the_environment_names(page):
    url, statuses = page
    assert check(url).returncode == 0
    statuses.append(503)
    sick = check(url)
    assert sick.returncode == 1
    assert f"{url}: HTTP Error 503" in sick.stderr


def test_nobody_who_answers_is_not_healthy():
    assert check("http://127.0.0.1:9/health").returncode == 1
