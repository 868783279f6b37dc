import json
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import openai
import pytest

from tapir_core.standin.server import main

COMMAND = [sys.executable, "-m", "tapir_core.standin.server"]


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_the_command_says_where_it_listens_and_stops_cleanly(stop: signal.Signals, tmp_path: Path) -> None:
    port_file = tmp_path / "port"
    command = [*COMMAND, "--port-file", str(port_file), "--position-bias", "0", "--noise", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        port = int(port_file.read_text())
        assert line == f"stand-in ready at http://127.0.0.1:{port}/v1\n"
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health") as reply:
            assert json.load(reply)["status"] == "ok"
        process.send_signal(stop)
        assert process.wait(timeout=10) == 0
        assert process.stderr.read() == ""
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["port"]


def test_a_taken_port_is_one_clear_message_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["--port", str(port)]) == 2
    message = capsys.readouterr().err
    assert f"127.0.0.1:{port}" in message
    assert "choose another --port" in message


def test_a_port_file_that_cannot_be_written_is_one_clear_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--port-file", str(tmp_path / "missing" / "port")]) == 2
    assert "choose another --port-file" in capsys.readouterr().err


def test_the_server_imports_nothing_heavy() -> None:
    code = (
        "import sys, tapir_core.standin.server; "
        "print(sorted({'polars', 'openai', 'pydantic', 'numpy', 'torch', 'prefect', 'sqlalchemy'} & set(sys.modules)))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_it_answers_batches_when_they_are_made(tmp_path: Path) -> None:
    port_file = tmp_path / "port"
    with subprocess.Popen([*COMMAND, "--port-file", str(port_file)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        base_url = f"http://127.0.0.1:{int(port_file.read_text())}/v1"
        with openai.OpenAI(base_url=base_url, api_key="none", max_retries=0) as client:
            asked = {"right": "standin-teacher", "wrong": "another-model"}
            rows = [
                {
                    "custom_id": name,
                    "body": {"model": model, "messages": [{"role": "user", "content": "What is 1 + 2?"}]},
                }
                for name, model in asked.items()
            ]
            content = "".join(json.dumps(row) + "\n" for row in rows).encode()
            uploaded = client.files.create(file=("rows.jsonl", content), purpose="batch")
            made = client.batches.create(
                input_file_id=uploaded.id, endpoint="/v1/chat/completions", completion_window="24h"
            )
            batch = client.batches.retrieve(made.id)
            assert (batch.status, [each.id for each in client.batches.list().data]) == ("completed", [batch.id])
            answered, failed = (
                json.loads(client.files.content(name or "").text)
                for name in (batch.output_file_id, batch.error_file_id)
            )
            for ask in (client.batches.retrieve, client.files.content):
                with pytest.raises(openai.NotFoundError):
                    ask("unknown")
            with pytest.raises(openai.BadRequestError, match="multipart form"):
                client.post("/files", cast_to=object, body={"purpose": "batch"})
            with pytest.raises(openai.NotFoundError):
                client.batches.create(input_file_id="no", endpoint="/v1/chat/completions", completion_window="24h")
        process.terminate()
    assert answered["custom_id"] == "right"
    assert answered["response"]["body"]["choices"][0]["message"]["content"] == "Answer: 3"
    assert (failed["custom_id"], failed["response"]["status_code"]) == ("wrong", 404)
