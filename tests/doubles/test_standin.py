import json
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from hashlib import sha256
from pathlib import Path
from typing import Any

import openai
import pytest

from tapir_core.errors import ConfigError
from tapir_core.standin import STANDIN_VERSION
from tests.doubles.standin import StandinServer, main
from tests.tapir_core.standin.asks import SUM, expand_text, label_text, pair_text, refine_text


def chat(server: StandinServer, text: str, model: str = "standin-teacher") -> Any:
    with openai.OpenAI(base_url=server.base_url, api_key="none", max_retries=0) as client:
        return client.chat.completions.create(model=model, messages=[{"role": "user", "content": text}])


def get(server: StandinServer, path: str) -> Any:
    with urllib.request.urlopen(server.base_url.removesuffix("/v1") + path) as reply:
        return json.load(reply)


def test_two_servers_run_side_by_side_and_leave_nothing_behind() -> None:
    before = threading.active_count()
    with StandinServer() as one, StandinServer() as other:
        assert one.base_url != other.base_url
        address = one.base_url.replace("/v1", "/health")
        urllib.request.urlopen(address).close()
    assert threading.active_count() == before
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(address)


def test_a_log_that_cannot_be_written_is_one_clear_error_and_no_thread(tmp_path: Path) -> None:
    before = threading.active_count()
    with pytest.raises(ConfigError, match="another --log"), StandinServer(log_path=tmp_path):
        pass
    assert threading.active_count() == before


def test_requests_are_counted_by_kind_and_by_how_they_ended() -> None:
    essay = "Write an essay about the sea."
    with StandinServer() as server:
        for text in (
            SUM,
            SUM,
            label_text(),
            expand_text(),
            refine_text(),
            pair_text("a", "b"),
            essay,
            label_text(essay),
        ):
            chat(server, text)
        with pytest.raises(openai.NotFoundError):
            chat(server, SUM, model="gpt-9")
        stats = get(server, "/stats")
        assert stats == server.stats()
    assert stats == {
        "version": STANDIN_VERSION,
        "requests": 9,
        "answered": {"answer": 2, "label": 1, "expand": 1, "refine": 1, "judge": 1},
        "refused": {"answer": 1, "label": 1},
        "rejected": 1,
        "failed": 0,
        "faults": {},
    }


def test_the_log_has_one_line_a_request_at_once_and_is_appended_to(tmp_path: Path) -> None:
    log_path = tmp_path / "requests.jsonl"
    body = json.dumps({"model": "standin-teacher", "messages": [{"role": "user", "content": SUM}]}).encode()
    for rows in (1, 2):
        with StandinServer(log_path=log_path) as server:
            urllib.request.urlopen(urllib.request.Request(f"{server.base_url}/chat/completions", data=body)).close()
            lines = [json.loads(line) for line in log_path.read_text().splitlines()]
            assert len(lines) == rows
    assert [line["sha256"] for line in lines] == [sha256(body).hexdigest()] * 2
    assert {(line["kind"], line["outcome"], line["status"]) for line in lines} == {("answer", "answered", 200)}


def test_the_command_takes_the_products_options_and_its_own(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.doubles.standin", "--log", str(tmp_path / "log.jsonl")]
    command += ["--noise", "0", "--faults", "hang@3600-", "--batch-seconds", "2", "--batch-max-rows", "5"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        base_url = process.stdout.readline().removeprefix("stand-in ready at ").strip()
        with urllib.request.urlopen(f"{base_url.removesuffix('/v1')}/stats") as reply:
            assert json.load(reply)["requests"] == 0
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 0
        assert process.stderr.read() == ""
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["log.jsonl"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--faults", "429=2,nap=0.1"], "2 problems in the faults '429=2,nap=0.1'"),
        (["--batch-fail-share", "2"], "the batches' fail_share is 2: give a number from 0 to 1"),
    ],
)
def test_wrong_faults_and_batch_rules_are_one_clear_message_and_exit_code_2(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert said in capsys.readouterr().err
