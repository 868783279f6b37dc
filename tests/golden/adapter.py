"""All that the recorded keys and rows need to know of TAPIR's inside: a rebuilding points this module at the new parts.

Its doors: `keys_of` a configuration, or `stage_keys_of` it (and `stages_in_none`), `drive` a run to its end on fakes,
`rows_of` the run. What comes out of them is recorded and must stay.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from flows.distill import distill, evaluate_students
from flows.driver import hold_run
from tapir_core.calls import UNWATCHED, Answer, Outcome, Request, Watch, timing
from tapir_core.config import SHIPPED, RunConfig
from tapir_core.data.dataset import DatasetRef, Part, read_manifest, read_rows, write_part
from tapir_core.paths import MANIFEST, RUN_RECORD
from tapir_core.prompts import PROMPT_NAMES, load_prompt
from tapir_core.run_folder import RunFolder, open_run
from tapir_core.stages import STAGES, Compared, Stage, StageAt, asked_apart, plan, stage_key, with_steps
from tapir_core.storage import file_sha256
from tapir_core.text import digest
from tasks._task import work_of
from tasks.engines.verifier import source_digest
from tasks.outcomes import Piece, ShardOutcome
from tasks.runtime import close_all, current
from tests.golden.fakes import replace_trainer, train
from tests.students import make_checkpoint

__all__ = ["drive", "keys_of", "rows_of", "stage_keys_of", "stages_in_none"]

RUN_ID = "5eed" * 8
EXAMPLES: dict[str, list[dict[str, Any]]] = json.loads((Path(__file__).parent / "examples.json").read_text())
"""Stage → its rows in the run whose requests are recorded."""


def keys_of(config: RunConfig, folder: Path) -> dict[str, str]:
    """Key, inputs and ingredients of every stage of a configuration, and the keys of what its examples ask.

    A key here covers the folders of a stage's inputs in place of their digests: what changes in one stage stays in it.
    """
    prompts = {f"prompt:{name}": load_prompt(name, config.run.prompts).version for name in PROMPT_NAMES}
    run = _example_run(config, folder, prompts)
    return stage_keys_of(config, prompts) | {
        f"requests of {at.folder}": ", ".join(keys) or "none" for at, keys in _requests(run)
    }


def stage_keys_of(config: RunConfig, prompts: dict[str, str]) -> dict[str, str]:
    """Key, inputs and ingredients of every stage of a configuration; ``prompts`` are versions by ingredient."""
    found = {}
    for at in _stages(config):
        inputs = [each.folder for each in at.stage.reads(config, at)]
        made_of = at.stage.files(config, at)
        ingredients = {name: digest(name) for name in made_of if name not in _unset(config)} | prompts
        found[f"key of {at.folder}"] = stage_key(at, config, ingredients, RUN_ID, inputs)[:16]
        found[f"inputs of {at.folder}"] = ", ".join(inputs) or "none"
        found[f"ingredients of {at.folder}"] = ", ".join(made_of) or "none"
    return found


def stages_in_none(configs: Iterable[RunConfig]) -> set[str]:
    """Names of the stages whose keys none of the configurations has."""
    return STAGES.keys() - {at.name for config in configs for at in _stages(config)}


def _unset(config: RunConfig) -> set[str]:
    """Ingredients that stages name and a run of this configuration does not have."""
    has = {
        "file:pool": not config.data.pool.generated,
        "file:heldout": config.data.heldout is not None and bool(config.data.heldout.files),
        "file:chat_template": config.student.chat_template is not None,
        "file:verifier": config.judge.verifier is not None and config.judge.verifier.function not in SHIPPED,
    }
    return {name for name, there in has.items() if not there}


def drive(
    config: RunConfig,
    monkeypatch: pytest.MonkeyPatch,
    *,
    compared: Sequence[Compared] = (),
    benchmarks: Sequence[str] = (),
) -> RunFolder:
    """A run from its beginning to its end, with a fixed id and a fake trainer; then ``benchmarks`` of ``compared``."""
    replace_trainer(monkeypatch, train)
    with hold_run(config, say=lambda _: None) as run:
        record = json.loads(run.storage.read_bytes(RUN_RECORD))
        run.storage.write_bytes(RUN_RECORD, json.dumps({**record, "id": RUN_ID}).encode())
    with hold_run(config, say=lambda _: None) as run:
        distill(run.ref)
    if compared:
        with hold_run(config, say=lambda _: None) as run:
            evaluate_students(run.ref, list(compared), list(benchmarks))
    return run


def rows_of(run: RunFolder) -> Iterator[tuple[str, str, list[str]]]:
    """Folder of every dataset of a run, what its manifest says, and its rows in their order.

    A checkpoint's one row is its weights, which hold the training job. What the clock says is left out.
    """
    for path in run.storage.files():
        folder, _, name = path.rpartition("/")
        if name != MANIFEST:
            continue
        manifest = read_manifest(run.storage, folder)
        assert manifest is not None
        counts = {
            name: count
            for name, count in manifest.counts.items()
            if name != "seconds" and not name.startswith(timing.PREFIX)
        }
        facts = {"dataset": folder, "key": manifest.key, "counts": counts, "missing": manifest.accepted_missing}
        if manifest.columns:
            table = read_rows(run.storage, folder)
            if manifest.parts:
                _check_types(table, STAGES[manifest.stage])
            rows = [_line(row) for row in table.iter_rows(named=True)]
        else:
            rows = [run.storage.read_bytes(f"{folder}/model.safetensors").decode()]
        yield folder, json.dumps(facts, ensure_ascii=False, sort_keys=True), rows


def _check_types(table: pl.DataFrame, stage: Stage) -> None:
    """A table has the types that its stage declares."""
    declared = stage.columns | {name: of for name, of in stage.some_have.items() if name in table.columns}
    assert dict(table.schema) == dict(declared), f"{stage.name}: declare what its rows have, or cast them"


def _line(row: dict[str, Any]) -> str:
    # Nine digits: the last ones of a sum go by the processor.
    return json.dumps({name: round(v, 9) if isinstance(v, float) else v for name, v in row.items()}, ensure_ascii=False)


def _stages(config: RunConfig) -> Iterator[StageAt]:
    """Every stage that a run of this configuration may do, with two waves a round; inputs come first."""
    for at in plan(config):
        if at.name == "refine":
            yield StageAt("draw", at.round)
        yield from with_steps(config, at, range(1, min(config.curriculum.expansion.max_waves, 2) + 1))
    yield from asked_apart(config)


def _example_run(config: RunConfig, folder: Path, prompts: dict[str, str]) -> RunFolder:
    backbone = make_checkpoint(folder / "backbone")
    placed = {"run": {"root": str(folder)}, "student": {"backbone": str(backbone)}}
    changed = {name: getattr(config, name).model_copy(update=fields) for name, fields in placed.items()}
    verifier = config.judge.verifier
    module = {"file:verifier": source_digest(verifier)} if verifier and verifier.source else {}
    return open_run(config.model_copy(update=changed), prompts | module)


def _requests(run: RunFolder) -> Iterator[tuple[StageAt, list[str]]]:
    """The requests of each asking stage, where it is done first: role, sample index above 0, store key.

    What a stage reads are the rows of `EXAMPLES`, and every checkpoint has the same files.
    """
    stages, config = list(_stages(run.config)), run.config
    todo = {at.name for at in stages if _asks(config, at)}
    # What is found of inputs stays true: they are complete before what reads them.
    seen: dict[StageAt, DatasetRef | None] = {}
    try:
        current(run)._calls = recorder = _Recorder()  # type: ignore[assignment]
        for at in stages:
            if at.name in todo and _asks(config, at):
                todo.remove(at.name)
                _work(run, at)
                yield at, sorted(_named(each, run.ref.root) for each in recorder.take())
            if not todo:
                break
            if at.stage.inner:  # it follows from the rows before it
                work_of(config, at).task.fn(run.ref, at)
                continue
            run.seal(at, _checkpoint(run, at) if not at.stage.columns else [_rows(run, at)], seen=seen)
    finally:
        close_all()


def _asks(config: RunConfig, at: StageAt) -> bool:
    """Whether a model is asked: a model's file holds answers, and lm-evaluation-harness marks them itself."""
    return at.model is None and work_of(config, at).in_shards and bool(at.stage.asks)


def _work(run: RunFolder, at: StageAt) -> None:
    """All rows of a stage, outside of any flow."""
    task = work_of(run.config, at).task
    if not at.stage.shards_of:
        task.fn(run.ref, at, Piece(0, 1, 0, 99))
        return
    manifest = run.manifest(replace(at, name=at.stage.shards_of))
    assert manifest is not None
    task.fn(run.ref, at, Piece(0, 1), ShardOutcome(manifest.parts[0]))


def _named(request: Request, root: str) -> str:
    """An endpoint's model name may hold the place of its checkpoint, which is another one in each test."""
    key = replace(request, model=request.model.replace(root, "ROOT")).key[:16]
    return f"{request.role} {key}" if request.sample_index == 0 else f"{request.role}#{request.sample_index} {key}"


def _rows(run: RunFolder, at: StageAt) -> Part:
    assert at.name in EXAMPLES, f"give stage {at.name!r} a row or two in tests/golden/examples.json"
    rows = pl.DataFrame(EXAMPLES[at.name])
    if at.benchmark and run.config.evaluation.asked[at.benchmark].type != "mt_bench":
        rows = rows.filter(turn=1) if "turn" in rows.columns else rows
    empty = [
        pl.col(name).cast(pl.Float64 if name == "mfd" else pl.String)
        for name in rows.columns
        if rows[name].dtype == pl.Null
    ]
    return write_part(run.storage, at.folder, rows.with_columns(empty))


def _checkpoint(run: RunFolder, at: StageAt) -> list[Part]:
    files = sorted(make_checkpoint(run.storage.local(at.folder)).iterdir())
    return [Part(file.name, 0, file_sha256(file)) for file in files]


class _Recorder:
    """In the place of the call engine: keeps what is asked, and gives every request one answer.

    It is a task type and no score, so that labels are read at once, and all else is asked again.
    """

    def __init__(self) -> None:
        self._asked: list[Request] = []

    def ask(
        self,
        requests: Sequence[Request],
        _source: object,
        watch: Watch = UNWATCHED,
    ) -> list[Outcome]:
        self._asked += requests
        outcomes: list[Outcome] = [Answer("Math", "stop", 1, 1) for _ in requests]
        for place, outcome in enumerate(outcomes):
            watch.on_outcome(place, outcome)
        return outcomes

    def take(self) -> list[Request]:
        """What was asked since the last time."""
        taken, self._asked = self._asked, []
        return taken

    def close(self) -> None:
        """Nothing to end."""
