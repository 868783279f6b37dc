"""A verifier's function in real children: whatever it does costs its row, and nothing is left running."""

import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tapir_core.config import VerifierConfig
from tapir_core.errors import ConfigError, Stopped
from tasks.engines.supervisor import ScriptRunner
from tasks.engines.verifier import Mark, check_verifier, score_rows, source_digest

MINE = """
import os, subprocess, sys, time

def score(instruction, answer, reference):
    if instruction == "hang":
        time.sleep(600)
    if instruction == "8 GB":
        bytearray(8 * 2**30)
    if instruction == "raise":
        raise ValueError("of no use")
    if instruction == "sys.exit":
        sys.exit(3)
    if instruction == "os._exit":
        os._exit(4)
    if instruction == "crash":
        os.kill(os.getpid(), 11)
    if instruction == "print":
        print('[1.0, null, true]', flush=True)
        os.write(1, b'[1.0, null, true]\\n')
    if instruction == "rubbish":
        return "good"
    if instruction == "out of range":
        return 7
    if instruction == "not a number":
        return float("nan")
    if instruction == "says nothing":
        return None
    if instruction == "a daemon":
        subprocess.Popen(["sleep", "600"], start_new_session=True)
    if instruction == "children that hang":
        for _ in range(3):
            if os.fork() == 0:
                time.sleep(600)
    if instruction == "a child that comes back":
        os.fork()
    if instruction == "forks and hangs":
        for _ in range(3):
            if os.fork() == 0:
                os.setsid()
                time.sleep(600)
        time.sleep(600)
    if instruction == "too many":
        for _ in range(70):
            if os.fork() == 0:
                time.sleep(600)
        time.sleep(600)
    if instruction == "environment":
        return float(not any("SECRET" in value for value in os.environ.values()))
    return float(answer == reference)
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(MINE)
    return tmp_path


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    named = sleeping()
    yield
    assert {child.pid for child in psutil.Process().children(recursive=True)} <= before
    assert sleeping() <= named


def sleeping() -> set[int]:
    """Processes that a function here leaves, if it leaves any: a program, or a fork of the worker.

    Of anybody, for who is left has another parent; but not those of another test that works beside this one.
    """
    found, here = set[int](), psutil.Process()
    beside = {each.pid for each in here.parent().children(recursive=True)} if here.parent() else set()
    beside -= {each.pid for each in here.children(recursive=True)}
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if command == ["sleep", "600"] or any(word.endswith("verifier_main.py") for word in command):
            found.add(process.pid)
    return found - beside


def verifier(folder: Path, function: str = "mine:score", **limits: float) -> VerifierConfig:
    given = {"timeout_seconds": 3.0, "memory_gib": 1.0, **limits}
    return VerifierConfig(function=function, folder=str(folder), **given)  # type: ignore[arg-type]  # numbers


def scripts(folder: Path) -> ScriptRunner:
    return ScriptRunner(lambda name: folder / f"{name}.log", lambda: None)


COSTS_ITS_ROW = {
    "hang": "timeout: no score within 3 s",
    "8 GB": "memory: MemoryError: ",
    "raise": "error: ValueError: of no use",
    "sys.exit": "error: SystemExit: 3",
    "os._exit": "died: exit code 4",
    "crash": "died: signal 11",
    "rubbish": "no_score: 'good'",
    "out of range": "no_score: 7",
    "not a number": "no_score: nan",
    "says nothing": "none",
    "forks and hangs": "timeout: no score within 3 s",
}


def test_what_goes_wrong_costs_its_row_and_the_next_ones_are_scored(mine: Path) -> None:
    rows = [row for each in COSTS_ITS_ROW for row in ((each, "a", "a"), ("add", "a", "b"))]
    marks = score_rows(verifier(mine), rows, scripts(mine))
    assert dict(zip(COSTS_ITS_ROW, marks[::2], strict=True)) == {
        each: Mark(None, said) for each, said in COSTS_ITS_ROW.items()
    }
    assert set(marks[1::2]) == {Mark(0.0, None)}


def test_a_row_that_starts_too_many_processes_loses_them_all(mine: Path) -> None:
    rows = [("too many", "a", "a"), ("add", "a", "a")]
    marks = score_rows(verifier(mine, timeout_seconds=60.0), rows, scripts(mine))
    assert marks == [Mark(None, "processes: more than 64 at a time"), Mark(1.0, None)]


def test_what_is_printed_or_left_running_costs_nothing(mine: Path) -> None:
    names = ("print", "a daemon", "children that hang", "a child that comes back")
    rows = [row for name in names for row in ((name, "a", "a"), (name, "a", "b"), ("add", "a", "a"))]
    marks = score_rows(verifier(mine), rows, scripts(mine))
    assert [mark.score for mark in marks] == [1.0, 0.0, 1.0] * len(names)


def test_no_key_reaches_it(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "a SECRET")
    assert os.environ["OPENAI_API_KEY"] == "a SECRET"
    [mark] = score_rows(verifier(mine), [("environment", "", None)], scripts(mine))
    assert mark == Mark(1.0, None)


def test_many_rows_come_back_in_their_order(mine: Path) -> None:
    rows = [("add", str(number), str(number % 7)) for number in range(300)]
    marks = score_rows(verifier(mine), rows, scripts(mine))
    assert [mark.score for mark in marks] == [float(number < 7) for number in range(300)]


def test_text_of_any_kind_reaches_it(mine: Path) -> None:
    odd = 'quotes " and \n lines, \u2028, \U0001f600, \ud800'
    assert score_rows(verifier(mine), [("add", odd, odd)], scripts(mine)) == [Mark(1.0, None)]


@pytest.mark.parametrize(
    ("module", "function", "said"),
    [
        ("import no_such_package", "mine:score", "ModuleNotFoundError: No module named 'no_such_package'"),
        ("def score(:", "mine:score", "SyntaxError"),
        ("raise SystemExit(0)", "mine:score", "SystemExit: 0"),
        ("import os; os._exit(1)", "mine:score", "died: exit code 1"),
        ("score = 3", "mine:score", "score is no function"),
        ("", "mine:score", "has no attribute 'score'"),
        ("", "theirs:score", "No module named 'theirs'"),
    ],
)
def test_a_function_that_cannot_be_had_is_an_error_that_says_where_it_was_looked_for(
    tmp_path: Path, module: str, function: str, said: str
) -> None:
    (tmp_path / "mine.py").write_text(module)
    with pytest.raises(ConfigError) as caught:
        check_verifier(verifier(tmp_path, function))
    assert said in str(caught.value)
    assert f"looked in first: {tmp_path}" in str(caught.value)


def test_a_module_of_the_folder_may_import_its_neighbours_and_what_is_shipped(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own/__init__.py").write_text("")
    (tmp_path / "own/rules.py").write_text("from own.more import score")
    (tmp_path / "own/more.py").write_text("from tapir_core.verifiers import numeric as score")
    own = verifier(tmp_path, "own.rules:score")
    assert own.source == str(tmp_path / "own/rules.py")
    assert score_rows(own, [("", "7", "7.0")], scripts(tmp_path)) == [Mark(1.0, None)]
    before = source_digest(own)
    (tmp_path / "own/rules.py").write_text("from own.more import score\n")
    assert source_digest(own) != before


def test_the_example_of_the_documentation_scores(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs/verifiers.md").read_text()
    (tmp_path / "my_verifier.py").write_text(page.partition("```python\n")[2].partition("```")[0])
    answers = {"It was 1969-07-20.": 1.0, "On July 20, 1969.": 0.5, "In summer.": 0.0}
    rows = [("When?", answer, "1969-07-20") for answer in answers]
    marks = score_rows(verifier(tmp_path, "my_verifier:iso_date"), [*rows, ("When?", "", None)], scripts(tmp_path))
    assert marks == [*(Mark(score, None) for score in answers.values()), Mark(None, "none")]


def test_a_run_that_is_to_stop_waits_for_no_row(mine: Path) -> None:
    def stop() -> None:
        raise Stopped("now")

    with pytest.raises(Stopped):
        score_rows(
            verifier(mine, timeout_seconds=600.0), [("hang", "", None)], ScriptRunner(lambda _: mine / "log", stop)
        )
