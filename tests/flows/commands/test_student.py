"""`tapir chat` and `serve`: a student that answers in several turns, and its address for other programs."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from flows.cli import app
from flows.commands import student
from tapir_core.errors import EngineError
from tapir_core.run_folder import RunFolder
from tests.run_builder import build_run
from tests.run_config import make_config


class Streaming(BaseHTTPRequestHandler):
    """Counts the turns aloud, in two pieces; refuses a conversation of more than two."""

    asked: list[dict[str, Any]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(body)
        turns = (len(body["messages"]) + 1) // 2
        self.send_response(400 if turns > 2 else 200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for piece in ("turn ", f"{turns}."):
            chunk = {"id": "a", "object": "chat.completion.chunk", "created": 0, "model": "m"}
            told = chunk | {"choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]}
            self.wfile.write(f"data: {json.dumps(told)}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def asked() -> list[dict[str, Any]]:
    return []


@pytest.fixture
def run(tmp_path: Path, asked: list[dict[str, Any]]) -> Iterator[RunFolder]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Recording", (Streaming,), {"asked": asked}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    engine = {"type": "endpoint", "base_url": f"http://127.0.0.1:{server.server_port}/v1", "api_key_env": ""}
    sampling = {"temperature": 0.5, "max_tokens": 33}
    yield build_run("", config=make_config(tmp_path, student={"engine": engine, "sampling": sampling}))
    server.shutdown()
    server.server_close()


def given(run: RunFolder, *words: str, typed: str = "") -> Result:
    return CliRunner().invoke(app, [*words, "--root", run.ref.root], input=typed)


def test_a_chat_keeps_its_turns_and_the_settings_of_the_run(run: RunFolder, asked: list[dict[str, Any]]) -> None:
    done = given(run, "chat", run.ref.name, typed="Hi\n\nAnd now?\n")
    assert done.exit_code == 0, done.output
    assert "starting S_2" in done.output
    assert [each in done.output for each in ("turn 1.", "turn 2.")] == [True, True]
    first, second = asked
    assert (first["temperature"], first["max_tokens"], first["stream"]) == (0.5, 33, True)
    assert [turn["content"] for turn in second["messages"]] == ["Hi", "turn 1.", "And now?"]


def test_a_chat_that_is_refused_says_what_to_do(run: RunFolder) -> None:
    done = given(run, "chat", run.ref.name, "--round", "1", typed="a\nb\nc\n")
    assert isinstance(done.exception, EngineError)
    assert "begin a new chat if this one is too long" in str(done.exception)


def test_a_served_student_has_an_address_a_name_and_a_key(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = iter([None, None])

    def wait(_: float) -> None:
        if next(looks, "over") == "over":
            raise KeyboardInterrupt

    monkeypatch.setattr(student.time, "sleep", wait)
    done = given(run, "serve", run.ref.name)
    assert done.exit_code == 0, done.output
    lines = dict(
        line.split(maxsplit=1) for line in done.stdout.splitlines() if line.startswith(("address", "model", "key"))
    )
    assert lines["address"] == run.config.student.engine.base_url
    assert {"model", "key"} < lines.keys()
    assert done.output.count("address") == 1, "told once, while it stays the same"
