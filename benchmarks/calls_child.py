"""What each side of `calls.py` shares: its job, the prompts, and the talk with the process that measures it.

A side is a script that is run as ``python calls_NAME.py JOB.json`` in its own environment: imports first, then
``serve(ask, package)``. Standard library only, for every environment runs it. Around the timed part the side waits for
a line, so that the parent can look at processor time and memory of the whole session while all of it is alive.
"""

import json
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TextIO

MODEL = "gpt-4o-mini"
"""A name that curator's price table knows; the server answers to any."""
API_KEY = "none-needed"
MAX_TOKENS = 512

WORDS = (
    "river", "number", "sorting", "moon", "bread", "chess", "glacier", "train", "paper", "violin", "clock", "salt",
    "bridge", "garden", "window", "market", "letter", "engine", "winter", "island", "careful", "quiet", "narrow",
    "early", "open", "carries", "turns", "holds", "follows", "measures", "before", "against", "through", "beside",
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    """What a side is asked to do."""

    base_url: str
    rows: int
    concurrency: int
    seed: int
    words: int
    """Of a prompt, about."""
    folder: str
    """Where it may write; empty at the start."""


def make_prompts(job: Job) -> list[str]:
    """Prompts that begin with their row's number, which the server repeats in its answer."""
    rng = random.Random(job.seed)
    return [f"Question {row}. " + " ".join(rng.choices(WORDS, k=job.words)) + "." for row in range(job.rows)]


def serve(ask: Callable[[Job, list[str]], Sequence[str | None]], package: str) -> None:
    """Answer one job with ``ask`` of ``package``: prompts in, the texts of the answers out, in any order."""
    parent = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a side prints goes to its log
    job = Job(**json.loads(Path(sys.argv[1]).read_text()))
    prompts = make_prompts(job)
    _tell_and_wait(parent, "ready")
    began = time.perf_counter()
    texts = ask(job, prompts)
    seconds = time.perf_counter() - began
    _tell_and_wait(parent, "done")
    result = {"seconds": seconds, "answered": count_answered(job, texts), "version": version(package)}
    parent.write(json.dumps(result) + "\n")


def count_answered(job: Job, texts: Sequence[str | None]) -> int:
    """How many rows have the answer that is theirs."""
    numbers = {text.split(":", 1)[0] for text in texts if text}
    return sum(f"Question {row}" in numbers for row in range(job.rows))


def _tell_and_wait(parent: TextIO, word: str) -> None:
    parent.write(word + "\n")
    sys.stdin.readline()
