"""The sample files of `configs/benchmarks` as parts of a configuration: 20 questions that the stand-in can judge."""

from pathlib import Path
from typing import Any

__all__ = ["ALPACA", "MT_BENCH", "QUESTIONS", "SAMPLES", "VICUNA"]

SAMPLES = Path(__file__).parents[1] / "configs" / "benchmarks"

QUESTIONS = 20
"""Of each benchmark; MT-Bench asks two turns of each."""

ALPACA: dict[str, Any] = {
    "type": "alpaca_eval",
    "questions": str(SAMPLES / "alpaca_eval.json"),
    "baseline": str(SAMPLES / "alpaca_eval_baseline.json"),
}
MT_BENCH: dict[str, Any] = {
    "type": "mt_bench",
    "questions": str(SAMPLES / "mt_bench_question.jsonl"),
    "references": str(SAMPLES / "mt_bench_reference.jsonl"),
    "baseline": str(SAMPLES / "mt_bench_baseline.jsonl"),
    "modes": ["single", "pairwise"],
}
VICUNA: dict[str, Any] = {
    "type": "vicuna",
    "questions": str(SAMPLES / "vicuna_question.jsonl"),
    "baseline": str(SAMPLES / "vicuna_baseline.jsonl"),
}
