"""How many tokens and steps trainings would take, before any of them: asked of a child, which loads the tokenizer."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tapir_core.errors import EngineError
from tasks.engines.endpoints import keyless_environment
from tasks.engines.training.job import TrainingCount, TrainingJob
from tasks.engines.training.told import told_error

__all__ = ["count_trainings"]


def count_trainings(jobs: Sequence[TrainingJob]) -> list[TrainingCount]:
    """What ``training.json`` of each job will say of examples, steps and tokens; reads bases and mixtures, no more.

    Raises:
        ConfigError: a base or a mixture cannot be trained with, as `train_student` would say.
        EngineError: the count failed.
    """
    env = keyless_environment() | {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "tasks.engines.training_count_main"],
        input=json.dumps([job.to_json() for job in jobs]),
        env=env,
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        last = "\n".join(f"  {line}" for line in done.stderr.strip().splitlines()[-8:])
        raise told_error(done.stderr) or EngineError(f"the tokens of a training could not be counted:\n{last}")
    return [TrainingCount(**each) for each in json.loads(done.stdout.splitlines()[-1])]
