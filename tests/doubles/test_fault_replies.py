"""Faults as clients meet them: over real connections."""

import json
import socket
import time
import urllib.error
import urllib.request
from collections import Counter
from contextlib import suppress
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest

from tests.doubles.standin import StandinServer
from tests.tapir_core.standin.asks import SUM

ESSAY = "Write an essay about the sea."


def client_of(server: StandinServer, timeout: float = 5.0) -> openai.OpenAI:
    return openai.OpenAI(base_url=server.base_url, api_key="none", max_retries=0, timeout=timeout)


def ask(client: openai.OpenAI, text: str) -> Any:
    return client.chat.completions.create(model="standin-teacher", messages=[{"role": "user", "content": text}])


def chat(server: StandinServer, *, timeout: float = 5.0) -> Any:
    with client_of(server, timeout) as client:
        return ask(client, SUM)


def raw_chat(server: StandinServer) -> socket.socket:
    """A connection on which one chat request was sent."""
    address = urlsplit(server.base_url)
    body = json.dumps({"model": "standin-teacher", "messages": [{"role": "user", "content": SUM}]})
    connection = socket.create_connection((address.hostname, address.port), timeout=5)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall((head + body).encode())
    return connection


def ask_until_answered(client: openai.OpenAI, text: str) -> None:
    for _ in range(30):
        with suppress(openai.InternalServerError):
            ask(client, text)
            return
    raise AssertionError(f"{text!r} was never answered")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_429_names_the_wait_in_seconds_or_as_a_date() -> None:
    with StandinServer(faults="429=1,retry_after_seconds=1.5") as server:
        with pytest.raises(openai.RateLimitError) as caught:
            chat(server)
        assert caught.value.response.headers["retry-after"] == "1.5"
        assert caught.value.code == "rate_limit_exceeded"
    with StandinServer(faults="429=1,retry_after_seconds=20,retry_after_as=date") as server:
        with pytest.raises(openai.RateLimitError) as caught:
            chat(server)
        wait = parsedate_to_datetime(caught.value.response.headers["retry-after"]).timestamp() - time.time()
        assert 15 < wait <= 21


def test_a_500_and_a_wrong_model_are_errors_as_openais() -> None:
    with StandinServer(faults="500=1") as server, pytest.raises(openai.InternalServerError):
        chat(server)
    with StandinServer(faults="model=1") as server, pytest.raises(openai.NotFoundError) as caught:
        chat(server)
    assert caught.value.code == "model_not_found"


def test_a_reset_breaks_the_connection_without_a_byte() -> None:
    with StandinServer(faults="reset=1") as server:
        with raw_chat(server) as connection, pytest.raises(ConnectionResetError):
            connection.recv(1)
        with pytest.raises(openai.APIConnectionError):
            chat(server)


def test_a_hang_sends_nothing_and_ends_with_its_client_or_with_the_server(tmp_path: Path) -> None:
    log_path = tmp_path / "log.jsonl"
    with StandinServer(faults="hang=1", log_path=log_path) as server:
        with pytest.raises(openai.APITimeoutError):
            chat(server, timeout=0.2)
        left = raw_chat(server)
        left.settimeout(0.2)
        with pytest.raises(TimeoutError):
            left.recv(1)
    with left:
        left.settimeout(5)
        with pytest.raises(ConnectionResetError):
            left.recv(1)
    assert [(line["outcome"], line["status"], line["fault"]) for line in lines(log_path)] == [
        ("failed", None, "hang")
    ] * 2


def test_a_truncated_reply_is_no_json() -> None:
    with StandinServer(faults="truncated=1") as server:
        request = urllib.request.Request(
            f"{server.base_url}/chat/completions",
            data=json.dumps({"model": "standin-teacher", "messages": [{"role": "user", "content": SUM}]}).encode(),
        )
        with urllib.request.urlopen(request) as reply:
            assert reply.headers["Content-Type"].startswith("application/json")
            text = reply.read().decode()
    assert text.startswith('{"id"')
    with pytest.raises(ValueError, match=r"Unterminated|Expecting"):
        json.loads(text)


def test_an_empty_reply_has_no_choice_and_a_filtered_one_no_text() -> None:
    with StandinServer(faults="empty=1") as server:
        assert chat(server).choices == []
    with StandinServer(faults="filter=1") as server:
        (choice,) = chat(server).choices
        assert (choice.finish_reason, choice.message.content) == ("content_filter", None)
        assert server.stats()["refused"] == {"answer": 1}


def test_a_slow_reply_comes_late_and_a_trickling_one_bit_by_bit_and_both_are_whole() -> None:
    for fault in ("slow", "trickle"):
        with StandinServer(faults=f"{fault}=1,slow_seconds=0.2") as server:
            began = time.monotonic()
            assert chat(server).choices[0].message.content == "Answer: 91"
            assert time.monotonic() - began >= 0.19
            assert server.stats()["answered"] == {"answer": 1}


def test_the_head_of_a_trickling_reply_comes_at_once() -> None:
    with StandinServer(faults="trickle=1,slow_seconds=0.5") as server, raw_chat(server) as connection:
        assert connection.recv(15) == b"HTTP/1.1 200 OK"


def test_a_client_that_leaves_a_trickling_reply_leaves_no_error_behind(caplog: pytest.LogCaptureFixture) -> None:
    with StandinServer(faults="trickle=1,slow_seconds=0.5") as server:
        with raw_chat(server) as connection:
            connection.recv(15)
        time.sleep(0.6)
    assert caplog.records == []


def test_a_wrong_request_stays_rejected_whatever_is_distorted() -> None:
    with StandinServer(faults="truncated=1") as server:
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(urllib.request.Request(f"{server.base_url}/chat/completions", data=b"{hello"))
        assert "not JSON" in json.load(caught.value)["error"]["message"]
        assert server.stats()["rejected"] == 1


def test_log_and_counts_say_of_each_request_what_was_done(tmp_path: Path) -> None:
    log_path = tmp_path / "log.jsonl"
    faults = "429=0.2,500=0.2,empty=0.2,filter=0.1,seed=3"
    with StandinServer(faults=faults, log_path=log_path) as server, client_of(server) as client:
        for number in range(40):
            with suppress(openai.RateLimitError, openai.InternalServerError):
                ask(client, f"What is {number} + 61?" if number % 4 else ESSAY)
        stats = server.stats()
    written = lines(log_path)
    assert len(written) == stats["requests"] == 40
    assert Counter(line["fault"] for line in written if line["fault"]) == stats["faults"]
    assert set(stats["faults"]) == {"429", "500", "empty", "filter"}
    outcomes = Counter(line["outcome"] for line in written)
    assert outcomes["failed"] == stats["failed"] == sum(stats["faults"][kind] for kind in ("429", "500", "empty"))
    assert outcomes["refused"] == sum(stats["refused"].values())
    assert {line["batch"] for line in written} == {None}


def test_a_repeated_request_is_answered_in_time_and_the_same_series_goes_the_same_way(tmp_path: Path) -> None:
    series = []
    for run in ("one", "two"):
        log_path = tmp_path / run
        with StandinServer(faults="500=0.5,seed=2", log_path=log_path) as server, client_of(server) as client:
            for number in range(8):
                ask_until_answered(client, f"What is {number} + 61?")
        written = lines(log_path)
        answered = Counter(line["sha256"] for line in written if line["outcome"] == "answered")
        assert set(answered.values()) == {1}
        assert len(answered) == 8
        series.append([(line["sha256"], line["fault"]) for line in written])
    assert series[0] == series[1]


def test_a_window_strikes_by_the_servers_clock() -> None:
    with StandinServer(faults="500@0-") as server, pytest.raises(openai.InternalServerError):
        chat(server)
    with StandinServer(faults="500@3600-") as server:
        assert chat(server).choices[0].message.content == "Answer: 91"


@pytest.mark.parametrize(
    ("faults", "error"),
    [
        ("429=1", openai.RateLimitError),
        ("500=1", openai.InternalServerError),
        ("reset=1", openai.APIConnectionError),
        ("hang=1", openai.APITimeoutError),
    ],
)
def test_faults_strike_files_and_batches_too(faults: str, error: type[Exception]) -> None:
    with StandinServer(faults=faults) as server:
        with client_of(server, 0.3) as client:
            with pytest.raises(error):
                client.batches.list()
            with pytest.raises(error):
                client.files.create(file=("a.jsonl", b"{}"), purpose="batch")
        stats = server.stats()
        assert (stats["requests"], stats["faults"]) == (0, {faults.removesuffix("=1"): 2})


def test_a_slow_fault_only_delays_a_batch_request_and_those_of_completions_leave_it_alone() -> None:
    for faults in ("slow=1,slow_seconds=0.1", "truncated=1"):
        with StandinServer(faults=faults) as server, client_of(server) as client:
            assert client.batches.list().data == []
