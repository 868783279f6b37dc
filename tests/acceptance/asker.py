"""Asks the rows of `workload` in a process of its own, which a test can kill: `python -m tests.acceptance.asker`.

Writes one ``[status, text]`` a row, in their order: ``answer`` with the text, or the failure's kind with its message.
For verdicts the text is the two scores as parsed.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from tapir_core.calls import Answer, AnswerStore, CallEngine, Endpoint, Outcome, Request, ask_read
from tapir_core.config import CallsConfig
from tapir_core.config.run import RetriesConfig
from tapir_core.judging.verdict import PairReply
from tests.acceptance.workload import judge_requests, teacher_requests


def main() -> int:
    """Ask, say ``asking`` when the first call may be made, write the rows."""
    given = _parser().parse_args()
    config = CallsConfig(
        concurrency=given.concurrency,
        timeout_seconds=given.timeout_seconds,
        max_attempts=given.max_attempts,
        backoff_seconds=0.1,
        max_backoff_seconds=1.0,
        retries=RetriesConfig(timeout=10, server=12),
    )
    judging = given.what == "judge"
    requests = judge_requests() if judging else teacher_requests()
    with CallEngine(AnswerStore(given.store), config, run="acceptance") as engine:
        print("asking", flush=True)
        endpoint = Endpoint(given.base_url, given.concurrency)
        rows = (_verdicts if judging else _answers)(engine, requests, endpoint)
    given.out.write_text(json.dumps(rows))
    return 0


def _answers(engine: CallEngine, requests: Sequence[Request], endpoint: Endpoint) -> list[tuple[str, str]]:
    return [_row(outcome) for outcome in engine.ask(requests, lambda: endpoint)]


def _verdicts(engine: CallEngine, requests: Sequence[Request], endpoint: Endpoint) -> list[tuple[str, str]]:
    parsed = ask_read(
        engine, requests, lambda: endpoint, lambda _, answer: PairReply.scores_in_text(answer.text), reasks=1
    )
    return [
        ("scored", f"{each.value[0]:g}, {each.value[1]:g}") if each.value else _row(each.outcome) for each in parsed
    ]


def _row(outcome: Outcome) -> tuple[str, str]:
    return ("answer", outcome.text) if isinstance(outcome, Answer) else (outcome.kind, outcome.message)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["teach", "judge"])
    parser.add_argument("--store", required=True)
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--timeout-seconds", type=float, default=3.0)
    parser.add_argument("--max-attempts", type=int, default=12)
    return parser


if __name__ == "__main__":
    sys.exit(main())
