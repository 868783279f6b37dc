"""Runs whose students are asked benchmarks: the sample files, a student at an endpoint, a judge, the figures."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tapir_core.run_folder import RunFolder
from tapir_core.stages import StageAt
from tapir_core.standin.families import recognise
from tapir_core.standin.family import Problem
from tasks.engines.backbone import checkpoint_digest
from tasks.input_files import gather_files
from tests.doubles.provider import FakeProvider, FakeReply, RecordedCall, Text
from tests.doubles.standin import StandinServer
from tests.run_builder import build_run
from tests.run_config import make_config

__all__ = [
    "ALPACA",
    "HELDOUT",
    "MT_BENCH",
    "MT_BENCH_ANSWERS",
    "QUESTIONS",
    "SAMPLES",
    "VICUNA",
    "Student",
    "figures",
    "judge",
    "make_run",
]

SAMPLES = Path(__file__).parents[1] / "configs" / "benchmarks"
QUESTIONS = 20
HELDOUT = 20
ALPACA = {
    "type": "alpaca_eval",
    "questions": str(SAMPLES / "alpaca_eval.json"),
    "baseline": str(SAMPLES / "alpaca_eval_baseline.json"),
}
MT_BENCH = {
    "type": "mt_bench",
    "questions": str(SAMPLES / "mt_bench_question.jsonl"),
    "references": str(SAMPLES / "mt_bench_reference.jsonl"),
}
MT_BENCH_ANSWERS = str(SAMPLES / "mt_bench_answers.jsonl")
"""Of a model, in FastChat's form."""
VICUNA = {
    "type": "vicuna",
    "questions": str(SAMPLES / "vicuna_question.jsonl"),
    "baseline": str(SAMPLES / "vicuna_baseline.jsonl"),
}


class Student:
    """Answers every instruction of the stand-in, in one way."""

    def __init__(self) -> None:
        self.say: Callable[[Problem], str] = lambda problem: problem.plain

    def __call__(self, call: RecordedCall) -> FakeReply:
        problem = recognise(call.prompt)
        assert problem is not None
        return Text(self.say(problem))


def judge(server: StandinServer, identity: str = "i") -> dict[str, Any]:
    return {
        "type": "openai",
        "base_url": server.base_url,
        "model": "standin-judge",
        "identity": identity,
        "api_key_env": "",
    }


def make_run(
    root: Path,
    backbone: Path,
    student: FakeProvider,
    each_round: Sequence[str] = (),
    name: str = "asked",
    concurrency: int = 64,
    **benchmarks: dict[str, Any],
) -> RunFolder:
    """A finished run whose student answers at an endpoint; ``concurrency`` is that of the calls to either side."""
    engine = {
        "type": "endpoint",
        "base_url": student.base_url,
        "model": "{checkpoint}",
        "api_key_env": "",
        "concurrency": concurrency,
    }
    config = make_config(
        root,
        run={"name": name},
        data={"pool": {"type": "standin", "rows": 240}, "heldout": {"type": "standin", "dev": 10, "test": 10}},
        student={"backbone": str(backbone), "engine": engine},
        evaluation={
            "benchmarks": benchmarks,
            "each_round": list(each_round),
            "decontamination": {"max_rouge_l": 1.0},
        },
        calls={
            "concurrency": concurrency,
            "shard_retry_seconds": 0.0,
            "backoff_seconds": 0.01,
            "max_backoff_seconds": 0.05,
            "rows_per_shard": 8,
        },
    )
    return build_run(root, config=config, **gather_files(config), backbone=checkpoint_digest(backbone))


def figures(run: RunFolder, name: str, number: int = 0) -> dict[str, dict[str, Any]]:
    """The figures of category `all`, by metric."""
    rows = run.rows(StageAt("benchmark_scores", number, benchmark=name)).filter(category="all")
    return {row["metric"]: row for row in rows.iter_rows(named=True)}
