"""`tapir chat` and `serve`: a student that answers in several turns, and its address for other programs."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from rich.console import Console
from typer.testing import CliRunner

from flows.cli import app
from flows.commands import student, terminal
from tapir_core.calls import Answer, CallEngine
from tapir_core.errors import EngineError
from tapir_core.run_folder import RunFolder
from tests.run_builder import build_run
from tests.run_config import make_config


class Streaming(BaseHTTPRequestHandler):
    """Counts the turns aloud, in two pieces; refuses a conversation of more than two."""

    asked: list[dict[str, Any]]
    pieces: tuple[str | None, ...] = ()
    broken = b""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(body)
        turns = (len(body["messages"]) + 1) // 2
        self.send_response(400 if turns > 2 else 200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        self.wfile.write(self.broken)
        for piece in self.pieces or ("turn ", f"{turns}."):
            chunk = {"id": "a", "object": "chat.completion.chunk", "created": 0, "model": "m"}
            delta = None if piece is None else {"content": piece}
            told = chunk | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
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


def test_what_is_piped_has_the_lines_of_the_answer(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    long = "word " * 60 + "end"
    monkeypatch.setattr(CallEngine, "ask", lambda *_: [Answer(long, "stop", 1, 1)])
    assert given(run, "ask", run.ref.name, "Hi").stdout.splitlines()[-1] == long


@pytest.mark.parametrize("is_terminal", [True, False])
def test_no_answer_steers_the_terminal(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], is_terminal: bool
) -> None:
    said = "a\x1b[2J\x9b5m\tb\n\u3000c\rd"
    monkeypatch.setattr(CallEngine, "ask", lambda *_: [Answer(said, "stop", 1, 1)])
    monkeypatch.setattr(Streaming, "pieces", (said,))
    monkeypatch.setattr(terminal, "console", Console(force_terminal=is_terminal, no_color=True))
    shown = "a�[2J�5m\tb\n\u3000c�d" if is_terminal else said
    student.ask(run.ref.name, "Hi", root=run.ref.root)
    assert shown in capsys.readouterr().out
    assert shown in given(run, "chat", run.ref.name, typed="Hi\n").stdout


@pytest.mark.parametrize(
    ("pieces", "kept"), [(["<think>\nhm\n</think>\n\n", "four"], "four"), ([None, "fo", "ur"], "four")]
)
def test_a_chat_goes_on_from_answers_without_their_thoughts(
    run: RunFolder, asked: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, pieces: list[str], kept: str
) -> None:
    monkeypatch.setattr(Streaming, "pieces", pieces)
    assert given(run, "chat", run.ref.name, typed="Hi\nAnd?\n").exit_code == 0
    assert asked[1]["messages"][1] == {"role": "assistant", "content": kept}


def test_a_stream_that_is_none_is_told(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Streaming, "broken", b"data: {no json\n\n")
    done = given(run, "chat", run.ref.name, typed="Hi\n")
    assert isinstance(done.exception, EngineError)


def test_a_key_of_the_user_is_not_shown(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def end(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setenv("MY_KEY", "sk-hush")
    monkeypatch.setattr(student.time, "sleep", end)
    engine = {**json.loads(run.config.student.engine.model_dump_json(exclude_unset=True)), "api_key_env": "MY_KEY"}
    keyed = build_run("", config=make_config(Path(run.ref.root) / "keyed", student={"engine": engine}))
    done = given(keyed, "serve", keyed.ref.name)
    assert done.exit_code == 0, done.output
    assert "hush" not in done.output
    assert "that of student.engine.api_key_env" in done.output


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
