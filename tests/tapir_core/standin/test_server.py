import asyncio
import json
import re
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest

from tapir_core.errors import ConfigError
from tapir_core.standin.rules import Behaviour
from tapir_core.standin.server import make_application, serve

TOLD = json.dumps([0, 0, {"position_bias": 0.0, "noise": 0.0}])


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_the_command_says_where_it_listens_and_stops_cleanly(stop: signal.Signals) -> None:
    command = [sys.executable, "-m", "tapir_core.standin.server", TOLD]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        with urllib.request.urlopen(f"{address(process.stdout.readline())}/health") as reply:
            assert json.load(reply)["status"] == "ok"
        process.send_signal(stop)
        assert process.wait(timeout=10) == 0
        assert process.stderr.read() == ""


def address(line: str) -> str:
    found = re.fullmatch(r"stand-in ready at (http://127\.0\.0\.1:\d+)/v1\n", line)
    assert found is not None
    return found[1]


def test_a_taken_port_is_one_clear_message() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"127.0.0.1:{port}.*choose another --port"):
            asyncio.run(serve(make_application(Behaviour()), "127.0.0.1", port))


def test_the_server_imports_nothing_heavy() -> None:
    code = (
        "import sys, tapir_core.standin.server; "
        "print(sorted({'polars', 'openai', 'pydantic', 'numpy', 'torch', 'prefect', 'sqlalchemy'} & set(sys.modules)))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
