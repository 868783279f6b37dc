"""A run that went on without some verdicts: what `retry-judge` is there for."""

from pathlib import Path

from tapir_core.calls.fakes import FakeProvider
from tapir_core.data.dataset import write_part
from tapir_core.run_folder import RunFolder
from tapir_core.stages import StageAt
from tasks.engines.backbone import checkpoint_digest
from tests.run_builder import build_run
from tests.run_config import make_config
from tests.students import make_checkpoint

__all__ = ["JUDGE", "MISSING", "make_run_with_gaps"]

JUDGE = StageAt("judge", 1)
"""The stage with the gaps; the last one that is done."""
MISSING = 7


def make_run_with_gaps(
    root: Path | str, backbone: Path, judge: FakeProvider, *, api_key_env: str = "", **sections: object
) -> RunFolder:
    """A run without `MISSING` verdicts of its first round, which ``judge`` can give."""
    make_checkpoint(backbone)
    endpoint = {"type": "openai", "base_url": judge.base_url, "model": "m", "identity": "i", "api_key_env": api_key_env}
    config = make_config(root, student={"backbone": str(backbone)}, judge={"endpoint": endpoint}, **sections)
    run = build_run(root, until=JUDGE, config=config, backbone=checkpoint_digest(backbone))
    part = write_part(run.storage, JUDGE.folder, run.rows(JUDGE).head(-MISSING))
    run.seal(JUDGE, [part], accepted_missing={"server": MISSING})
    return run
