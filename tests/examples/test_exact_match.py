"""The example benchmark in child processes, since a kind is registered for a whole process."""

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tapir_core.config.load import load_config
from tapir_core.data.dataset import read_rows
from tapir_core.stages import StageAt
from tapir_core.standin.families import recognise
from tasks.engines.backbone import checkpoint_digest
from tasks.input_files import gather_files
from tests.conftest import StandingServer
from tests.doubles.provider import FakeProvider, FakeReply, RecordedCall, Text
from tests.harness.forked import Forked
from tests.harness.processes import REPOSITORY
from tests.run_builder import build_run
from tests.run_config import make_config
from tests.students import make_checkpoint

QUESTIONS = 20


def test_its_figures_are_the_share_of_right_answers_with_an_interval(tmp_path: Path, forked: Forked) -> None:
    rows = [{"question": f"What is the name of number {n}?", "answer": f"Number {n}"} for n in range(7)]
    (tmp_path / "questions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    answers = ["Number 0", " number 1\n", "It is Number 2.", "Number 3", "Number 4", "Number 6", None]
    program = f"""
        import json
        from tapir_core.evaluation.benchmark import exchanges_of
        from tapir_core.evaluation.marking import Answered
        from tapir_core.evaluation.scores import judgments_of
        from tests.examples.exact_match import ExactMatch, ExactMatchBenchmark

        for ignore_case in (True, False):
            settings = ExactMatchBenchmark(
                questions={str(tmp_path / "questions.jsonl")!r}, ignore_case=ignore_case, max_failed_share=0.5
            )
            benchmark, answers = ExactMatch(settings, "mine"), {answers!r}
            items = benchmark.items()
            asked = items.select("question_id", "question", "reference").rows()
            given = [Answered(*each, text) for each, text in zip(asked, answers) if text is not None]
            replies = benchmark.mark(given).replies({{"7": "the student gave no answer"}})
            scores = benchmark.scores(exchanges_of(items, items.with_columns(response=None)), judgments_of(replies))
            [((_, metric), found)] = scores.items()
            print(json.dumps([metric, found.value, found.low, found.high, found.n, found.failed, found.note]))
            print(json.dumps(replies["how"][0]))
        """
    done = forked.python(textwrap.dedent(program))
    assert done.returncode == 0, done.stderr
    said = [json.loads(line) for line in done.stdout.splitlines()]
    metric, value, low, high, n, n_failed, note = said[0]
    assert (metric, value, n, n_failed) == ("exact_match", pytest.approx(200 / 3), 6, 1)
    # Wilson's interval of 4 of 6.
    assert (low, high) == (pytest.approx(30.00, abs=0.01), pytest.approx(90.32, abs=0.01))
    assert note == "failed: 1 question: the student gave no answer"
    assert said[1] == "version 1, letter case ignored"
    assert said[2][:2] == ["exact_match", 50]
    assert said[3] == "version 1, letter case counts"


CONFIG = """
from typing import ClassVar, Literal
from tapir_core.config.benchmarks import MarkedBenchmark
from tapir_core.evaluation.benchmark import register
from tapir_core.evaluation.marking import Marking, Marks

class Mine(MarkedBenchmark):
    type: Literal["mine"] = "mine"
    marker: ClassVar[str] = "mine"

@register(Mine)
class MineAsked(Marking[Mine]):
    def items(self): ...
    def mark(self, answers): ...
"""


@pytest.mark.parametrize(
    ("left_out", "said"),
    [
        ('    type: Literal["mine"] = "mine"\n', "Mine lacks type; define what BenchmarkConfig says of it"),
        ('    marker: ClassVar[str] = "mine"\n', "Mine lacks marker; define what BenchmarkConfig says of it"),
        ("    def mark(self, answers): ...\n", "benchmark MineAsked does not say: mark; write these methods"),
        ("    def items(self): ...\n", "benchmark MineAsked does not say: items; write these methods"),
    ],
    ids=["type", "marker", "mark", "items"],
)
def test_what_a_benchmark_leaves_out_is_named_when_it_is_imported(left_out: str, said: str, forked: Forked) -> None:
    assert forked.python(CONFIG).returncode == 0
    done = forked.python(CONFIG.replace(left_out, ""))
    assert said in done.stderr


def test_a_kind_that_nobody_asks_is_named_with_what_to_write(forked: Forked) -> None:
    code = CONFIG.partition("@register")[0] + "from tapir_core.evaluation.benchmark import registered\n"
    done = forked.python(code + "registered()")
    assert "no benchmark is registered for the configuration class Mine; write a class" in done.stderr
    assert "under `@register(Mine)`" in done.stderr


def solve(call: RecordedCall) -> FakeReply:
    """Right where the number is even; held-out instructions are answered, too."""
    name, _, number = call.prompt.rpartition(" ")
    if name == "Which number is this:":
        return Text(number if int(number) % 2 == 0 else f"{number} indeed")
    problem = recognise(call.prompt)
    assert problem is not None
    return Text(problem.plain)


@pytest.fixture
def student() -> Iterator[FakeProvider]:
    with FakeProvider(solve) as provider:
        yield provider


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(name)} = {toml(each)}" for name, each in value.items()) + "}"
    return f"[{', '.join(map(toml, value))}]" if isinstance(value, list | tuple) else json.dumps(value)


def test_a_run_asks_it_each_round_and_reports_it(
    tmp_path: Path, student: FakeProvider, standing_prefect: StandingServer
) -> None:
    """The run stands but for its benchmark, which it only kept away from so far."""
    questions, file = tmp_path / "questions.jsonl", tmp_path / "run.toml"
    rows = ({"question": f"Which number is this: {number}", "answer": str(number)} for number in range(QUESTIONS))
    questions.write_text("\n".join(map(json.dumps, rows)))
    engine = {"type": "endpoint", "base_url": student.base_url, "model": "{checkpoint}", "api_key_env": ""}
    config = make_config(
        tmp_path / "runs",
        run={"name": "asked", "rounds": 1},
        student={"backbone": str(make_checkpoint(tmp_path / "backbone")), "engine": engine},
        evaluation={"benchmarks": {"numbers": {"questions": str(questions)}}},
    )
    sections = config.model_dump(mode="json", exclude_none=True)
    file.write_text("\n".join(f"{name} = {toml(section)}" for name, section in sections.items()))
    assert load_config(file) == config
    run = build_run("", config=config, **gather_files(config), backbone=checkpoint_digest(tmp_path / "backbone"))
    asked = ["--set", "evaluation.benchmarks.numbers.type=exact_match", "--set", 'evaluation.each_round=["numbers"]']
    command = [sys.executable, "-m", "tests.examples.tapir", "exact_match", "run", str(file), "--amend", *asked]
    environment = {**os.environ, "PREFECT_API_URL": standing_prefect.api}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    storage = run.storage
    for number in (-1, 0, 1):
        [row] = read_rows(storage, StageAt("benchmark_scores", number, benchmark="numbers").folder).to_dicts()
        assert (row["metric"], row["value"], row["n"], row["judge"]) == ("exact_match", 50, QUESTIONS, "exact match")
        assert row["low"] < 50 < row["high"]
    assert "numbers: right answers, %" in storage.read_bytes("report.html").decode()
