import json
import re
import signal
import socket
import subprocess
import sys
import urllib.request

import openai
import pytest

from tapir_core.standin.server import main

COMMAND = [sys.executable, "-m", "tapir_core.standin.server"]


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_the_command_says_where_it_listens_and_stops_cleanly(stop: signal.Signals) -> None:
    command = [*COMMAND, "--position-bias", "0", "--noise", "0"]
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


def test_a_taken_port_is_one_clear_message_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["--port", str(port)]) == 2
    message = capsys.readouterr().err
    assert f"127.0.0.1:{port}" in message
    assert "choose another --port" in message


def test_the_server_imports_nothing_heavy() -> None:
    code = (
        "import sys, tapir_core.standin.server; "
        "print(sorted({'polars', 'openai', 'pydantic', 'numpy', 'torch', 'prefect', 'sqlalchemy'} & set(sys.modules)))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_it_answers_batches_when_they_are_made() -> None:
    with subprocess.Popen(COMMAND, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        base_url = f"{address(process.stdout.readline())}/v1"
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
