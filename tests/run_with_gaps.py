"""A run that went on without some verdicts: what `retry-judge` is there for."""

from pathlib import Path

from tapir_core.calls import Answer, AnswerStore, store_url
from tapir_core.calls.wire import Reply
from tapir_core.data.dataset import write_part
from tapir_core.run_folder import RunFolder
from tapir_core.stages import StageAt
from tasks.engines.backbone import checkpoint_digest
from tasks.judge import asked_for
from tasks.runtime import close_all
from tests.doubles.provider import FakeProvider
from tests.run_builder import build_run
from tests.run_config import make_config
from tests.students import make_checkpoint

__all__ = ["JUDGE", "MISSING", "make_run_with_gaps", "store_verdicts"]

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
    store_verdicts(run, JUDGE)
    return run


def store_verdicts(run: RunFolder, at: StageAt) -> None:
    """Put replies to all verdicts of a built run into the store, where a run that was really judged has them."""
    with AnswerStore(store_url(run.config)) as store:
        for request in asked_for(run, at, run.rows(at)):
            store.put(request.key, request, Reply(Answer("Scores: [[4, 7]]", "stop", 10, 5))).result()
    close_all()
