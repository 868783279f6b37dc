"""What is appended to a child's log reaches the flow run at work, and nobody else."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.engines.logs import follow_log, tell, told_to
from tests.waiting import wait_until

Told = list[tuple[int, str]]


def listener(told: Told) -> Callable[[int, str], None]:
    return lambda level, message: told.append((level, message))


def append(log: Path, *lines: str) -> None:
    with log.open("a") as file:
        file.write("".join(f"{line}\n" for line in lines))


def warning(text: str) -> str:
    return f"WARNING:  {text}"


def test_the_innermost_flow_is_told_and_without_one_nobody_is() -> None:
    outer: Told = []
    inner: Told = []
    tell(logging.INFO, "nobody hears this")
    with told_to(listener(outer)):
        tell(logging.INFO, "one")
        with told_to(listener(inner)):
            tell(logging.WARNING, "two")
        tell(logging.INFO, "three")
    assert outer == [(logging.INFO, "one"), (logging.INFO, "three")]
    assert inner == [(logging.WARNING, "two")]


def test_what_is_appended_is_told_with_the_path_of_the_log_and_what_was_there_is_not(tmp_path: Path) -> None:
    told: Told = []
    log = tmp_path / "student.log"
    append(log, warning("of an earlier start"))
    with told_to(listener(told)), follow_log("student server", log):
        append(log, warning("hot"), "noise", "saved after step 3")
    assert told == [
        (logging.WARNING, f"student server ({log}): hot"),
        (logging.INFO, f"student server ({log}): saved after step 3"),
    ]


def test_a_log_that_comes_later_is_followed_while_it_is_written(tmp_path: Path) -> None:
    told: Told = []
    log = tmp_path / "student.log"
    with told_to(listener(told)), follow_log("student server", log):
        append(log, "Traceback (most recent call last):", "  File x", "OSError: gone")
        wait_until(lambda: told, seconds=20, every=0.02)
    assert told == [
        (logging.ERROR, f"student server ({log}):\nTraceback (most recent call last):\n  File x\nOSError: gone")
    ]


def test_a_flow_has_heard_everything_when_it_ends_though_the_server_lives_on(tmp_path: Path) -> None:
    first: Told = []
    second: Told = []
    log = tmp_path / "student.log"
    with follow_log("student server", log):
        with told_to(listener(first)):
            append(log, warning("in the first"))
        with told_to(listener(second)):
            append(log, warning("in another"))
    assert [text.rpartition(": ")[2] for _, text in first] == ["in the first"]
    assert [text.rpartition(": ")[2] for _, text in second] == ["in another"]


@pytest.mark.parametrize(
    "said",
    [
        "sent Authorization: Bearer abcdefghijklmnop0123",
        "args: {'api_key': 'abcdefghijklmnop0123', 'port': 1}",
        "--api-key=abcdefghijklmnop0123",
        "HTTP 401 for abcdefghijklmnop0123",
    ],
)
def test_no_key_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    monkeypatch.setenv("TEACHER_API_KEY", "abcdefghijklmnop0123")
    told: Told = []
    log = tmp_path / "student.log"
    with told_to(listener(told)), follow_log("student server", log):
        append(log, warning(said))
    [(_, text)] = told
    assert "[key]" in text
    assert "abcdefghijklmnop" not in text
