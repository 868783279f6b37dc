"""A run whose student is trained and waits to be promoted: what a trainer leaves, without training."""

import json
from dataclasses import asdict
from pathlib import Path

from tapir_core.paths import attempt_folder
from tapir_core.run_folder import RunFolder
from tapir_core.stages import StageAt
from tasks.engines.backbone import checkpoint_digest
from tasks.engines.training.launch import Attempt, TrainingSummary
from tests.run_builder import build_run
from tests.run_config import make_config
from tests.students import make_checkpoint

__all__ = ["make_trained_run"]

AT = StageAt("train", 0)


def make_trained_run(root: Path) -> RunFolder:
    """A run before S_0, with the attempt of a trainer that has ended."""
    backbone = make_checkpoint(root / "backbone")
    config = make_config(root / "runs", student={"backbone": str(backbone)})
    run = build_run(root / "runs", until=StageAt("mix", 0), config=config, backbone=checkpoint_digest(backbone))
    key = run.key(AT)
    assert key is not None
    attempt = Attempt(run.workplace.local(attempt_folder(0, key)))
    attempt.checkpoint.mkdir(parents=True)
    (attempt.checkpoint / "model.safetensors").write_bytes(b"weights")
    summary = TrainingSummary(4, 8, 1.0, 32, 0, 900, 2000, 0.1, 8.0, 250.0, 1.5, [], 1, "cpu", "fp32", 2, [], {})
    attempt.summary_file.write_text(json.dumps(asdict(summary)))
    return run
