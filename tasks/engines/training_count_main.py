"""Count the steps and tokens of trainings; a child process, so that the driver loads no transformers.

Run as ``python -m tasks.engines.training_count_main`` by `training_count.py`: jobs as JSON on standard input, their
counts as one line of JSON on standard output.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from tapir_core.errors import TapirError
from tasks.engines.training.counting import count_training, plan_training
from tasks.engines.training.data import encode, read_conversations
from tasks.engines.training.job import TrainingCount, TrainingJob
from tasks.engines.training.student import load_tokenizer
from tasks.engines.training.told import tell_error

__all__ = ["main"]


def main(jobs: Sequence[TrainingJob]) -> int:
    """Print the counts; returns the exit code."""
    try:
        counts = [asdict(_count(job)) for job in jobs]
    except TapirError as error:
        tell_error(error)
        return 1
    print(json.dumps(counts))
    return 0


def _count(job: TrainingJob) -> TrainingCount:
    corpus = encode(load_tokenizer(job), read_conversations(job.mixture), max_length=job.training.max_length)
    return count_training(job, corpus, plan_training(job, corpus, world_size=1))


if __name__ == "__main__":
    sys.exit(main([TrainingJob.from_json(each) for each in json.load(sys.stdin)]))
